"""What a person sees of a run: a bar per step and tables; plain lines and signs where there is no terminal."""

from __future__ import annotations

import sys
import time
from typing import Protocol, TextIO

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

ANY_WIDTH = 10_000  # characters; in a file nothing needs to be cut or wrapped


class Reporter(Protocol):
    """Takes notice of steps; `words` says what is happening, for a person."""

    def step(self, words: str) -> None:
        """A new step begins; the one before it has ended."""

    def advance(self, done: int, total: int) -> None:
        """The present step has done `done` of `total`."""

    def note(self, words: str) -> None:
        """Something worth a line of its own."""

    def close(self) -> None:
        """The last step has ended."""

    def stop(self) -> None:
        """The present step has failed."""


class Silent:
    """Shows nothing."""

    def step(self, words: str) -> None: ...

    def advance(self, done: int, total: int) -> None: ...

    def note(self, words: str) -> None: ...

    def close(self) -> None: ...

    def stop(self) -> None: ...


class Lines:
    """One plain line when a step begins and one when it has ended."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._words = ""
        self._since = 0.0

    def step(self, words: str) -> None:
        if words == self._words:
            return
        self.close()
        self._words, self._since = words, time.monotonic()
        self.note(f"{words} ...")

    def advance(self, done: int, total: int) -> None: ...

    def note(self, words: str) -> None:
        self._stream.write(words + "\n")
        self._stream.flush()

    def close(self) -> None:
        if self._words:
            self.note(f"{self._words}: done in {time.monotonic() - self._since:.1f} s")
        self._words = ""

    def stop(self) -> None:
        self._words = ""


class Bars:
    """A bar per step on a terminal."""

    def __init__(self, console: Console) -> None:
        self._progress = Progress(
            SpinnerColumn(finished_text="✓"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            console=console,
        )
        self._task: TaskID | None = None
        self._words = ""

    def step(self, words: str) -> None:
        if words == self._words:
            return
        self._complete()
        self._words = words
        self._progress.start()  # not before: it starts a thread, and a process with threads cannot be copied
        self._task = self._progress.add_task(words, total=None)

    def advance(self, done: int, total: int) -> None:
        if self._task is not None:
            # Only the next step says that this one is over: there is work after the last part has been counted.
            self._progress.update(self._task, completed=min(done, 0.99 * total), total=max(total, 1))

    def note(self, words: str) -> None:
        self._progress.console.print(words, highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        self._complete()
        self._progress.stop()

    def stop(self) -> None:
        self._progress.stop()

    def _complete(self) -> None:
        if self._task is not None:
            self._progress.update(self._task, completed=1, total=1)
        self._task = None
        self._words = ""


def reporter() -> Reporter:
    """Bars on a terminal, lines elsewhere."""
    if sys.stderr.isatty():
        return Bars(Console(stderr=True))
    return Lines(sys.stderr)


def standard_output(*, markup: bool = False) -> Console:
    """For tables and sentences on standard output, which may be a file or a pipe."""
    console = Console(markup=markup, highlight=False)
    if not console.is_terminal:
        console.width = ANY_WIDTH
    return console


def print_table(table: Table, console: Console) -> None:
    """Print a table, with a frame of plain ASCII where there is no terminal."""
    if not console.is_terminal:
        table.box = box.ASCII
    console.print(table)
