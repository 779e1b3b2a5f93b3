"""Reads TOML files whose author is a person: every fault is noted, none stops the reading.

A `Table` hands out the values of one table under the types the caller names.
What is missing or of a wrong type becomes a sentence in `faults`, which names
file and key, and None or what is left takes the value's place, so that one
reading finds every fault and none twice. Whoever reads must look at `faults`
before believing a value.
"""

from __future__ import annotations

import difflib
import math
import re
import tomllib
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from datetime import date, datetime
from pathlib import Path
from typing import TypeVar

MAX_FILE_BYTES = 1 << 20
MAX_TEXT = 200  # characters of a name, a column or a level

T = TypeVar("T")


def read_toml(path: Path, faults: list[str], advice: str) -> dict[str, object] | None:
    """Return the content of a file, or None with one fault; `advice` follows when it does not exist."""
    try:
        if not path.exists():
            faults.append(f"{path} does not exist; {advice}")
            return None
        if not path.is_file():
            faults.append(f"{path} is not a file; {advice}")
            return None
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        faults.append(f"{path} cannot be read ({error.strerror})")
        return None
    return _parse(data, path.name, faults)


def _parse(data: bytes, name: str, faults: list[str]) -> dict[str, object] | None:
    if len(data) > MAX_FILE_BYTES:
        faults.append(f"{name} is larger than {MAX_FILE_BYTES >> 20} MiB, so it cannot be what it should be")
        return None
    try:
        return tomllib.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        faults.append(f"{name} is not UTF-8 text (line {line}); save it as UTF-8")
    except tomllib.TOMLDecodeError as error:
        faults.append(f"{name} is not valid TOML: {error}")
    except (ValueError, RecursionError):  # a number of thousands of digits, brackets a thousand deep
        faults.append(f"{name} is not valid TOML: a number is too long or brackets are nested too deep")
    return None


def clean(text: str) -> str:
    """Trimmed and in Unicode NFC, as cells and headers of tables are compared."""
    return unicodedata.normalize("NFC", text.strip())


def shown(text: str) -> str:
    """`text` in quotes, short, without anything that could disturb a terminal."""
    plain = "".join(c if printable(c) else "?" for c in text)
    return f'"{plain[:60]}…"' if len(plain) > 60 else f'"{plain}"'


def nearest(word: str, known: Collection[str]) -> str:
    """The one of `known` that looks most like `word`."""
    lower = {name.lower(): name for name in sorted(known, reverse=True)}
    return lower[difflib.get_close_matches(word.lower(), sorted(lower), n=1, cutoff=0.0)[0]]


def repeated(words: Iterable[T]) -> list[T]:
    """The words that occur more than once, each once, in order."""
    return [word for word, count in Counter(words).items() if count > 1]


def or_default(value: T | None, default: T) -> T:
    return default if value is None else value


def printable(text: str) -> bool:
    """Whether `text` has no line break, no control sign and no half of a surrogate pair."""
    return all(unicodedata.category(c) not in ("Cc", "Cs", "Zl", "Zp") for c in text)


