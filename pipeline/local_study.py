"""A whole study on one machine: its folder, and its three parties as three processes.

The folder is what `docs/` describes (agreement, local files, keys, tables). The
processes know nothing but these files and speak TLS with one another. Whoever
calls this has both tables, so it is for demonstrations and experiments only.
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rich.console import Console
from rich.markup import escape

from pipeline.certificates import keygen
from pipeline.datasets import StudyData, agreement_text, write_csv
from pipeline.errors import ConfigError, OwnInputError, PeerError, PipelineError, Refused
from pipeline.report import OUTPUT_FILES
from pipeline.results import RESULT_FILE

THIRD_PARTY = "third-party"
COLOURS = ("cyan", "green", "magenta")
HEADING = "# Made for a demonstration: invented identifiers, all three parties on one machine."
MADE = "made.sha256"  # the sums of the files of a demonstration, as they were made
END_SECONDS = 15.0  # for the others to end by themselves when one party has failed
UNHEARD_SECONDS = 2.0  # the same when it failed before it had called them, so that they wait for it


# --- the study's folder ---------------------------------------------------------------------------


def write_study(
    folder: Path,
    study: StudyData,
    ports: Sequence[int],
    bits: int,
    force: bool = False,
    sections: Mapping[str, Mapping[str, object]] = MappingProxyType({}),
) -> None:
    """Write agreement, local files, tables and keys of all three parties into `folder`.

    sections : tables of the agreement, see `agreement_text`.

    Writes over an earlier demonstration that nobody has changed since or, with
    `force`, over any; refuses (ConfigError) a folder with anything else in it.
    """
    _require_own_folder(folder, force)
    names = [*(table.party for table in study.tables), THIRD_PARTY]
    folder.mkdir(parents=True, exist_ok=True)
    urls = [f"https://127.0.0.1:{port}" for port in ports]
    (folder / "study.toml").write_text(agreement_text(study, urls, bits, HEADING, sections), encoding="utf-8")
    for number, name in enumerate(names):
        lines = [f'private_key = "keys/{name}.key"', f'output = "results/{name}"']
        if name != THIRD_PARTY:
            lines.insert(0, f'data = "data/{name}.csv"')
        (folder / f"party-{number}.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
        for file in OUTPUT_FILES:
            (folder / "results" / name / file).unlink(missing_ok=True)
    write_csv(study, folder / "data")
    for number in range(len(names)):
        keygen(folder / "study.toml", number, local=None, force=True)
    (folder / MADE).write_text("\n".join(_sums(folder)) + "\n", encoding="utf-8")


def _require_own_folder(folder: Path, force: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; name a folder that is empty or does not exist")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    agreement, made = folder / "study.toml", folder / MADE
    known = made.read_text(encoding="utf-8", errors="replace").splitlines() if made.is_file() else []
    headed = agreement.is_file() and agreement.read_text(encoding="utf-8", errors="replace").startswith(HEADING)
    if not known and not headed:
        raise ConfigError(f"{folder} holds other files; name a folder that is empty or does not exist")
    changed = [line.split("  ", 1)[1] for line in _sums(folder) if line not in known]
    if changed and not force:
        raise ConfigError(
            f"{folder} is not as it was made ({', '.join(changed)}); name a folder that is empty or does not exist, or "
            "--force replaces all of it"
        )


def _sums(folder: Path) -> list[str]:
    """A line for each file of a demonstration that is there, as sha256sum writes it.

    Without results, and without keys: who has put another key there has put its certificate there as well.
    """
    patterns = ("study.toml", "party-*.toml", "data/*", "certificates/*")
    files = [path for pattern in patterns for path in sorted(folder.glob(pattern)) if path.is_file()]
    return [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder)}" for path in files]


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens on now.

    Below those from which systems take the near ends of their connections, or
    such a connection might take one before the party listens there.
    """
    sockets: list[socket.socket] = []
    while len(sockets) < count:
        with suppress(OSError):
            sockets.append(socket.create_server(("127.0.0.1", 10_000 + secrets.randbelow(20_000))))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


# --- three processes ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """A line on a party's standard error."""

    party: str
    text: str


@dataclass(frozen=True)
class Ended:
    """A party's process has ended; negative states are signals."""

    party: str
    state: int


@dataclass(frozen=True)
class Course:
    """How a run of all parties went.

    states : by party, also of those that had to be stopped; negative ones are signals.
    failures : of those that ended by themselves, the first to fail first.
    last : each party's last line.
    """

    seconds: float
    states: Mapping[str, int]
    failures: tuple[Ended, ...]
    last: Mapping[str, str]

    @property
    def error(self) -> PipelineError | None:
        """That of the party at fault; None when all ended well."""
        if not self.failures:
            return None
        # A state of 4 is mostly the echo of what happened at another party.
        echo = PeerError.exit_state
        culprit = next((failure for failure in self.failures if failure.state != echo), self.failures[0])
        return party_error(culprit, self.last[culprit.party])


