"""A party's Shamir shares of the matched table in a folder of its own, where the agreement says `keep_shares`.

    <output>/shares/            mode 0700, its files 0600
        <join>.npy              uint64 (records, columns, words), in the secret order of the records
        kept.json               what belongs to it, and the counts

While the join goes on, shares are in a file without a name, which is gone with
the last process that has it open, whatever ends the join. Once all parties have
come to the analysis it gets its name, and `kept.json`, which is replaced in one
act, names it; whoever looks sees the shares of one whole join or none.

One party's folder says nothing about values beyond that party's own: shares are
uniform. The folders of two parties together hold the table.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from dataclasses import field as attribute
from multiprocessing import reduction
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from pipeline.agreement import Agreement
from pipeline.analyses import Statement
from pipeline.errors import ConfigError, RemoteProtocolError, SharesMissing
from pipeline.field import CHUNK, FIELD_127, FIELD_191, FIELD_254, FoldAccumulator, PrimeField
from pipeline.messages import Words
from pipeline.share_convert import GramShare

FOLDER = "shares"
ABOUT = "kept.json"
FORMAT = 1
MAX_ABOUT_BYTES = 64 << 20  # of `kept.json`
JOIN_LABEL = b"secure-lasso-pipeline/join/v1"
_FIELDS = {field.name: field for field in (FIELD_127, FIELD_191, FIELD_254)}
_OVERWRITTEN_AT_ONCE = 1 << 20  # bytes
_AGAIN = "run the study again at all parties, or put the folder back as it was"


def join_identifier(session: bytes) -> bytes:
    """What the shares of one join are known by at all parties. The session identifier itself is a salt."""
    return hashlib.sha256(JOIN_LABEL + session).digest()


@dataclass(frozen=True)
class About:
    """What belongs to kept shares: the content of `kept.json`.

    party : the number of the party whose shares they are.
    join, join_digest : in hex, as in `Statement`.
    widths : encoded columns of each controller, in their order.
    exponents : of all columns; None at the third party, as `offsets` and `two_valued` are, which are of own columns.
    read, dropped : a controller's own rows, as in its result.
    sha256 : of the file of shares.
    """

    study: str
    revision: int
    party: int
    join: str
    join_digest: str
    field: str
    records: int
    widths: tuple[int, ...]
    exponents: tuple[int, ...] | None
    offsets: tuple[int, ...] | None = attribute(repr=False)
    two_valued: tuple[tuple[float, float] | None, ...] | None = attribute(repr=False)
    read: int
    dropped: Mapping[str, int]
    created: str
    keep_until: str | None
    analyses: int
    opened: int
    sha256: str

    @property
    def statement(self) -> Statement:
        return Statement(bytes.fromhex(self.join), bytes.fromhex(self.join_digest), self.analyses, self.opened)

    def counted(self, statement: Statement) -> About:
        return replace(self, analyses=statement.analyses, opened=statement.opened)

    @property
    def columns(self) -> int:
        return sum(self.widths)

    @property
    def file(self) -> str:
        return f"{self.join}.npy"


# --- writing --------------------------------------------------------------------------------------


class UnnamedFile:
    """A file in `folder` that has no name, so that it ends with the processes that have it open.

    It can be handed to a process that is being started.
    """

    def __init__(self, file: IO[bytes], folder: Path) -> None:
        self.file = file
        self.folder = folder

    @classmethod
    def inside(cls, folder: Path) -> UnnamedFile:
        """Raises ConfigError."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return cls(_without_name(folder), folder)
        except OSError as error:
            raise _not_written(folder, error) from error

    def __reduce__(self) -> tuple[Any, tuple[Any, Path]]:
        return _handed_over, (reduction.DupFd(self.file.fileno()), self.folder)

    def link(self, target: Path) -> None:
        """Give the file a name; copied, where a file system cannot do that. Nothing is there if it fails."""
        target.unlink(missing_ok=True)
        try:
            own_files = os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY)
            try:  # relative to a folder, or Python does not follow the link
                os.link(str(self.file.fileno()), target, src_dir_fd=own_files, follow_symlinks=True)
            finally:
                os.close(own_files)
        except OSError:
            self.file.seek(0)
            try:
                with _private_file(target) as copy:
                    shutil.copyfileobj(self.file, copy, _OVERWRITTEN_AT_ONCE)
                    copy.flush()
                    os.fsync(copy.fileno())
            except BaseException:
                target.unlink(missing_ok=True)
                raise

    def close(self) -> None:
        self.file.close()


def _handed_over(duplicate: Any, folder: Path) -> UnnamedFile:
    return UnnamedFile(os.fdopen(duplicate.detach(), "r+b", buffering=0), folder)


def _without_name(folder: Path) -> IO[bytes]:
    """A file that can get a name later: those of `tempfile` cannot."""
    try:
        descriptor = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:  # not on every file system
        return cast(IO[bytes], tempfile.TemporaryFile(dir=folder, buffering=0))
    return os.fdopen(descriptor, "r+b", buffering=0)


