"""What the parties agreed and what one party keeps to itself, as values.

The agreement (`study.toml`) is the same at every party and holds no secret;
the local file (`party-<id>.toml`) belongs to one party. Both are read into
frozen dataclasses with every default filled in.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pipeline.errors import ConfigError

Role = Literal["controller", "third-party"]
Kind = Literal["numeric", "category"]

MISSING = ("", "NA", "NaN", "null")


@dataclass(frozen=True)
class Column:
    """A feature of the model as its controller's table has it."""

    party: str
    column: str
    kind: Kind
    levels: tuple[str, ...] = ()  # of a category; the first is the reference
    range: tuple[float, float] | None = None  # of a numeric column, if declared

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its coefficients, in order."""
        if self.kind == "numeric":
            return (f"{self.party}.{self.column}",)
        return tuple(f"{self.party}.{self.column}={level}" for level in self.levels[1:])


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

    @property
    def columns(self) -> tuple[Column, ...]:
        """Numeric features as listed, then categories by column name; not the outcome.

        A list has an order and a TOML table has none, so the order in which
        categories are written says nothing.
        """
        numeric = (Column(self.name, c, "numeric", range=self.ranges.get(c)) for c in self.features)
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
    name: str
    min_records: int = 50


@dataclass(frozen=True)
class Join:
    paillier_bits: int = 3072


@dataclass(frozen=True)
class Model:
    """The parameters of the model; their meaning is in `docs/model.md`."""

    alpha: float
    kind: Literal["lasso"] = "lasso"
    standardize: bool = True
    fit_intercept: bool = True
    tolerance: float = 1e-6
    max_iterations: int = 1000


@dataclass(frozen=True)
class Agreement:
    """What all parties agreed, defaults filled in; `parties` are sorted by id."""

    study: Study
    parties: tuple[Party, ...]
    join: Join
    model: Model

    def party(self, party_id: int) -> Party:
        """Raises ConfigError when nobody has this number."""
        for party in self.parties:
            if party.id == party_id:
                return party
        numbers = ", ".join(f"{party.id} ({party.name})" for party in self.parties)
        raise ConfigError(f"party {party_id} is not in the agreement; its parties are {numbers}")

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

    def canonical(self) -> dict[str, object]:
        """The agreement as plain JSON values: what is hashed, and exchanged when digests differ."""
        return {
            "study": {"name": self.study.name, "min_records": self.study.min_records},
            "party": [_canonical_party(party) for party in self.parties],
            "join": {"paillier_bits": self.join.paillier_bits},
            "model": {
                "kind": self.model.kind,
                "alpha": self.model.alpha,
                "standardize": self.model.standardize,
                "fit_intercept": self.model.fit_intercept,
                "tolerance": self.model.tolerance,
                "max_iterations": self.model.max_iterations,
            },
        }

    @property
    def digest(self) -> str:
        """SHA-256, in hex, of the canonical JSON."""
        return hashlib.sha256(canonical_json(self.canonical())).hexdigest()


@dataclass(frozen=True)
class Local:
    """The settings of one party; paths are resolved."""

    data: Path | None  # None at the third party
    private_key: Path
    certificate: bytes  # DER; the one of the party's certificates that fits the private key
    output: Path
    listen: tuple[str, int]
    decimal: Literal[".", ","] = "."
    encoding: str = "utf-8"
    missing: tuple[str, ...] = MISSING  # trimmed, NFC; compared in any case


def canonical_json(value: object) -> bytes:
    """One spelling for one content: keys sorted, no spaces, UTF-8; floats as Python writes them."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def _canonical_party(party: Party) -> dict[str, object]:
    return {
        "id": party.id,
        "name": party.name,
        "role": party.role,
        "url": party.url,
        "certificate": sorted(hashlib.sha256(der).hexdigest() for der in party.certificates),
        "identifier": list(party.identifier),
        "identifier_pattern": list(party.identifier_pattern),
        "features": list(party.features),
        "categories": {column: list(levels) for column, levels in party.categories.items()},
        "ranges": {column: list(bounds) for column, bounds in party.ranges.items()},
        "outcome": party.outcome,
    }