def run_parties(folder: Path, names: Sequence[str], console: Console) -> float:
    """Run every party of the study in `folder`, show their progress, return the seconds it took.

    When one fails, the others get some seconds to end by themselves; raises
    the error of the one at fault. No process outlives this call.
    """
    begin = time.monotonic()
    colours = dict(zip(names, COLOURS, strict=True))
    for number, name in enumerate(names):
        command = " ".join(_arguments(folder, number))
        console.print(f"[{colours[name]}]{escape(name):12}[/] $ python {escape(command)}", soft_wrap=True)
    console.print()

    def show(line: Line) -> None:
        stamp = f"[dim]{time.monotonic() - begin:6.1f} s[/]"
        console.print(f"{stamp}  [{colours[line.party]}]{escape(line.party):12}[/] {escape(line.text)}", soft_wrap=True)

    course = follow_parties(folder, names, show)
    if (error := course.error) is not None:
        raise error
    return course.seconds


def follow_parties(folder: Path, names: Sequence[str], show: Callable[[Line], None]) -> Course:
    """Run every party of the study in `folder` to its end, or until one has failed and the rest had its time.

    No process outlives this call.
    """
    begin = time.monotonic()
    events: queue.SimpleQueue[Line | Ended] = queue.SimpleQueue()
    processes: dict[str, subprocess.Popen[str]] = {}
    try:
        for number, name in enumerate(names):
            processes[name] = _start(_arguments(folder, number))
            threading.Thread(target=_listen, args=(name, processes[name], events), daemon=True).start()
        failures, last = _follow(names, events, show)
    finally:
        _stop(processes.values())
    states = {name: process.wait() for name, process in processes.items()}
    return Course(time.monotonic() - begin, states, tuple(failures), last)


def _arguments(folder: Path, number: int) -> list[str]:
    return ["-m", "pipeline", "run", "--party-id", str(number), "--config", str(folder / "study.toml")]


def _start(arguments: Sequence[str]) -> subprocess.Popen[str]:
    """Start a party; its progress goes to a pipe, its own table of the model nowhere."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


def _listen(name: str, process: subprocess.Popen[str], events: queue.SimpleQueue[Line | Ended]) -> None:
    if process.stderr is not None:
        for text in process.stderr:
            events.put(Line(name, text.rstrip()))
    events.put(Ended(name, process.wait()))


def _follow(
    names: Sequence[str], events: queue.SimpleQueue[Line | Ended], show: Callable[[Line], None]
) -> tuple[list[Ended], dict[str, str]]:
    """Pass lines on until all have ended well, or one has failed and the rest has ended or had its time.

    Returns who failed, in order, and the last line of each.
    """
    last: dict[str, str] = dict.fromkeys(names, "")
    failures: list[Ended] = []
    running, deadline = set(names), float("inf")
    while running and time.monotonic() < deadline:
        match _next(events, deadline):
            case Line(party, text) as line:
                last[party] = text or last[party]
                show(line)
            case Ended(party, state) as ended:
                running.discard(party)
                if state != 0:
                    failures.append(ended)
                    grace = UNHEARD_SECONDS if state == OwnInputError.exit_state else END_SECONDS
                    deadline = min(deadline, time.monotonic() + grace)
    return failures, last


def _next(events: queue.SimpleQueue[Line | Ended], deadline: float) -> Line | Ended | None:
    try:
        return events.get(timeout=None if deadline == float("inf") else max(0.0, deadline - time.monotonic()))
    except queue.Empty:
        return None


def party_error(failure: Ended, sentence: str) -> PipelineError:
    """The failed party's last sentence as the error with its exit state."""
    if failure.state < 0:
        name = signal.Signals(-failure.state).name
        return PeerError(f"The process of {failure.party} was ended by {name}; run it again.")
    text = f"At {failure.party}: {sentence or 'it ended without a word; run the party by itself with --debug.'}"
    if failure.state == Refused.exit_state:
        return Refused("demo", text)
    for kind in (OwnInputError, PeerError):
        if failure.state == kind.exit_state:
            return kind(text)
    return PeerError(text) if failure.state == 130 else PipelineError(text)


def _stop(processes: Iterable[subprocess.Popen[str]]) -> None:
    """End what still runs: first with a request, so that a party can tell the others."""
    running = [process for process in processes if process.poll() is None]
    for process in running:
        process.terminate()
    for process in running:
        try:
            process.wait(timeout=END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def read_result(folder: Path, name: str) -> dict[str, Any]:
    """The `result.json` of a party of the study in `folder`."""
    document: dict[str, Any] = json.loads((folder / "results" / name / RESULT_FILE).read_text(encoding="utf-8"))
    return document