class ShareWriter:
    """Writes the rows of shares as they come, as .npy; memory does not depend on their number."""

    def __init__(self, target: UnnamedFile, records: int, columns: int, field: PrimeField) -> None:
        self._file, self._folder = target.file, target.folder
        self._sha256 = hashlib.sha256()
        self._left = records
        self._row = (columns, field.words)
        self._write(_header((records, columns, field.words)))

    def __call__(self, rows: Words) -> None:
        """Take further rows, (rows, columns, words)."""
        if rows.shape[1:] != self._row or len(rows) > self._left:
            raise ValueError("rows that do not belong to this table")
        self._left -= len(rows)
        self._write(np.ascontiguousarray(rows, "<u8").tobytes())

    def end(self) -> str:
        """SHA-256 of the file, in hex, when all rows are on the disk."""
        if self._left:
            raise ValueError("rows are missing")
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            raise _not_written(self._folder, error) from error
        return self._sha256.hexdigest()

    def _write(self, data: bytes) -> None:
        self._sha256.update(data)
        view = memoryview(data)
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            raise _not_written(self._folder, error) from error


def _header(shape: tuple[int, ...]) -> bytes:
    """The beginning of an .npy file in format 1.0."""
    text = f"{{'descr': '<u8', 'fortran_order': False, 'shape': {shape!r}, }}".encode("latin1")
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@dataclass(frozen=True)
class NewShares:
    """Shares whose join is over, before anybody else can see them; `count` is what makes them kept."""

    output: Path
    content: UnnamedFile
    about: About

    @property
    def statement(self) -> Statement:
        return self.about.statement

    def count(self, statement: Statement) -> About:
        """Keep the shares, with these counts, in the place of those of an earlier join; returns what is kept.

        Where they cannot be kept, those of the earlier join stay, and nothing of these.
        """
        folder, about = self.output / FOLDER, self.about.counted(statement)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)
            with _alone(folder):
                target = folder / about.file
                first = not target.exists()
                if first:
                    self.content.link(target)
                try:
                    target.chmod(0o600)
                    _write_about(folder, about)
                except BaseException:
                    if first:
                        _destroy_file(target)
                    raise
                for path in folder.iterdir():
                    if path.name not in (about.file, ABOUT):
                        _destroy_file(path)
        except OSError as error:
            raise _not_written(folder, error) from error
        return about


def _write_about(folder: Path, about: About) -> None:
    """Replace `kept.json` in one act, and have it on the disk before this returns."""
    descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=".kept-")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump({"format": FORMAT} | asdict(about), file, indent=2, ensure_ascii=False, allow_nan=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, folder / ABOUT)  # noqa: PTH105 (one call, atomic)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _sync_folder(folder)


