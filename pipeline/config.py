"""Reads what the parties agreed and what one party keeps to itself.

The agreement (`study.toml`) is the same at every party and holds no secret;
the local file (`party-<id>.toml`) is beside it and belongs to one party.
Relative paths count from the folder of the file that has them. Every default
is filled in here, and every fault is found in one reading: ConfigError has one
sentence for each, naming file and key.
"""

from __future__ import annotations

import codecs
import ipaddress
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import ROUND_CEILING, Context
from pathlib import Path
from typing import Literal, cast
from urllib.parse import SplitResult, urlsplit

from pipeline import pins
from pipeline.agreement import (
    HTTPS_PORT,
    Agreement,
    Column,
    Gate,
    Join,
    Keys,
    Kind,
    Model,
    Open,
    Party,
    Role,
    Study,
    canonical_json,
    differences,
    parse_canonical,
)
from pipeline.analysis_config import read_analysis
from pipeline.compute_settings import Compute, read_compute
from pipeline.errors import ConfigError
from pipeline.toml_reader import (
    Table,
    as_number,
    clean,
    nearest,
    or_default,
    printable,
    read_toml,
    repeated,
    shown,
)

__all__ = [
    "MISSING",
    "Agreement",
    "Column",
    "Gate",
    "Join",
    "KeyPlaces",
    "Keys",
    "Kind",
    "Local",
    "Model",
    "Open",
    "Party",
    "Role",
    "Study",
    "canonical_json",
    "check_tolerance",
    "differences",
    "key_places",
    "load",
    "load_agreement",
    "load_local",
    "local_path",
    "output_of",
    "parse_canonical",
]

MISSING = ("", "NA", "NaN", "null")
MIN_RECORDS = 10
MAX_RECORDS = 1 << 24  # rows of a table, see messages.py
PAILLIER_BITS = (2048, 8192)
MAX_ANALYSES = 1000
MAX_REVISION = 1_000_000
MAX_PATTERN = 1000  # characters
MAX_UNIT = 40  # characters

TABLE_SUFFIXES = (".csv", ".parquet")
CONTROLLER_IDS = frozenset({0, 1})  # for now; nothing but _check_roles depends on it
THIRD_PARTY_IDS = frozenset({2})

_TABLES = ("study", "party", "join", "model", "open", "gate")
_STUDY_KEYS = ("name", "min_records", "keep_shares", "keep_until", "max_analyses", "revision")
_PARTY_KEYS = ("id", "name", "role", "url", "certificate")
_COLUMN_KEYS = ("identifier", "identifier_pattern", "features", "categories", "ranges", "outcome", "units")
_LOCAL_KEYS = ("data", "private_key", "output", "listen", "decimal", "encoding", "missing", "compute")
_HOST = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*")


@dataclass(frozen=True)
class Local:
    """The settings of one party; paths are absolute."""

    data: Path | None  # None at the third party
    private_key: Path
    certificate: bytes  # DER; the one of the party's certificates that fits the private key
    output: Path
    listen: tuple[str, int]
    decimal: Literal[".", ","] = "."
    encoding: str = "utf-8"
    missing: tuple[str, ...] = MISSING  # trimmed, NFC; a cell is compared with them in any case
    compute: Compute = field(default_factory=Compute)


@dataclass(frozen=True)
class KeyPlaces:
    """Where the two files want the key and the certificate of a party."""

    party: str
    host: str
    private_key: Path
    certificate: Path


@dataclass(frozen=True)
class Survey:
    """Both files of a party as far as they could be read, with every fault found.

    agreement, local : None if there is a fault in them.
    table : the party and how to read its table, also where other things are wrong.
    """

    faults: tuple[str, ...]
    agreement: Agreement | None
    local: Local | None
    table: tuple[Party, Local] | None


