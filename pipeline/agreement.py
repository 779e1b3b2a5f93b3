"""What the parties agreed, as a value with every default filled in.

Its canonical form is plain JSON values. The digest is over that form, so it
does not see spelling, the order of keys or of [[party]] tables, whether a
number is written 1 or 1.0, or where a certificate lies. The order of a list
(columns, levels, identifiers) has a meaning and counts.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Literal, cast
from urllib.parse import urlsplit

from pipeline.errors import ConfigError
from pipeline.pins import fingerprint

Role = Literal["controller", "third-party"]
Kind = Literal["numeric", "category"]
Keys = Literal["standard", "subgroup"]
ModelKind = Literal["lasso", "elastic-net", "ridge", "ols"]
Rule = Literal["min", "1se", "aic", "bic"]
OpenedPart = Literal["chosen", "path"]
RareLevels = Literal["refuse", "drop"]

HTTPS_PORT = 443
MAX_CANONICAL_BYTES = 4 << 20  # of an agreement from a peer
MAX_DEPTH = 6  # of its JSON; ours has 5


@dataclass(frozen=True)
class Column:
    """A feature of the model as its controller's table has it."""

    party: str
    column: str
    kind: Kind
    levels: tuple[str, ...] = ()  # of a category; the first is the reference
    range: tuple[float, float] | None = None  # of a numeric column, if declared
    unit: str = ""  # of a numeric column, if declared

    @property
    def name(self) -> str:
        """What the study calls it: hospital.smoker."""
        return f"{self.party}.{self.column}"

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its coefficients, in order."""
        if self.kind == "numeric":
            return (self.name,)
        return tuple(f"{self.name}={level}" for level in self.levels[1:])


@dataclass(frozen=True)
class Party:
    """One [[party]] of the agreement; the third party has no columns."""

    id: int
    name: str
    role: Role
    url: str  # https, host in lower case, explicit port, no slash at the end
    certificates: tuple[bytes, ...]  # DER
    identifier: tuple[str, ...] = ()
    identifier_pattern: tuple[str, ...] = ()  # empty, or one for each identifier column
    features: tuple[str, ...] = ()
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    outcome: str | None = None
    units: Mapping[str, str] = field(default_factory=dict)  # of numeric columns, for the reader of a result
    certificate_files: tuple[Path, ...] = field(default=(), compare=False)  # no part of what is agreed

    @property
    def address(self) -> tuple[str, int]:
        """Host, without brackets, and port of the url."""
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or HTTPS_PORT

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """SHA-256 of each certificate, in hex, sorted."""
        return tuple(sorted(fingerprint(certificate) for certificate in self.certificates))

    @property
    def columns(self) -> tuple[Column, ...]:
        """Numeric features as listed, then categories by column name; not the outcome.

        A list has an order and a TOML table has none, so the order in which
        categories are written says nothing.
        """
        numeric = (
            Column(self.name, c, "numeric", range=self.ranges.get(c), unit=self.units.get(c, "")) for c in self.features
        )
        categories = (Column(self.name, c, "category", levels) for c, levels in sorted(self.categories.items()))
        return (*numeric, *categories)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all coefficients of this party, in order."""
        return tuple(name for column in self.columns for name in column.names)

    @property
    def width(self) -> int:
        """The number of encoded columns this party brings; its outcome, if any, is the last."""
        return len(self.names) + (self.outcome is not None)


@dataclass(frozen=True)
class Study:
    """keep_shares : each party keeps its Shamir shares of the matched table, to be analysed again.
    keep_until : the last day on which kept shares are used.
    max_analyses : of one join, refused ones included.
    revision : rises when a controller's table has changed and the study is joined anew.
    """

    name: str
    min_records: int = 50
    keep_shares: bool = False
    keep_until: date | None = None
    max_analyses: int = 20
    revision: int = 1


@dataclass(frozen=True)
class Join:
    paillier_bits: int = 3072
    keys: Keys = "standard"  # what the other kind costs and gives is in `docs/threat-model.md`


FACTOR_RANGE_BITS = 24  # of n_alphas: penalty factors above 0 are within 2^24 of one another


@dataclass(frozen=True)
class Model:
    """The parameters of the model; their meaning is in `docs/model.md`.

    alpha : 0 for "ols", and where there are several penalties.
    alphas : penalties to choose from, the largest first; empty unless listed.
    n_alphas : so many penalties to choose from, in a geometric sequence from the smallest that removes everything
        penalised; 0 unless given.
    alpha_min_ratio : the smallest of these over the largest; None: 1e-4, or 0.01 with fewer records than features.
    folds : of the cross-validation; 0 for none.
    rule : how one of several penalties is chosen, "min" and "1se" by cross-validation; None with a single penalty
        and no folds.
    features : names of the coefficients that take part, all if empty.
    l1_ratio : part of the penalty that is the lasso's; 1 for "lasso" and "ols", 0 for "ridge".
    penalty_factors : by name of a coefficient, or of a category for all its levels; 1 for the others.
    """

    alpha: float
    kind: ModelKind = "lasso"
    l1_ratio: float = 1.0
    penalty_factors: Mapping[str, float] = field(default_factory=dict)
    positive: bool = False
    standardize: bool = True
    fit_intercept: bool = True
    tolerance: float = 1e-6
    max_iterations: int = 1000
    alphas: tuple[float, ...] = ()
    n_alphas: int = 0
    alpha_min_ratio: float | None = None
    folds: int = 0
    rule: Rule | None = None
    features: tuple[str, ...] = ()

    @property
    def problems(self) -> int:
        """How many penalties there are."""
        return len(self.alphas) or self.n_alphas or 1

    def factors(self, names: Sequence[str]) -> tuple[float, ...]:
        """The penalty factors of coefficients; that of a level comes before that of its category."""
        of_column = (self.penalty_factors.get(name.partition("=")[0], 1.0) for name in names)
        return tuple(self.penalty_factors.get(name, of) for name, of in zip(names, of_column, strict=True))