def _counts(about: About) -> tuple[int, int]:
    return about.analyses, about.opened


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """No other session of this party is in here meanwhile."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _private_file(path: Path) -> Iterator[IO[bytes]]:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        yield file


def _not_written(folder: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"the shares cannot be written to {folder} ({error.strerror}); mend that, then start again at all parties"
    )


# --- reading --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class KeptShares:
    """Shares that are kept here, as `find` has checked them."""

    output: Path
    about: About

    @property
    def statement(self) -> Statement:
        return self.about.statement

    def count(self, statement: Statement) -> About:
        """Write these counts down; on the disk when this returns.

        Raises ConfigError; SharesMissing if another session has counted an analysis meanwhile, or joined anew.
        """
        folder, about = self.output / FOLDER, self.about.counted(statement)
        try:
            with _alone(folder):
                now = _read_about(self.output)
                if now is None or now.join != about.join or _counts(now) >= _counts(about):
                    raise SharesMissing(f"the shares in {folder} were used by another session meanwhile; start again")
                _write_about(folder, about)
        except OSError as error:
            raise _not_written(folder, error) from error
        return about

    def gram(self, folds: int) -> GramShare:
        """The share of the Gram matrices of so many folds. Raises SharesMissing if the file is damaged."""
        field = _FIELDS[self.about.field]
        accumulator = FoldAccumulator(field, self.about.columns, folds)
        try:
            for rows in self._pieces(field):
                field.validate(rows)
                accumulator.add_sum(rows, np.zeros_like(rows))
        except (OSError, ValueError, RemoteProtocolError) as error:
            raise _damaged(self.output) from error
        return GramShare(self.about.records, field, accumulator.result(), folds)

    def _pieces(self, field: PrimeField) -> Iterator[Words]:
        """The rows of the file, in pieces; raises ValueError, at the end, if it is not the file that was written."""
        records, row = self.about.records, (self.about.columns, field.words)
        step = max(1, CHUNK // max(1, self.about.columns))
        sha256 = hashlib.sha256()
        with (self.output / FOLDER / self.about.file).open("rb") as file:
            header = _header((records, *row))
            sha256.update(file.read(len(header)))
            for first in range(0, records, step):
                count = min(step, records - first)
                data = file.read(count * math.prod(row) * 8)
                sha256.update(data)
                yield np.frombuffer(data, "<u8").astype(np.uint64).reshape(count, *row)
            sha256.update(file.read(1))
        if sha256.hexdigest() != self.about.sha256:
            raise ValueError("not the file that was written")


def find(output: Path, agreement: Agreement, party_id: int) -> KeptShares:
    """The shares of this study that are kept here. Raises SharesMissing if there are none that may be used."""
    folder = output / FOLDER
    about = _read_about(output)
    if about is None:
        raise SharesMissing(f"no shares are kept in {folder}; run the study again at all parties")
    if about.study != agreement.study.name:
        raise SharesMissing(f"the shares in {folder} are of the study {about.study}, not of {agreement.study.name}")
    if about.party != party_id:
        raise SharesMissing(f"the shares in {folder} are those of party {about.party}, not of party {party_id}")
    for path in (folder, folder / ABOUT, folder / about.file):
        if not path.exists():
            raise _damaged(output)
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise SharesMissing(f"{path} may be read or used by others; run chmod -R go= {folder}")
    return KeptShares(output, about)


def _read_about(output: Path) -> About | None:
    path = output / FOLDER / ABOUT
    try:
        if not path.exists():
            return None
        if path.stat().st_size > MAX_ABOUT_BYTES:
            raise ValueError("too long")
        values = json.loads(path.read_text(encoding="utf-8"))
        if values.pop("format") != FORMAT:
            raise SharesMissing(f"{path} was written by another version of the software; use that one, or {_AGAIN}")
        return _about(values)
    except OSError as error:
        raise SharesMissing(f"{path} cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(output) from error


def _about(values: dict[str, Any]) -> About:
    """Raises ValueError, KeyError or TypeError for anything `_write_about` does not write."""
    for key in ("widths", "exponents", "offsets"):
        values[key] = None if values[key] is None else tuple(int(value) for value in values[key])
    if values["two_valued"] is not None:
        pairs = (None if pair is None else (float(pair[0]), float(pair[1])) for pair in values["two_valued"])
        values["two_valued"] = tuple(pairs)
    about = About(**values)
    numbers = (about.records, about.analyses, about.opened, *about.widths)
    if min(numbers) < 0 or about.records < 1 or about.field not in _FIELDS or len(bytes.fromhex(about.join)) != 32:
        raise ValueError("numbers that cannot be")
    if about.exponents is not None and len(about.exponents) != about.columns:
        raise ValueError("exponents of other columns")
    if any(own is not None and len(own) not in about.widths for own in (about.offsets, about.two_valued)):
        raise ValueError("offsets or pairs of other columns")
    if len(bytes.fromhex(about.join_digest)) != 32:
        raise ValueError("not a digest")
    return about


def _damaged(output: Path) -> SharesMissing:
    return SharesMissing(f"the shares in {output / FOLDER} are incomplete or not as they were written; {_AGAIN}")


# --- destroying -----------------------------------------------------------------------------------


def refuse_other_study(output: Path, study: str) -> None:
    """Raise ConfigError if a join of `study` would destroy the shares of another one."""
    with contextlib.suppress(SharesMissing):
        about = _read_about(output)
        if about is not None and about.study != study:
            raise ConfigError(
                f"{output / FOLDER} holds the shares of the study {about.study}, which those of {study} would replace; "
                "name another `output`, or forget those first"
            )


def destroy(output: Path, study: str) -> str:
    """Overwrite and remove the shares of `study` that are kept here; returns a sentence that says what was done.

    Raises ConfigError when they cannot be removed.
    """
    folder = output / FOLDER
    about = None
    with contextlib.suppress(SharesMissing):
        about = _read_about(output)
        if about is not None and about.study != study:
            return f"No shares of the study {study} are kept in {folder}; those of the study {about.study} stay there."
    if not folder.is_dir():
        return f"No shares are kept in {folder}; there was nothing to destroy."
    try:
        paths = sorted(folder.iterdir(), key=lambda path: path.name == ABOUT)  # last: it tells what is left
        size = sum(path.stat().st_size for path in paths)
        for path in paths:
            _destroy_file(path)
        _sync_folder(folder)
        folder.rmdir()
    except OSError as error:
        raise ConfigError(f"not all shares in {folder} could be destroyed ({error.strerror}); mend that") from error
    what = f"{len(paths)} files"
    if about is not None:
        what = (
            f"this party's shares of {about.records} matched records in {about.columns} columns, of the join of "
            f"{about.created}, after {about.analyses} of its analyses"
        )
    return (
        f"Destroyed in {folder}: {what} ({math.ceil(size / 1024)} KiB). They were overwritten and removed; copies that "
        "a solid-state disk, a snapshot or a backup may hold are not reached by that."
    )


def _destroy_file(path: Path) -> None:
    if path.is_symlink():  # what it leads to is not ours
        path.unlink()
        return
    with path.open("r+b") as file:
        left = path.stat().st_size
        while left > 0:
            left -= file.write(bytes(min(left, _OVERWRITTEN_AT_ONCE)))
        file.flush()
        os.fsync(file.fileno())
    path.unlink()