def survey(
    path: Path,
    party_id: int,
    local: Path | None = None,
    *,
    smallest_tolerance: Callable[[int], float] | None = None,
    now: datetime | None = None,
) -> Survey:
    """Read both files of a party and find every fault in them.

    path : the agreement; local : instead of `party-<id>.toml` beside it;
    smallest_tolerance : number of features to what the arithmetic reaches.
    """
    faults: list[str] = []
    moment = now or datetime.now(UTC)
    readable: list[Party] = []
    agreement = _read_agreement(path, True, moment, faults, readable, smallest_tolerance)
    party = next((party for party in readable if party.id == party_id), None)
    if agreement is not None:
        party = _party_of(agreement, party_id, faults)
    file = local or local_path(path, party_id)
    settings = _read_local(file, party, moment, faults)
    table = None
    if party is not None and party.role == "controller":
        reading = settings or _reading(file, party)
        table = None if reading is None else (party, reading)
    return Survey(tuple(faults), agreement, settings, table)


def load(
    path: Path,
    party_id: int,
    local: Path | None = None,
    *,
    smallest_tolerance: Callable[[int], float] | None = None,
    now: datetime | None = None,
) -> tuple[Agreement, Local]:
    """Read both files of a party; arguments as `survey`. Raises ConfigError with the faults of both."""
    found = survey(path, party_id, local, smallest_tolerance=smallest_tolerance, now=now)
    if found.faults or found.agreement is None or found.local is None:
        raise ConfigError(found.faults)
    return found.agreement, found.local


def load_agreement(path: Path, require_certificates: bool = True, now: datetime | None = None) -> Agreement:
    """Read the agreement. Raises ConfigError.

    Without `require_certificates` no certificate is looked at: parties have
    none, and the digest is not that of the study.
    """
    faults: list[str] = []
    agreement = _read_agreement(path, require_certificates, now or datetime.now(UTC), faults)
    if agreement is None:
        raise ConfigError(faults)
    return agreement


def load_local(
    path: Path, agreement: Agreement, party_id: int, local: Path | None = None, now: datetime | None = None
) -> Local:
    """Read a party's own file: `local`, or `party-<id>.toml` beside the agreement at `path`. Raises ConfigError."""
    faults: list[str] = []
    party = agreement.party(party_id)
    settings = _read_local(local or local_path(path, party_id), party, now or datetime.now(UTC), faults)
    if settings is None:
        raise ConfigError(faults)
    return settings


def local_path(path: Path, party_id: int) -> Path:
    """Where a party's own file is expected: beside the agreement."""
    return path.with_name(f"party-{party_id}.toml")


def check_tolerance(agreement: Agreement, smallest: float) -> None:
    """Raise ConfigError when the tolerance is finer than `smallest`, what the arithmetic reaches."""
    faults = _tolerance_faults(agreement.model, smallest)
    if faults:
        raise ConfigError(faults)


def key_places(path: Path, party_id: int, local: Path | None = None) -> KeyPlaces:
    """Where a party's key and certificate belong; neither need be there yet, nor the others' certificates."""
    faults: list[str] = []
    agreement = _read_agreement(path, False, datetime.now(UTC), faults)
    party = None if agreement is None else _party_of(agreement, party_id, faults)
    certificate = None if party is None else _new_certificate_file(party, path.name, faults)
    private_key = _key_file(local or local_path(path, party_id), faults)
    if private_key is not None and private_key == certificate:
        faults.append(f"private_key and certificate are both to be {private_key}; give each a file of its own")
    if faults or party is None or certificate is None or private_key is None:
        raise ConfigError(faults)
    return KeyPlaces(party.name, party.address[0], private_key, certificate)


def output_of(path: Path, party_id: int, local: Path | None = None) -> tuple[Agreement, Path]:
    """The agreement and a party's output folder; neither key nor certificates need be there or still be valid."""
    faults: list[str] = []
    agreement = _read_agreement(path, False, datetime.now(UTC), faults)
    party = None if agreement is None else _party_of(agreement, party_id, faults)
    file = local or local_path(path, party_id)
    table = _local_table(file, faults)
    output = None if table is None or party is None else _output(table, file.parent, party)
    if faults or agreement is None or output is None:
        raise ConfigError(faults)
    return agreement, output


