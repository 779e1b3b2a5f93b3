"""Which tables this controller has joined: a changed one is joined again only under a higher revision.

Two joins of a study with one person more or less in a table tell, by their
numbers of matches alone, whether that person is in the other table. So a
controller's software remembers, from the moment at which the number of matches
is known, what the table was like, and before anything is sent it refuses to join
another one under the same revision of the agreement, which all parties would
have to raise together.

`<output>/joins.json` holds a salted hash of the prepared table, no value and no
identifier. Who deletes it frees himself from this discipline; it binds a party's
own people, not an attacker.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline.agreement import Study
from pipeline.errors import ConfigError
from pipeline.preprocess import PreparedTable

FILE = "joins.json"
FORMAT = 1
SALT_BYTES = 16
MAX_BYTES = 1 << 20
LABEL = b"secure-lasso-pipeline/prepared-table/v1"
_SCRYPT = {"n": 1 << 15, "r": 8, "p": 1, "maxmem": 1 << 26, "dklen": 32}
_ROWS = 1 << 12  # hashed at once


@dataclass(frozen=True)
class Join:
    """What is remembered of the last join of a study; `salt` and `table` in hex."""

    revision: int
    salt: str
    table: str
    matched: str  # when the number of matches was learnt


@dataclass(frozen=True)
class Planned:
    """A join that is allowed; to be recorded as soon as it has told something."""

    output: Path
    study: str
    join: Join

    def record(self) -> None:
        """Remember the join; on the disk when this returns. Raises ConfigError."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        _write(self.output, _read(self.output) | {self.study: replace(self.join, matched=now)})


def planned(output: Path, study: Study, table: PreparedTable) -> Planned:
    """Allow the join of a table. Raises ConfigError if another one was joined under this revision or a higher one."""
    last = _read(output).get(study.name)
    salt = secrets.token_bytes(SALT_BYTES) if last is None else bytes.fromhex(last.salt)
    found = fingerprint(digest_of(table), salt)
    if last is not None and study.revision <= last.revision and not hmac.compare_digest(found, last.table):
        raise ConfigError(
            f"the table, or what the agreement uses of it, has changed since the study {study.name} was joined under "
            f"revision {last.revision}, and two joins tell by their difference about single persons; put the table "
            f"back as it was, or agree with all parties on `revision = {last.revision + 1}` in [study] to join it anew"
        )
    revision = study.revision if last is None else max(study.revision, last.revision)
    return Planned(output, study.name, Join(revision, salt.hex(), found, ""))


def digest_of(table: PreparedTable) -> bytes:
    """SHA-256 of the complete rows, identifiers and values, whatever order they are in."""
    identifiers, values = table.identifiers, table.values
    order = sorted(range(len(identifiers)), key=identifiers.__getitem__)
    digest = hashlib.sha256(LABEL + json.dumps(values.shape).encode())
    for first in range(0, len(order), _ROWS):
        rows = order[first : first + _ROWS]
        digest.update(json.dumps([identifiers[row] for row in rows]).encode())
        digest.update(values[rows].astype("<f8").tobytes())
    return digest.digest()


def fingerprint(digest: bytes, salt: bytes) -> str:
    """What is stored of a table: scrypt, so that guesses at a table of which little is unknown cost something."""
    return hashlib.scrypt(digest, salt=salt, **_SCRYPT).hex()


def _read(output: Path) -> dict[str, Join]:
    path = output / FILE
    try:
        if not path.exists():
            return {}
        with path.open("rb") as file:
            content: Mapping[str, Any] = json.loads(file.read(MAX_BYTES))
        if content["format"] != FORMAT:
            raise ValueError("another format")
        joins = {name: Join(**values) for name, values in content["joins"].items()}
        for join in joins.values():
            bytes.fromhex(join.salt + join.table)
            if type(join.revision) is not int:
                raise ValueError("no revision")
        return joins
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path} is not as it was written, and without it nobody knows which tables have been joined; put it back, "
            "or agree on a higher `revision` and remove it"
        ) from error


def _write(output: Path, joins: Mapping[str, Join]) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=output, prefix=".joins-")  # mode 0600
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                content = {"format": FORMAT, "joins": {name: asdict(join) for name, join in joins.items()}}
                json.dump(content, file, indent=2, ensure_ascii=False)
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, output / FILE)  # noqa: PTH105 (one call, atomic)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ConfigError(
            f"{output / FILE} cannot be written ({error.strerror}); mend that, then start again at all parties"
        ) from error
