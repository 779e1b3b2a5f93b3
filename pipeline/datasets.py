"""Studies to try the pipeline with: tables and the agreement that fits them.

`rand_hie` splits a real public data set, the RAND Health Insurance Experiment
(as shipped by statsmodels, public domain), between a hospital and an insurer.
It has no identifiers; those added here are made up. `heart_failure` generates
tables of the shape of the pilot: partly overlapping, 15 columns at each side,
some categorical, some cells missing. `correlated` generates normal columns, as
many and as correlated as asked, for experiments. All are functions of their
arguments and seed alone. The generator's randomness is not secret and protects nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.errors import ConfigError

IDENTIFIER_DIGITS = 9

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PartyTable:
    """A controller's table and what the agreement says of its columns.

    `categories` maps a column to its levels, the reference level first.
    """

    party: str
    frame: pd.DataFrame
    identifier: str
    features: tuple[str, ...]
    categories: Mapping[str, tuple[str, ...]]
    ranges: Mapping[str, tuple[float, float]] = field(default_factory=lambda: MappingProxyType({}))
    outcome: str | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """Every column the model uses: features, categories, outcome."""
        return (*self.features, *self.categories, *(() if self.outcome is None else (self.outcome,)))


@dataclass(frozen=True, eq=False)
class StudyData:
    """A whole study: its settings and one table for each controller, in the order of their ids."""

    name: str
    about: str
    alpha: float
    tables: tuple[PartyTable, ...]


def identifiers(count: int, rng: np.random.Generator) -> list[str]:
    """Distinct made-up identifiers of nine digits; about one in ten begins with a zero."""
    drawn = rng.choice(10**IDENTIFIER_DIGITS, size=count, replace=False)
    return [f"{number:0{IDENTIFIER_DIGITS}d}" for number in drawn]


# --- the RAND Health Insurance Experiment ---------------------------------------------------------

HEALTH = ("excellent", "good", "fair", "poor")
RAND_HIE_ALPHA = 0.15  # removes four of the nine coefficients
RAND_HIE_MISSING = 0.02  # share of the cells made empty, identifiers excepted


def rand_hie(matches: int = 5000, hospital: int = 7000, insurer: int = 6500, seed: int = 1974) -> StudyData:
    """Person-years of the RAND experiment, split between the hospital and the insurer.

    `matches` rows are in both tables and complete in both; `hospital` and
    `insurer` are the numbers of rows of the two tables. Each person-year counts
    as a person of its own. Needs statsmodels; raises ConfigError without it.
    """
    rng = np.random.default_rng(seed)
    source = _load_rand_hie()
    people = source.iloc[rng.permutation(len(source))].reset_index(drop=True)
    health = people[["hlthg", "hlthf", "hlthp"]].to_numpy() @ np.array([1, 2, 3])
    hospital_columns = pd.DataFrame(
        {
            "physlm": people["physlm"],
            "disea": people["disea"],
            "health": np.array(HEALTH, dtype=object)[health.astype(int)],
            "mdvis": people["mdvis"].astype(np.int64),
        }
    )
    insurer_columns = people[["lncoins", "lpi", "fmde"]].assign(idp=np.where(people["idp"] == 1, "yes", "no"))
    left, right = (
        _with_missing(hospital_columns, RAND_HIE_MISSING, rng),
        _with_missing(insurer_columns, RAND_HIE_MISSING, rng),
    )
    ours, theirs = _split(left, right, (matches, hospital, insurer), rng)
    return StudyData(
        name="rand-hie",
        about="RAND Health Insurance Experiment: what explains the number of visits to a physician",
        alpha=RAND_HIE_ALPHA,
        tables=(
            PartyTable(
                "hospital",
                ours,
                identifier="patient_id",
                features=("physlm", "disea"),
                categories={"health": HEALTH},
                ranges={"physlm": (0.0, 1.0)},
                outcome="mdvis",
            ),
            PartyTable(
                "insurer",
                theirs,
                identifier="insured_id",
                features=("lncoins", "lpi", "fmde"),
                categories={"idp": ("no", "yes")},
            ),
        ),
    )


def _load_rand_hie() -> pd.DataFrame:
    try:
        from statsmodels.datasets import randhie
    except ImportError as error:
        raise ConfigError("the RAND data set comes with statsmodels, install it: pip install '.[demo]'") from error
    return cast(pd.DataFrame, randhie.load_pandas().data)


# --- synthetic heart failure ----------------------------------------------------------------------

NYHA = ("II", "III", "IV")
REGION = ("north", "east", "south", "west")
HEART_FAILURE_ALPHA = 0.1
HEART_FAILURE_MISSING = 0.005  # with 31 columns, one record in seven is incomplete


def heart_failure(matches: int = 4000, hospital: int = 5000, insurer: int = 6000, seed: int = 2008) -> StudyData:
    """Made-up heart-failure patients: what explains their days in hospital.

    Frailty, congestion and standing in society are hidden traits of a person
    that show in the columns of both tables, so the columns are correlated
    within and across the tables. Vectorised; a million rows take seconds.
    """
    rng = np.random.default_rng(seed)
    people = _pool_size(matches, hospital, insurer)
    frailty, congestion, means = rng.standard_normal((3, people))
    traits = _Traits(frailty, congestion, means, rng)
    clinical = _clinical_columns(traits)
    claims = _claims_columns(traits)
    left = _with_missing(_with_outcome(clinical, claims, traits), HEART_FAILURE_MISSING, rng)
    right = _with_missing(claims, HEART_FAILURE_MISSING, rng)
    ours, theirs = _split(left, right, (matches, hospital, insurer), rng)
    return StudyData(
        name="heart-failure",
        about="synthetic heart-failure patients: what explains their days in hospital",
        alpha=HEART_FAILURE_ALPHA,
        tables=(
            PartyTable(
                "hospital",
                ours,
                identifier="patient_id",
                features=_without(clinical, "sex", "nyha"),
                categories={"sex": ("f", "m"), "nyha": NYHA},
                ranges={"age": (0.0, 120.0), "ejection_fraction": (0.0, 100.0)},
                outcome="hospital_days",
            ),
            PartyTable(
                "insurer",
                theirs,
                identifier="insured_id",
                features=_without(claims, "region", "supplementary", "deductible"),
                categories={"region": REGION, "supplementary": ("no", "yes"), "deductible": ("no", "yes")},
                ranges={"years_insured": (0.0, 100.0)},
            ),
        ),
    )


def _without(frame: pd.DataFrame, *categories: str) -> tuple[str, ...]:
    return tuple(name for name in map(str, frame.columns) if name not in categories)


@dataclass(frozen=True, eq=False)
class _Traits:
    """Three hidden standard normal traits of each person."""

    frailty: Floats
    congestion: Floats
    means: Floats
    rng: np.random.Generator

    def mix(self, frailty: float, congestion: float, means: float) -> Floats:
        """A standard normal column with these correlations to the traits."""
        noise = math.sqrt(1.0 - frailty**2 - congestion**2 - means**2)
        own: Floats = noise * self.rng.standard_normal(len(self.frailty))
        return own + frailty * self.frailty + congestion * self.congestion + means * self.means

    def count(self, typical: float, frailty: float, congestion: float, means: float) -> NDArray[np.int64]:
        """A skewed whole number around `typical`."""
        return self.rng.poisson(typical * np.exp(0.4 * self.mix(frailty, congestion, means) - 0.08))

    def levels(self, levels: Sequence[str], shares: Sequence[float], score: Floats) -> NDArray[np.object_]:
        """The level of each person when `score` is cut so that the levels have these shares."""
        cuts = np.quantile(score, np.cumsum(shares)[:-1])
        return np.array(levels, dtype=object)[np.searchsorted(cuts, score)]


def _clinical_columns(t: _Traits) -> pd.DataFrame:
    """15 columns of the hospital, without the outcome; 16 coefficients."""
    congestion = t.mix(0.2, 0.8, 0.0)
    return pd.DataFrame(
        {
            "age": np.clip(73 + 11 * t.mix(0.6, 0.1, -0.1), 19, 104).round(),
            "bmi": (27.5 + 4.5 * t.mix(-0.2, 0.1, -0.3)).round(1),
            "systolic_bp": (128 + 19 * t.mix(-0.1, -0.4, 0.0)).round(),
            "heart_rate": (78 + 14 * t.mix(0.1, 0.4, 0.0)).round(),
            "ejection_fraction": np.clip(39 - 11 * t.mix(0.1, 0.6, 0.0), 5, 80).round(),
            "nt_probnp": np.exp(7.4 + 0.9 * congestion).round(),
            "creatinine": np.exp(4.65 + 0.32 * t.mix(0.4, 0.4, 0.0)).round(),
            "sodium": (139 - 3.2 * t.mix(0.2, 0.5, 0.0)).round(1),
            "potassium": (4.4 + 0.5 * t.mix(0.2, 0.2, 0.0)).round(1),
            "haemoglobin": (8.1 - 1.1 * t.mix(0.5, 0.2, 0.0)).round(1),
            "qrs_duration": (112 + 24 * t.mix(0.1, 0.4, 0.0)).round(),
            "weight_gain": (1.8 + 2.1 * t.mix(0.0, 0.8, 0.0)).round(1),
            "prior_admissions": t.count(1.1, 0.5, 0.5, -0.1),
            "sex": t.levels(("f", "m"), (0.47, 0.53), t.mix(0.0, 0.1, 0.0)),
            "nyha": t.levels(NYHA, (0.45, 0.4, 0.15), t.mix(0.4, 0.7, 0.0)),
        }
    )


def _claims_columns(t: _Traits) -> pd.DataFrame:
    """15 columns of the insurer; 17 coefficients."""
    return pd.DataFrame(
        {
            "income": np.exp(10.3 + 0.5 * t.mix(-0.2, 0.0, 0.8)).round(-2),
            "prior_claims": t.count(14.0, 0.6, 0.4, 0.0),
            "gp_visits": t.count(6.0, 0.6, 0.3, -0.1),
            "specialist_visits": t.count(4.0, 0.4, 0.5, 0.1),
            "medications": t.count(7.0, 0.6, 0.4, 0.0),
            "pharmacy_cost": np.exp(6.6 + 0.7 * t.mix(0.5, 0.5, 0.0)).round(2),
            "physiotherapy": t.count(3.0, 0.5, 0.0, 0.2),
            "home_care_hours": np.maximum(0, 2.0 + 3.5 * t.mix(0.8, 0.1, -0.2)).round(1),
            "distance_km": np.exp(2.2 + 0.7 * t.mix(0.0, 0.0, 0.1)).round(1),
            "years_insured": np.clip(14 + 9 * t.mix(0.3, 0.0, 0.1), 0, 60).round(),
            "chronic_conditions": t.count(2.4, 0.6, 0.4, -0.2),
            "household_size": 1 + t.count(0.9, -0.4, 0.0, 0.1),
            "region": t.levels(REGION, (0.2, 0.3, 0.25, 0.25), t.mix(0.0, 0.0, 0.2)),
            "supplementary": t.levels(("no", "yes"), (0.2, 0.8), t.mix(0.2, 0.0, 0.5)),
            "deductible": t.levels(("no", "yes"), (0.85, 0.15), t.mix(-0.4, -0.1, 0.4)),
        }
    )


def _with_outcome(clinical: pd.DataFrame, claims: pd.DataFrame, t: _Traits) -> pd.DataFrame:
    """The hospital's table: days in hospital depend on columns of both tables."""
    days = (
        6.0
        + 0.06 * (clinical["age"] - 73)
        + 1.1 * (np.log(clinical["nt_probnp"]) - 7.4)
        + 0.5 * clinical["weight_gain"]
        - 0.15 * (clinical["sodium"] - 139)
        + 1.5 * (clinical["nyha"] == "IV")
        + 0.5 * claims["chronic_conditions"]
        + 0.2 * claims["home_care_hours"]
        - 0.4 * claims["household_size"]
        + 3.0 * t.rng.standard_normal(len(claims))
    )
    return clinical.assign(hospital_days=np.maximum(0.0, np.round(days)).astype(np.int64))