@dataclass(frozen=True)
class Open:
    """What is opened to the controllers besides the model; `docs/leakage.md` says what each tells.

    model : the chosen model, or those of all penalties.
    cv_curve : mean and standard deviation of the cross-validated errors, for each penalty.
    cv_r2 : the cross-validated R² of the chosen penalty.
    standard_errors : of least squares.
    table1 : means and standard deviations of all columns over the matched records.
    refused_column : which columns a refusal for spread or rare levels is about.
    """

    model: OpenedPart = "chosen"
    cv_curve: bool = False
    cv_r2: bool = False
    standard_errors: bool = False
    table1: bool = False
    refused_column: bool = False


@dataclass(frozen=True)
class Gate:
    """Rules that are tested on shares before anything is opened; None switches one off.

    What they are for is in `docs/disclosure-control.md`.

    min_residual_df : records minus parameters, at least.
    max_parameters_ratio : parameters (coefficients that are not zero, and the intercept) per record, at most.
    min_level_count : matched records in each level of each category, and of each column with two values.
    rare_levels : what happens with a level that has fewer.
    max_r2 : in-sample.
    """

    min_residual_df: int | None = 10
    max_parameters_ratio: float | None = 0.33
    min_level_count: int | None = 10
    rare_levels: RareLevels = "refuse"
    max_r2: float | None = 0.999


@dataclass(frozen=True)
class Agreement:
    """What all parties agreed, defaults filled in; `parties` are sorted by id."""

    study: Study
    parties: tuple[Party, ...]
    join: Join
    model: Model
    open: Open = field(default_factory=Open)
    gate: Gate = field(default_factory=Gate)

    def party(self, party_id: int) -> Party:
        """Raises ConfigError when nobody has this number."""
        for party in self.parties:
            if party.id == party_id:
                return party
        numbers = ", ".join(f"{party.id} ({party.name})" for party in self.parties)
        raise ConfigError(f"party {party_id} is not in the agreement; its parties are {numbers}")

    @property
    def analyses(self) -> int:
        """How many analyses of one join are admitted."""
        return self.study.max_analyses if self.study.keep_shares else 1

    @property
    def controllers(self) -> tuple[Party, ...]:
        return tuple(party for party in self.parties if party.role == "controller")

    @property
    def third_party(self) -> Party:
        return next(party for party in self.parties if party.role == "third-party")

    @property
    def outcome_party(self) -> Party:
        return next(party for party in self.parties if party.outcome is not None)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all coefficients, controllers by id."""
        return tuple(name for party in self.controllers for name in party.names)

    @property
    def analysed_names(self) -> tuple[str, ...]:
        """Those of `names` that take part in the model, in the same order."""
        chosen = set(self.model.features)
        return tuple(
            name
            for party in self.controllers
            for column in party.columns
            for name in column.names
            if not chosen or name in chosen or column.name in chosen
        )

    @property
    def opened(self) -> Open:
        """What of `open` this model has: where shares are kept, `open` is agreed for all models of a join."""
        several, folds = self.model.problems > 1, self.model.folds > 0
        return replace(
            self.open,
            model=self.open.model if several else "chosen",
            cv_curve=self.open.cv_curve and folds,
            cv_r2=self.open.cv_r2 and folds,
            standard_errors=self.open.standard_errors and self.model.kind == "ols",
        )

    def canonical(self) -> dict[str, object]:
        """The agreement as plain JSON values: what is hashed, and exchanged when digests differ."""
        return {
            "study": _canonical_study(self.study),
            "party": [_canonical_party(party) for party in self.parties],
            "join": asdict(self.join),
            "model": _canonical_model(self.model),
            "open": asdict(self.open),
            "gate": asdict(self.gate),
        }

    @property
    def digest(self) -> str:
        """SHA-256, in hex, of the canonical JSON."""
        return _digest(self.canonical())

    @property
    def join_digest(self) -> str:
        """Like `digest`, without the model: what kept shares are bound to, for they may serve several models."""
        tables = self.canonical()
        del tables["model"]
        return _digest(tables)


def canonical_json(value: object) -> bytes:
    """One spelling for one content: keys sorted, no spaces, UTF-8; floats as Python writes them."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def _digest(tables: Mapping[str, object]) -> str:
    return hashlib.sha256(canonical_json(tables)).hexdigest()