class Table:
    """The values of one TOML table, and where to note what is wrong with them.

    `file` and `at` begin every fault: "study.toml: " and "model." or
    "party hospital: ".
    """

    def __init__(self, values: Mapping[str, object], file: str, at: str, faults: list[str]) -> None:
        self.values = values
        self.file = file
        self.at = at
        self.faults = faults

    def fault(self, key: str, words: str) -> None:
        self.faults.append(f"{self.file}: {self.at}{_key(key)} {words}")

    def refuse_unknown(self, known: Collection[str], what: str = "key") -> None:
        for key in self.values:
            if key not in known:
                self.faults.append(
                    f"{self.file}: {self.at}{shown(key)} is an unknown {what}; the nearest known one is "
                    f'"{nearest(key, known)}"'
                )

    def require(self, key: str, advice: str) -> None:
        """Note a fault when the key is absent; `advice` says what belongs there."""
        if key not in self.values:
            self.fault(key, f"is missing; {advice}")

    def table(self, key: str, advice: str) -> Table:
        """The table under `key`; an empty one when it is absent or something else."""
        value = self.values.get(key, {})
        if not isinstance(value, dict):
            self.fault(key, f"must be a table, not {_kind(value)}; {advice}")
            value = {}
        return Table(value, self.file, f"{self.at}{key}.", self.faults)

    def columns(self) -> dict[str, str]:
        """The keys of this table, where they are names of columns: cleaned name to key as written."""
        found: dict[str, str] = {}
        for key in self.values:
            name = self._clean(key, key)
            if name in found:
                self.fault(key, "is there more than once")
            elif name is not None:
                found[name] = key
        return found

    def truth(self, key: str) -> bool | None:
        return self._take(key, "true or false", lambda value: value if isinstance(value, bool) else None)

    def whole(self, key: str, low: int, high: int) -> int | None:
        value = self._take(key, "a whole number", _whole)
        if value is not None and not low <= value <= high:
            self.fault(key, f"must be a whole number from {low} to {high}")
            return None
        return value

    def number(self, key: str) -> float | None:
        """A finite number; a whole one will do, and minus zero is zero."""
        return self._take(key, "a finite number", as_number)

    def numbers(self, key: str) -> tuple[float, ...] | None:
        """A list of numbers as `number` reads them; what is none is left out."""
        values = self._take(key, "a list of numbers", lambda value: value if isinstance(value, list) else None)
        if values is None:
            return None
        others = [value for value in values if as_number(value) is None]
        if others:
            self.fault(key, f"must hold finite numbers only, not {_kind(others[0])}")
        return tuple(number for number in map(as_number, values) if number is not None)

    def day(self, key: str) -> date | None:
        """A date without a time."""
        return self._take(key, "a date such as 2031-12-31, without quotes", _day)

    def text(self, key: str) -> str | None:
        """Text that is not empty, as written."""
        value = self._take(key, "text", _text)
        if value is not None and not value.strip():
            self.fault(key, "must not be empty")
            return None
        return value

    def path(self, key: str, folder: Path) -> Path | None:
        """An absolute path; a relative one counts from `folder`."""
        value = self.text(key)
        if value is not None and not printable(value):
            self.fault(key, "holds a line break or another sign that cannot be printed")
            return None
        return None if value is None else (folder / value).absolute()

    def choice(self, key: str, choices: Collection[str], *, hint: bool = False) -> str | None:
        """One of `choices`; with `hint`, a fault names the nearest one."""
        value = self._take(key, "text", _text)
        if value is not None and value not in choices:
            allowed = " or ".join(f'"{choice}"' for choice in choices)
            words = f'; the nearest one is "{nearest(value, choices)}"' if hint else ""
            self.fault(key, f"must be {allowed}, not {shown(value)}{words}")
            return None
        return value

    def name(self, key: str) -> str | None:
        """A name as `clean` makes it: not empty, one line, not long."""
        value = self.text(key)
        return None if value is None else self._clean(key, value)

    def names(self, key: str) -> tuple[str, ...] | None:
        """A list of names as `name` reads them; what is faulty or there twice is left out."""
        texts = self.texts(key)
        if texts is None:
            return None
        cleaned = [self._clean(key, text) for text in texts]
        names = [name for name in cleaned if name is not None]
        for name in repeated(names):
            self.fault(key, f"names {shown(name)} more than once")
        return tuple(dict.fromkeys(names))

    def texts(self, key: str) -> tuple[str, ...] | None:
        """A list of texts, as written; what is no text is left out."""
        values = self._take(key, "a list of texts", lambda value: value if isinstance(value, list) else None)
        if values is None:
            return None
        others = [value for value in values if not isinstance(value, str)]
        if others:
            self.fault(key, f"must hold texts only, not {_kind(others[0])}; put quotes around each")
        return tuple(value for value in values if isinstance(value, str))

    def _clean(self, key: str, text: str) -> str | None:
        name = clean(text)
        if not name:
            self.fault(key, "must not hold an empty text")
        elif len(name) > MAX_TEXT:
            self.fault(key, f"holds a text longer than {MAX_TEXT} characters")
        elif not printable(name):
            self.fault(key, f"holds a line break or another sign that cannot be printed: {shown(name)}")
        else:
            return name
        return None

    def _take(self, key: str, wanted: str, read: Callable[[object], T | None]) -> T | None:
        """The value under `key` as `read` has it; None, with a fault, when that is None; None when absent."""
        if key not in self.values:
            return None
        value = read(self.values[key])
        if value is None:
            self.fault(key, f"must be {wanted}, not {_kind(self.values[key])}")
        return value


def as_number(value: object) -> float | None:
    """A finite number as float, or None; true and false are no numbers."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value) + 0.0  # minus zero becomes zero: one spelling in the digest
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _day(value: object) -> date | None:
    return value if isinstance(value, date) and not isinstance(value, datetime) else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _key(key: str) -> str:
    """A key as TOML would have it written."""
    return key if re.fullmatch("[A-Za-z0-9_.-]+", key) else shown(key)


def _kind(value: object) -> str:
    match value:
        case bool():
            return "true or false"
        case int() | float() if as_number(value) is None:
            return "one that is infinite, undefined or too large"
        case int():
            return "a whole number"
        case float():
            return "a number with a decimal point"
        case str():
            return "text"
        case list():
            return "a list"
        case dict():
            return "a table"
        case datetime():
            return "a date with a time"
        case _:
            return "a date or time"