# --- the agreement --------------------------------------------------------------------------------


def _read_agreement(
    path: Path,
    require_certificates: bool,
    now: datetime,
    faults: list[str],
    readable: list[Party] | None = None,
    smallest_tolerance: Callable[[int], float] | None = None,
) -> Agreement | None:
    """None if there is a fault; `readable` gets the parties that could be read all the same."""
    before = len(faults)
    content = read_toml(path, faults, "--config must name the agreement, study.toml")
    if content is None:
        return None
    if content.keys().isdisjoint(_TABLES) and not content.keys().isdisjoint(_LOCAL_KEYS):
        faults.append(
            f"{path.name} looks like a party's own file; --config must name the agreement, study.toml, "
            "which is the same at all parties"
        )
        return None
    top = Table(content, path.name, "", faults)
    top.refuse_unknown(_TABLES, "table")
    study = _study(_section(top, "study"))
    parties = _parties(top, path.parent, now if require_certificates else None)
    if readable is not None:
        readable += parties
    join = _join(_section(top, "join"))
    model, opened, gate = read_analysis(top, _features(top, parties), study.min_records, several=study.keep_shares)
    agreement = Agreement(study, tuple(sorted(parties, key=lambda party: party.id)), join, model, opened, gate)
    sound = len(faults) == before
    if smallest_tolerance is not None:  # a fault of the study as a whole, which can be read all the same
        faults += _tolerance_faults(model, smallest_tolerance(len(agreement.analysed_names)))
    return agreement if sound else None


def _section(top: Table, key: str) -> Table:
    return top.table(key, f"write [{key}] on a line of its own")


def _features(top: Table, parties: Sequence[Party]) -> list[Column] | None:
    """The columns of all controllers, in the order of the coefficients; None if a party could not be read."""
    tables = top.values.get("party")
    if not isinstance(tables, list) or len(parties) < len(tables):
        return None
    in_order = sorted(parties, key=lambda party: party.id)
    return [column for party in in_order if party.role == "controller" for column in party.columns]


def _study(table: Table) -> Study:
    table.refuse_unknown(_STUDY_KEYS)
    table.require("name", "give the study a name")
    study = Study(
        name=table.name("name") or "",
        min_records=or_default(table.whole("min_records", MIN_RECORDS, MAX_RECORDS), Study.min_records),
        keep_shares=or_default(table.truth("keep_shares"), Study.keep_shares),
        keep_until=table.day("keep_until"),
        max_analyses=or_default(table.whole("max_analyses", 1, MAX_ANALYSES), Study.max_analyses),
        revision=or_default(table.whole("revision", 1, MAX_REVISION), Study.revision),
    )
    if table.values.get("keep_shares", False) is False:
        for key in ("keep_until", "max_analyses"):
            if key in table.values:
                table.fault(key, "is about kept shares; it needs keep_shares = true")
    return study


def _join(table: Table) -> Join:
    table.refuse_unknown(("paillier_bits", "keys"))
    bits = or_default(table.whole("paillier_bits", *PAILLIER_BITS), Join.paillier_bits)
    if bits % 8:
        table.fault("paillier_bits", f"must be a multiple of 8, for example {Join.paillier_bits}")
    keys = cast("Keys | None", table.choice("keys", ("standard", "subgroup"), hint=True))
    return Join(bits, or_default(keys, Join.keys))


def _tolerance_faults(model: Model, smallest: float) -> list[str]:
    if model.tolerance >= smallest:
        return []
    # Rounded up, so that the number shown is one that will do.
    possible = float(Context(prec=2, rounding=ROUND_CEILING).create_decimal(repr(float(smallest))))
    return [f"model.tolerance in the agreement is finer than the arithmetic reaches; give at least {possible:g}"]


# --- its parties ----------------------------------------------------------------------------------