# --- correlated normal columns --------------------------------------------------------------------

CORRELATIONS = ("independent", "pairs", "duplicates")
PAIR = 0.99  # correlation of a feature of the hospital with its like at the insurer
EXPLAINED = 2 / 3  # of the outcome's variance, by the features


def correlated(
    records: int, overlap: float, features: int, correlation: float | str, seed: int | Sequence[int]
) -> StudyData:
    """Standard normal features, half of them at each controller, and an outcome with a standard deviation of 1.

    records : in both tables; overlap : their share of either table, above 0 and at most 1.
    correlation : of any two features, at least 0 and below 1, or one of CORRELATIONS: "pairs" are each feature of
        the hospital and one of the insurer, "duplicates" the same with a correlation of 1.

    Every third feature, drawn from both tables, has a part in the outcome; no cell is missing.
    """
    rng = np.random.default_rng(seed)
    rows = max(records, round(records / overlap))
    x = _correlated_columns(2 * rows - records, features, correlation, rng)
    slopes = np.zeros(features)
    some = rng.permutation(features)[: max(1, features // 3)]
    slopes[some] = rng.uniform(0.5, 2.0, len(some)) * rng.choice([-1, 1], len(some))
    signal = x @ slopes
    noise = rng.standard_normal(len(x))
    outcome = math.sqrt(EXPLAINED) * signal / signal.std() + math.sqrt(1 - EXPLAINED) * noise
    half = features // 2
    names = [f"x{place}" for place in range(1, features + 1)]
    left, right = _split(
        pd.DataFrame(x[:, :half], columns=names[:half]).assign(y=outcome),
        pd.DataFrame(x[:, half:], columns=names[half:]),
        (records, rows, rows),
        rng,
    )
    return StudyData(
        name="correlated",
        about="synthetic features with a correlation that was asked for",
        alpha=0.1,
        tables=(
            PartyTable("hospital", left, "patient_id", tuple(names[:half]), categories={}, outcome="y"),
            PartyTable("insurer", right, "insured_id", tuple(names[half:]), categories={}),
        ),
    )


def _correlated_columns(rows: int, features: int, correlation: float | str, rng: np.random.Generator) -> Floats:
    x = rng.standard_normal((rows, features))
    half = features // 2
    like = slice(half, 2 * half)
    match correlation:
        case "independent":
            pass
        case "pairs":
            x[:, like] = PAIR * x[:, :half] + math.sqrt(1 - PAIR**2) * x[:, like]
        case "duplicates":
            x[:, like] = x[:, :half]
        case float() | int():
            x = math.sqrt(1 - correlation) * x + math.sqrt(correlation) * rng.standard_normal((rows, 1))
        case _:
            raise ValueError("no such correlation")
    return x


# --- splitting, missing cells, overlap ------------------------------------------------------------


def _pool_size(matches: int, hospital: int, insurer: int) -> int:
    """Enough persons for any overlap."""
    if not 0 < matches <= min(hospital, insurer):
        raise ConfigError("the number of matches must be positive and not exceed either table")
    return hospital + insurer


def _split(
    left: pd.DataFrame, right: pd.DataFrame, sizes: tuple[int, int, int], rng: np.random.Generator
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Divide persons (rows, the same in both frames) over two overlapping tables.

    The first persons are in both tables, up to the one that makes `matches`
    complete in both; the following fill up the one table, then the other. Rows
    come in an order of their own in each table; `sizes` is (matches, rows left,
    rows right).
    """
    matches, rows_left, rows_right = sizes
    complete = (left.notna().all(axis=1) & right.notna().all(axis=1)).to_numpy()
    enough = np.flatnonzero(np.cumsum(complete) == matches)
    shared = int(enough[0]) + 1 if len(enough) else len(left) + 1
    if shared > min(rows_left, rows_right) or rows_left + rows_right - shared > len(left):
        raise ConfigError("too few persons for that many matches: some rows are incomplete and match nothing")
    names = identifiers(len(left), rng)
    own = np.arange(rows_left)
    other = np.concatenate([np.arange(shared), np.arange(rows_left, rows_left + rows_right - shared)])
    return _table(left, "patient_id", names, rng.permutation(own)), _table(
        right, "insured_id", names, rng.permutation(other)
    )


def _with_missing(frame: pd.DataFrame, share: float, rng: np.random.Generator) -> pd.DataFrame:
    whole = frame.select_dtypes("integer").columns  # nullable, so that 3 stays 3 beside an empty cell
    return frame.astype(dict.fromkeys(whole, "Int64")).mask(rng.random(frame.shape) < share)


def _table(frame: pd.DataFrame, identifier: str, names: Sequence[str], rows: NDArray[np.int64]) -> pd.DataFrame:
    chosen = frame.iloc[rows].reset_index(drop=True)
    chosen.insert(0, identifier, [names[row] for row in rows])
    return chosen


# --- the plain join -------------------------------------------------------------------------------


def plain_join(study: StudyData) -> tuple[pd.DataFrame, NDArray[np.float64]]:
    """What nobody has in a real study: the joined features, named as in the result, and the outcome.

    Records with a missing value are left out. Written with pandas alone, so
    that it can be held against the pipeline.
    """
    left, right = study.tables
    joined = left.frame.merge(right.frame, left_on=left.identifier, right_on=right.identifier, validate="1:1")
    joined = joined.dropna(subset=[*left.columns, *right.columns])
    columns: dict[str, NDArray[np.float64]] = {}
    for table in study.tables:
        for name in table.features:
            columns[f"{table.party}.{name}"] = joined[name].to_numpy(dtype=np.float64)
        for name, levels in sorted(table.categories.items()):
            for level in levels[1:]:
                columns[f"{table.party}.{name}={level}"] = (joined[name] == level).to_numpy().astype(np.float64)
    outcome = next(table.outcome for table in study.tables if table.outcome)
    return pd.DataFrame(columns), joined[outcome].to_numpy(dtype=np.float64)


# --- files ----------------------------------------------------------------------------------------


def write_csv(study: StudyData, folder: Path) -> list[Path]:
    """Write `<party>.csv` for each table; a missing cell is empty."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{table.party}.csv" for table in study.tables]
    for table, path in zip(study.tables, paths, strict=True):
        table.frame.to_csv(path, index=False)
    return paths


def agreement_text(
    study: StudyData,
    urls: Sequence[str],
    paillier_bits: int,
    heading: str = "",
    sections: Mapping[str, Mapping[str, object]] = MappingProxyType({}),
) -> str:
    """The text of study.toml: the controllers in order, then the third party.

    `urls` has one address a party. The certificates are expected as
    `certificates/<party>.pem`. `sections` are further tables, such as `open`,
    and take the place of those made here: `join` and `model`.
    """
    blocks = [heading] if heading else []
    blocks.append(_section("study", {"name": study.name, **sections.get("study", {})}))
    for number, table in enumerate(study.tables):
        blocks.append(_party_text(number, table.party, "controller", urls[number]) + _table_text(table))
    blocks.append(_party_text(len(study.tables), "third-party", "third-party", urls[-1]))
    made: dict[str, Mapping[str, object]] = {
        "join": {"paillier_bits": paillier_bits},
        "model": {"kind": "lasso", "alpha": study.alpha},
    }
    rest = {name: values for name, values in sections.items() if name != "study"}
    blocks += [_section(name, values) for name, values in {**made, **rest}.items()]
    return "\n\n".join(blocks) + "\n"


def _section(name: str, values: Mapping[str, object]) -> str:
    return "\n".join([f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in values.items())])


def _party_text(number: int, name: str, role: str, url: str) -> str:
    return (
        f"[[party]]\nid = {number}\nname = {_toml(name)}\nrole = {_toml(role)}\nurl = {_toml(url)}\n"
        f"certificate = {_toml(f'certificates/{name}.pem')}"
    )


def _table_text(table: PartyTable) -> str:
    lines = [
        "",
        f"identifier = {_toml([table.identifier])}",
        f"identifier_pattern = {_toml([f'[0-9]{{{IDENTIFIER_DIGITS}}}'])}",
        f"features = {_toml(list(table.features))}",
        f"categories = {_toml(dict(table.categories))}",
    ]
    if table.ranges:
        lines.append(f"ranges = {_toml(dict(table.ranges))}")
    if table.outcome is not None:
        lines.append(f"outcome = {_toml(table.outcome)}")
    return "\n".join(lines)


def _toml(value: object) -> str:
    """Write plain ASCII text, a number, a list or a table of these; keys must be bare."""
    match value:
        case str():
            return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case list() | tuple():
            return "[" + ", ".join(_toml(item) for item in value) + "]"
        case dict():
            return "{ " + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + " }"
        case _:
            raise TypeError(f"cannot write a {type(value).__name__} as TOML")


STUDIES: Mapping[str, Callable[[], StudyData]] = MappingProxyType(
    {"rand-hie": rand_hie, "heart-failure": heart_failure}
)
