r"""Writes a complete small study into a folder: agreement, local files, keys, certificates, tables.

    path = make_study(tmp_path, hospital_csv="id,age,days\n1,50,3\n", insurer_csv="id,income\n1,7\n")

The first column of a table is its identifier, the last one of the hospital's
table the outcome, all others are numeric features. Arguments change that:
`model`, `study`, `join`, `opened` and `gate` are merged into the tables of these
names ([open] for `opened`; all rules of [gate] are off unless given, for small tables),
`hospital`, `insurer` and `third_party` into their [[party]], `local` maps a
party's number to what is merged into its local file. The value None takes a
key away.
"""

from __future__ import annotations

import csv
import functools
import io
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path

from cryptography.hazmat.primitives import serialization

from pipeline.certificates import make_certificate, new_key
from pipeline.local_study import free_ports

NAMES = ("hospital", "insurer", "third-party")
HOST = "127.0.0.1"
SMALL_KEYS = 2048  # bits; the smallest a study may have
NO_RULES = dict.fromkeys(("min_residual_df", "max_parameters_ratio", "min_level_count", "max_r2"), False)

Values = Mapping[str, object]


def make_study(
    folder: Path,
    *,
    hospital_csv: str,
    insurer_csv: str,
    model: Values | None = None,
    study: Values | None = None,
    join: Values | None = None,
    opened: Values | None = None,
    gate: Values | None = None,
    hospital: Values | None = None,
    insurer: Values | None = None,
    third_party: Values | None = None,
    local: Mapping[int, Values] | None = None,
    ports: Sequence[int] | None = None,
) -> Path:
    """Return the path of study.toml. Ports are free ones on 127.0.0.1 unless given."""
    tables = (hospital_csv, insurer_csv, None)
    changes = (hospital or {}, insurer or {}, third_party or {})
    places = ports or free_ports(len(NAMES))
    parties = []
    for number, name in enumerate(NAMES):
        party: dict[str, object] = {
            "id": number,
            "name": name,
            "role": "third-party" if tables[number] is None else "controller",
            "url": f"https://{HOST}:{places[number]}",
            "certificate": f"certificates/{name}.pem",
        }
        parties.append(_merged(party | _columns(tables[number], outcome=number == 0), changes[number]))
        _write_local(folder, number, tables[number], (local or {}).get(number, {}))
        write_keys(folder, name)
    sections = {
        "study": _merged({"name": "small-study", "min_records": 10}, study or {}),
        "join": _merged({"paillier_bits": SMALL_KEYS}, join or {}),
        "model": _merged({"kind": "lasso", "alpha": 0.1}, model or {}),
        "open": _merged({}, opened or {}),
        "gate": _merged(NO_RULES, gate or {}),
    }
    path = folder / "study.toml"
    path.write_text(agreement_text(parties, sections), encoding="utf-8")
    return path


def agreement_text(parties: Sequence[Values], sections: Mapping[str, Values]) -> str:
    """The text of study.toml."""
    blocks = [_block(f"[{name}]", values) for name, values in sections.items()]
    return "\n".join([*blocks, *(_block("[[party]]", party) for party in parties)])


def write_keys(folder: Path, name: str, host: str = HOST, now: datetime | None = None) -> None:
    """Write keys/<name>.key and certificates/<name>.pem, as keygen does."""
    key_file, certificate_file = folder / "keys" / f"{name}.key", folder / "certificates" / f"{name}.pem"
    private, public = _pair(name, host) if now is None else _new_pair(name, host, now)
    for path, content in ((key_file, private), (certificate_file, public)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    key_file.chmod(0o600)


def toml(value: object) -> str:
    """Write a value as TOML, on one line."""
    match value:
        case dict():
            return "{ " + ", ".join(f"{toml(key)} = {toml(item)}" for key, item in value.items()) + " }"
        case list() | tuple():
            return "[" + ", ".join(toml(item) for item in value) + "]"
        case date():
            return value.isoformat()
        case float():
            return repr(value)
        case _:
            return json.dumps(value, ensure_ascii=False)


def _block(heading: str, values: Values) -> str:
    return "\n".join([heading, *(f"{key} = {toml(value)}" for key, value in values.items()), ""])


def _merged(values: Values, changes: Values) -> dict[str, object]:
    return {key: value for key, value in {**values, **changes}.items() if value is not None}


def _columns(table: str | None, outcome: bool) -> dict[str, object]:
    if table is None:
        return {}
    header = next(csv.reader(io.StringIO(table)), ["id"])
    if not outcome:
        return {"identifier": header[:1], "features": header[1:]}
    return {"identifier": header[:1], "features": header[1:-1], "outcome": header[-1]}


def _write_local(folder: Path, number: int, table: str | None, changes: Values) -> None:
    name = NAMES[number]
    values: dict[str, object] = {"private_key": f"keys/{name}.key", "output": f"results/{name}"}
    if table is not None:
        values["data"] = f"data/{name}.csv"
        data = folder / "data" / f"{name}.csv"
        data.parent.mkdir(parents=True, exist_ok=True)
        data.write_text(table, encoding="utf-8")
    (folder / f"party-{number}.toml").write_text(_block("", _merged(values, changes)), encoding="utf-8")


@functools.cache
def _pair(name: str, host: str) -> tuple[bytes, bytes]:
    return _new_pair(name, host, datetime.now(UTC))


def _new_pair(name: str, host: str, now: datetime) -> tuple[bytes, bytes]:
    key = new_key()
    certificate = make_certificate(key, name, host, now)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private, certificate.public_bytes(serialization.Encoding.PEM)