def _parties(top: Table, folder: Path, now: datetime | None) -> list[Party]:
    """The parties that could be read; they are compared with one another only if all could."""
    tables = top.values.get("party")
    if not isinstance(tables, list) or not all(isinstance(values, dict) for values in tables):
        top.fault("party", "is missing or no list of tables; write [[party]] above the keys of each party")
        return []
    before = len(top.faults)
    found = [_party(_party_table(values, at, top), folder, now) for at, values in enumerate(tables, start=1)]
    parties = [party for party in found if party is not None]
    if len(parties) == len(found):
        _check_unlike(top, parties, now is not None)
        _check_roles(top, parties)
        if len(top.faults) == before:
            _check_columns_together(top, parties)
    return parties


def _party_table(values: dict[str, object], position: int, top: Table) -> Table:
    name = values.get("name")
    label = name if isinstance(name, str) and _is_name(name) else f"table number {position}"
    return Table(values, top.file, f"party {label}: ", top.faults)


def _is_name(text: str) -> bool:
    return re.fullmatch("[a-z0-9-]{1,63}", text) is not None


def _party(table: Table, folder: Path, now: datetime | None) -> Party | None:
    table.refuse_unknown((*_PARTY_KEYS, *_COLUMN_KEYS))
    for key in _PARTY_KEYS:
        table.require(key, "every party has one")
    number = table.whole("id", 0, 65535)
    name = table.text("name")
    if name is not None and not _is_name(name):
        table.fault("name", 'must be 1 to 63 of the signs a to z, 0 to 9 and "-"')
        name = None
    role = cast("Role | None", table.choice("role", ("controller", "third-party")))
    url = _url(table)
    certificates, files = _certificates(table, folder, now)
    identifier, patterns, features, outcome = _column_lists(table, role)
    categories, ranges = _categories(table), _ranges(table)
    if number is None or name is None or role is None or url is None:
        return None
    party = Party(
        number,
        name,
        role,
        url,
        certificates,
        identifier,
        patterns,
        features,
        categories,
        ranges,
        outcome,
        _units(table),
        files,
    )
    if role == "controller":
        _check_columns(table, party)
    return party


def _column_lists(
    table: Table, role: Role | None
) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...], str | None]:
    """Identifier columns, their patterns, numeric features and the outcome."""
    if role == "third-party":
        for key in _COLUMN_KEYS:
            if key in table.values:
                table.fault(key, "is for controllers only; a third party has no table")
        return (), (), (), None
    if role == "controller":
        table.require("identifier", "name the columns that tell persons apart")
    identifier = table.names("identifier")
    if table.values.get("identifier") == []:
        table.fault("identifier", "must name at least one column")
    return or_default(identifier, ()), _patterns(table), or_default(table.names("features"), ()), table.name("outcome")


def _patterns(table: Table) -> tuple[str, ...]:
    patterns, columns = or_default(table.texts("identifier_pattern"), ()), table.values.get("identifier")
    if patterns and columns and isinstance(columns, list) and len(patterns) != len(columns):
        table.fault("identifier_pattern", f"must hold {len(columns)} of them, one for each column of identifier")
    for position, pattern in enumerate(patterns, start=1):
        if not _compiles(pattern):
            table.fault("identifier_pattern", f"number {position} is not a valid regular expression")
    return patterns