def _canonical_study(study: Study) -> dict[str, object]:
    until = study.keep_until
    return asdict(study) | {"keep_until": None if until is None else until.isoformat()}


def _canonical_model(model: Model) -> dict[str, object]:
    several = model.problems > 1
    return {
        "kind": model.kind,
        "alpha": None if several else model.alpha,
        "alphas": list(model.alphas),
        "n_alphas": model.n_alphas,
        "alpha_min_ratio": model.alpha_min_ratio,
        "folds": model.folds,
        "rule": model.rule,
        "l1_ratio": model.l1_ratio,
        "penalty_factors": dict(sorted(model.penalty_factors.items())),
        "features": list(model.features),
        "positive": model.positive,
        "standardize": model.standardize,
        "fit_intercept": model.fit_intercept,
        "tolerance": model.tolerance,
        "max_iterations": model.max_iterations,
    }


def _canonical_party(party: Party) -> dict[str, object]:
    return {
        "id": party.id,
        "name": party.name,
        "role": party.role,
        "url": party.url,
        "certificate": list(party.fingerprints),
        "identifier": list(party.identifier),
        "identifier_pattern": list(party.identifier_pattern),
        "features": list(party.features),
        "categories": {column: list(levels) for column, levels in party.categories.items()},
        "ranges": {column: list(bounds) for column, bounds in party.ranges.items()},
        "outcome": party.outcome,
        "units": dict(sorted(party.units.items())),
    }


def parse_canonical(data: bytes) -> dict[str, object]:
    """Read the canonical agreement of a peer. Raises ValueError."""
    if len(data) > MAX_CANONICAL_BYTES:
        raise _malformed()
    try:
        value = json.loads(data.decode(), parse_constant=_no_constant, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise _malformed() from None
    if not isinstance(value, dict):
        raise _malformed()
    return value


def differences(mine: Mapping[str, object], theirs: object) -> list[str]:
    """Name the keys in which two canonical agreements differ: "model.alpha", "party hospital: features".

    `theirs` is a peer's: its values and names are compared and never shown.
    Raises ValueError when it is no canonical agreement.
    """
    _check_json(theirs, MAX_DEPTH)
    theirs = _table(theirs)
    found = [] if mine.keys() == theirs.keys() else ["the kinds of tables (are the versions the same?)"]
    for section in ("study", "party", "join", "model", "open", "gate"):
        if section == "party":
            found += _party_differences(_by_id(mine.get(section)), _by_id(theirs.get(section)))
        else:
            found += _differing(_table(mine.get(section)), _table(theirs.get(section)), f"{section}.")
    return found


def _party_differences(
    mine: Mapping[int, Mapping[str, object]], theirs: Mapping[int, Mapping[str, object]]
) -> list[str]:
    found = []
    for number in sorted(mine.keys() | theirs.keys()):
        if number in mine and number in theirs:
            found += _differing(mine[number], theirs[number], f"party {mine[number]['name']}: ")
        else:
            found.append(f"party {mine[number]['name'] if number in mine else number}")
    return found


def _differing(mine: Mapping[str, object], theirs: Mapping[str, object], at: str) -> list[str]:
    keys = [*mine, *sorted(theirs.keys() - mine.keys())]
    return [at + _shown(key) for key in keys if _text(mine, key) != _text(theirs, key)]


def _text(table: Mapping[str, object], key: str) -> str | None:
    # Through JSON, for Python holds 1, 1.0 and True to be equal.
    return json.dumps(table[key], sort_keys=True) if key in table else None


def _shown(key: str) -> str:
    return key if re.fullmatch("[a-z][a-z0-9_]{0,29}", key) else "a key that is unknown here"


def _by_id(parties: object) -> dict[int, Mapping[str, object]]:
    if not isinstance(parties, list):
        raise _malformed()
    tables = [_table(party) for party in parties]
    numbers = [table.get("id") for table in tables]
    if any(type(number) is not int for number in numbers) or len(set(numbers)) < len(numbers):
        raise _malformed()
    return {cast(int, number): table for number, table in zip(numbers, tables, strict=True)}


def _table(value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise _malformed()
    return value


def _check_json(value: object, depth: int) -> None:
    """Raise ValueError unless `value` is JSON as `canonical` makes it, not nested deeper than `depth`."""
    if depth < 0 or (isinstance(value, float) and not math.isfinite(value)):
        raise _malformed()
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise _malformed()
            _check_json(item, depth - 1)
    elif isinstance(value, list):
        for item in value:
            _check_json(item, depth - 1)
    elif value is not None and not isinstance(value, bool | int | float | str):
        raise _malformed()


def _no_constant(_name: str) -> object:
    raise ValueError("NaN or an infinity")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    table = dict(pairs)
    if len(table) < len(pairs):
        raise ValueError("a key occurs twice")
    return table


def _malformed() -> ValueError:
    return ValueError("not an agreement in canonical form")