def _compiles(pattern: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            re.compile(pattern)
    except (re.error, OverflowError, RecursionError):
        return False
    return 0 < len(pattern) <= MAX_PATTERN


def _categories(table: Table) -> dict[str, tuple[str, ...]]:
    levels = table.table("categories", 'write for example { sex = ["f", "m"] }')
    found = {}
    for column, key in sorted(levels.columns().items()):
        written = levels.values[key]
        if isinstance(written, list) and len(written) < 2:
            levels.fault(key, "needs at least two levels, the first of which is the reference")
        found[column] = or_default(levels.names(key), ())
    return found


def _ranges(table: Table) -> dict[str, tuple[float, float]]:
    bounds = table.table("ranges", "write for example { age = [0, 120] }")
    found = {}
    for column, key in sorted(bounds.columns().items()):
        value = bounds.values[key]
        numbers = [as_number(item) for item in value] if isinstance(value, list) else []
        match numbers:
            case [float(low), float(high)] if low < high and high - low < float("inf"):
                found[column] = (low, high)
            case _:
                bounds.fault(key, "must be two finite numbers, the lower one first, for example [0, 120]")
                found[column] = (0.0, 1.0)
    return found


def _units(table: Table) -> dict[str, str]:
    units = table.table("units", 'write for example { age = "years" }')
    found = {}
    for column, key in sorted(units.columns().items()):
        text = units.text(key)
        if text is not None and not (printable(text) and len(text) <= MAX_UNIT):
            units.fault(key, f'must be a short text of at most {MAX_UNIT} characters, for example "years"')
        found[column] = clean(text or "")
    return found


def _check_columns(table: Table, party: Party) -> None:
    """Check the columns of a controller against one another."""
    uses = {
        "identifier": party.identifier,
        "features": party.features,
        "categories": tuple(party.categories),
        "outcome": () if party.outcome is None else (party.outcome,),
    }
    for column in repeated(column for columns in uses.values() for column in set(columns)):
        keys = [key for key, columns in uses.items() if column in columns]
        table.fault(keys[0], f"and {' and '.join(keys[1:])} both name {shown(column)}; a column has one use only")
    if isinstance(table.values.get("features", []), list) and isinstance(table.values.get("outcome", ""), str):
        for key, named in (("ranges", party.ranges), ("units", party.units)):
            _check_numeric(table, key, named, (*party.features, *uses["outcome"]))
    for name in repeated(party.names):
        table.fault("categories", f"makes two coefficients with the name {shown(name)}; rename a column")
    # As one controller has the outcome, this also keeps a study from having no feature at all.
    if not any(table.values.get(key) for key in ("features", "categories", "outcome")):
        table.fault("features", "is missing or empty, and so are categories and outcome; name what this party brings")


def _check_numeric(table: Table, key: str, named: Iterable[str], numeric: Collection[str]) -> None:
    for column in named:
        if column not in numeric:
            hint = f'; the nearest one is "{nearest(column, numeric)}"' if numeric else ""
            table.fault(key, f"names {shown(column)}, which is no numeric column of this party{hint}")


def _check_unlike(top: Table, parties: Sequence[Party], with_certificates: bool) -> None:
    """Check that no two parties have the same number, name, address or key."""
    for key in ("id", "name", "url"):
        _check_unique(top, key, parties, [getattr(party, key) for party in parties])
    if with_certificates:
        holders = [(party, pins.public_key(der)) for party in parties for der in party.certificates]
    else:
        holders = [(party, bytes(file)) for party in parties for file in party.certificate_files]
    # A party may have two certificates for one key, but two parties may not.
    distinct = dict.fromkeys((party.id, key) for party, key in holders)
    names = {party.id: party for party in parties}
    if len(names) == len(parties):
        _check_unique(top, "certificate", [names[number] for number, _ in distinct], [key for _, key in distinct])


def _check_unique(top: Table, key: str, parties: Sequence[Party], values: Sequence[object]) -> None:
    for value in repeated(values):
        same = [party.name for party, other in zip(parties, values, strict=True) if other == value]
        top.fault(key, f"is the same at the parties {' and '.join(same)}; each needs its own")


def _check_roles(top: Table, parties: Sequence[Party]) -> None:
    controllers = [party.id for party in parties if party.role == "controller"]
    third_parties = [party.id for party in parties if party.role == "third-party"]
    if (len(controllers), len(third_parties)) != (2, 1):
        top.fault(
            "role",
            f"is controller {len(controllers)} times and third-party {len(third_parties)} times; for now "
            "a study has exactly two controllers and one third party",
        )
    elif len({*controllers, *third_parties}) == 3 and (
        frozenset(controllers) != CONTROLLER_IDS or frozenset(third_parties) != THIRD_PARTY_IDS
    ):
        top.fault("id", "must be, for now, 0 and 1 at the controllers and 2 at the third party")


def _check_columns_together(top: Table, parties: Sequence[Party]) -> None:
    controllers = [party for party in parties if party.role == "controller"]
    lengths = {len(party.identifier) for party in controllers}
    if len(lengths) > 1:
        top.fault("identifier", "must name as many columns at one controller as at the other, in the same order")
    outcomes = [party.name for party in controllers if party.outcome is not None]
    if len(outcomes) != 1:
        where = f"at {' and '.join(outcomes)}" if outcomes else "at no controller"
        top.fault("outcome", f"is named {where}; exactly one controller must have it")


# --- addresses and certificates -------------------------------------------------------------------


def _url(table: Table) -> str | None:
    text = table.text("url")
    if text is None:
        return None
    try:
        parts = urlsplit(text.strip())
        port = HTTPS_PORT if parts.port is None else parts.port
        words = _url_fault(text.strip(), parts, port)
    except ValueError:  # a port that is no number or too large, brackets that do not match
        words = "is not a valid address; write for example https://pipeline.hospital.example:8440"
    if words:
        table.fault("url", words)
        return None
    host = parts.hostname or ""
    return f"https://{f'[{host}]' if ':' in host else host}:{port}{parts.path.rstrip('/')}"


def _url_fault(text: str, parts: SplitResult, port: int) -> str:
    """What is wrong with an address; empty when nothing is."""
    if parts.scheme != "https":
        return "must begin with https://"
    if "@" in parts.netloc:
        return "must not hold a user name or password"
    if "?" in text or "#" in text:
        return "must not have a query or fragment (? or #)"
    if not _is_host(parts.hostname or "") or port == 0 or "\\" in text or not printable(text):
        return "has no valid host and port; write for example https://pipeline.hospital.example:8440"
    if parts.hostname in ("0.0.0.0", "::"):  # noqa: S104 - refused, not used
        return "must be an address that the others can call; 0.0.0.0 is only one to listen at"
    path = parts.path.removesuffix("/")
    if path and not re.fullmatch(r"(/(?!\.{1,2}(/|$))[A-Za-z0-9._~-]+)+", path):
        return "has a path with other signs than letters, digits, dots and dashes between single slashes"
    return ""


def _is_host(text: str) -> bool:
    """An address, or a name in lower case as DNS has it: a last part of digits only belongs to addresses."""
    try:
        return "%" not in text and bool(ipaddress.ip_address(text))
    except ValueError:
        return bool(_HOST.fullmatch(text)) and len(text) <= 253 and not text.rpartition(".")[2].isdigit()


def _certificates(table: Table, folder: Path, now: datetime | None) -> tuple[tuple[bytes, ...], tuple[Path, ...]]:
    """The certificates of a party (DER), unless `now` is None, and the files named for them."""
    if isinstance(table.values.get("certificate"), list):
        entries = or_default(table.texts("certificate"), ())
        if not table.values["certificate"]:
            table.fault("certificate", "must name at least one certificate")
    else:
        text = table.text("certificate")
        entries = () if text is None else (text,)
    files = tuple((folder / entry).absolute() for entry in entries if not _is_pem(entry) and "\0" not in entry)
    if now is None:
        return (), files
    before = len(table.faults)
    found = [_certificate(table, folder, entry) for entry in entries]
    certificates = tuple(certificate for certificate in found if certificate is not None)
    if repeated(certificates):
        table.fault("certificate", "names the same certificate more than once")
    if certificates and len(table.faults) == before:
        try:
            pins.check_validity(certificates, now)
        except ValueError as error:
            table.fault("certificate", f"{_place(entries[0]) if len(entries) == 1 else ''}{error}")
    return certificates, files


def _certificate(table: Table, folder: Path, entry: str) -> bytes | None:
    try:
        if _is_pem(entry):
            return pins.parse_certificate(entry.encode())
        if not entry.strip() or "\0" in entry:
            raise ValueError("must not be empty")
        return pins.parse_certificate(pins.read_pem(folder / entry))
    except ValueError as error:
        table.fault("certificate", f"{_place(entry)}{error}")
        return None


def _place(entry: str) -> str:
    return "" if _is_pem(entry) else f"{shown(entry)} "


def _is_pem(entry: str) -> bool:
    return pins.PEM_MARK in entry


def _party_of(agreement: Agreement, party_id: int, faults: list[str]) -> Party | None:
    try:
        return agreement.party(party_id)
    except ConfigError as error:
        faults += error.faults
        return None


def _new_certificate_file(party: Party, file: str, faults: list[str]) -> Path | None:
    """The file for a new certificate: the only one named, or the only one of several that is not there."""
    files = party.certificate_files
    if len(files) > 1:
        files = tuple(path for path in files if not path.exists())
    if len(files) == 1:
        return files[0]
    words = (
        "names several files, and not exactly one of them is still missing, so it is not clear which one to make"
        if party.certificate_files
        else "is written out in the agreement, so a new one cannot be put there; name a file instead"
    )
    faults.append(f"{file}: party {party.name}: certificate {words}")
    return None


# --- the local file -------------------------------------------------------------------------------


def _local_table(path: Path, faults: list[str]) -> Table | None:
    content = read_toml(path, faults, "it is this party's own file; --local names another one")
    if content is None:
        return None
    if content.keys().isdisjoint(_LOCAL_KEYS) and not content.keys().isdisjoint(_TABLES):
        faults.append(
            f"{path.name} looks like the agreement; --local must name this party's own file, such as party-0.toml"
        )
        return None
    table = Table(content, path.name, "", faults)
    table.refuse_unknown(_LOCAL_KEYS)
    return table


def _key_file(path: Path, faults: list[str]) -> Path | None:
    table = _local_table(path, faults)
    if table is None:
        return None
    table.require("private_key", "name the file of this party's TLS key")
    return table.path("private_key", path.parent)


def _read_local(path: Path, party: Party | None, now: datetime, faults: list[str]) -> Local | None:
    """Read a party's own file; with `party` unknown, check what can be checked without it."""
    before = len(faults)
    table = _local_table(path, faults)
    if table is None:
        return None
    data = _data(table, path.parent, party)
    private_key, certificate = _own_key(table, path.parent, party, now)
    output = _output(table, path.parent, party)
    listen = _listen(table, party)
    decimal = table.choice("decimal", (".", ","))
    encoding = _encoding(table)
    missing = _missing(table, party)
    compute = read_compute(table, path.parent)
    if len(faults) > before or private_key is None or certificate is None or output is None or listen is None:
        return None
    comma: Literal[".", ","] = "," if decimal == "," else "."
    return Local(data, private_key, certificate, output, listen, comma, or_default(encoding, "utf-8"), missing, compute)


def _reading(path: Path, party: Party) -> Local | None:
    """What reading the table takes, out of a local file with faults; they have been told already."""
    unheard: list[str] = []
    table = _local_table(path, unheard)
    if table is None:
        return None
    before = len(unheard)
    data = _data(table, path.parent, party)
    decimal, encoding, missing = table.choice("decimal", (".", ",")), _encoding(table), _missing(table, party)
    if data is None or len(unheard) > before:
        return None
    nowhere = path.parent
    return Local(
        data, nowhere, b"", nowhere, ("", 0), "," if decimal == "," else ".", or_default(encoding, "utf-8"), missing
    )


def _data(table: Table, folder: Path, party: Party | None) -> Path | None:
    if party is not None and party.role == "third-party":
        if "data" in table.values:
            table.fault("data", "is for controllers only; the third party has no table")
        return None
    if party is not None:
        table.require("data", "name this party's table, a .csv or .parquet file")
    path = table.path("data", folder)
    if path is not None:
        words = _data_fault(path)
        if words:
            table.fault("data", f"{path} {words}")
    return path


def _data_fault(path: Path) -> str:
    try:
        if not path.exists():
            return "does not exist"
        if not path.is_file():
            return "is not a file"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if path.suffix.lower() not in TABLE_SUFFIXES:
        return f"has a name that ends neither in {' nor in '.join(TABLE_SUFFIXES)}"
    return "" if os.access(path, os.R_OK) else "may not be read by this user"


def _own_key(table: Table, folder: Path, party: Party | None, now: datetime) -> tuple[Path | None, bytes | None]:
    """The private key's file, and the certificate of `party` that fits it."""
    table.require("private_key", "name the file of this party's TLS key")
    path = table.path("private_key", folder)
    if path is None:
        return None, None
    try:
        pins.check_private(path)
    except (ValueError, OSError) as error:
        table.fault("private_key", f"{path} {error}")
    try:
        key = pins.read_private_key(path)
        certificate = None if party is None else _fitting(party, key, now)
    except ValueError as error:
        table.fault("private_key", f"{path} {error}")
        return path, None
    return path, certificate


def _fitting(party: Party, key: bytes, now: datetime) -> bytes:
    fitting = [certificate for certificate in party.certificates if pins.public_key(certificate) == key]
    if not fitting:
        raise ValueError(
            f"does not fit the certificate of party {party.name} in the agreement: name the key made with it, "
            "or make both anew with keygen --force and send the certificate to the others"
        )
    try:
        pins.check_validity(fitting, now)
    except ValueError as error:
        raise ValueError(f"fits a certificate that {error}") from None
    valid = [certificate for certificate in fitting if pins.validity(certificate)[0] <= now]
    return max(valid, key=lambda certificate: pins.validity(certificate)[1])


def _output(table: Table, folder: Path, party: Party | None) -> Path | None:
    path = table.path("output", folder)
    if path is None and "output" not in table.values and party is not None:
        path = (folder / "results" / party.name).absolute()
    if path is not None:
        words = _output_fault(path)
        if words:
            table.fault("output", f"{path} {words}")
    return path


def _output_fault(path: Path) -> str:
    """What keeps us from making files in a folder or, if it is not there, from making it."""
    try:
        existing = next(folder for folder in (path, *path.parents) if folder.exists())
        if not existing.is_dir():
            return "is not a folder" if existing == path else f"cannot be made, since {existing} is not a folder"
        if (path / "result.json").is_dir():
            return "holds a folder of the name result.json, where the result is to be"
        with tempfile.TemporaryFile(dir=existing):  # tried, as access rights tell only half; leaves no trace
            return ""
    except OSError as error:
        return f"cannot be written to ({error.strerror})"


def _listen(table: Table, party: Party | None) -> tuple[str, int] | None:
    if "listen" not in table.values:
        return None if party is None else party.address
    text = table.text("listen")
    if text is None:
        return None
    host, colon, port = text.strip().lower().rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    digits = port.isascii() and port.isdigit() and len(port) <= 5
    if colon and _is_host(bare) and (":" in bare) == (bare != host) and digits and 0 < int(port) < 65536:
        return bare, int(port)
    table.fault("listen", 'must be host and port, for example "127.0.0.1:8440" or "[::1]:8440"')
    return None


def _encoding(table: Table) -> str | None:
    text = table.text("encoding")
    if text is None:
        return None
    sample = 'a,0;\t"\n'
    try:
        # To and fro, since Python also knows "encodings" that are none of text, such as zip and base64.
        if sample.encode(text).decode(text) == sample:
            return codecs.lookup(text).name
    except (LookupError, ValueError):
        pass
    table.fault("encoding", f"is not known: {shown(text)}; usual ones are utf-8, cp1252, latin-1 and utf-16")
    return None


def _missing(table: Table, party: Party | None) -> tuple[str, ...]:
    texts = table.texts("missing")
    missing = MISSING if texts is None else tuple(dict.fromkeys(clean(text) for text in texts))
    folded = {text.casefold() for text in missing}
    for column, levels in {} if party is None else party.categories.items():
        for level in levels:
            if level.casefold() in folded:
                table.fault(
                    "missing",
                    f"{'holds' if texts is not None else 'is not given and by default holds'} {shown(level)}, which is "
                    f"an agreed level of {shown(column)}; list what stands for a missing value and leave the level out",
                )
    return missing
