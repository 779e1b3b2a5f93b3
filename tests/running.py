"""Starts `python -m pipeline run`, or `fit`, for each party of a study, as a person would, and waits for the ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PARTIES = (0, 1, 2)
FOLDERS = ("hospital", "insurer", "third-party")


@dataclass
class Ended:
    """How a party's run ended."""

    state: int
    out: str
    err: str
    seconds: float
    result: dict[str, Any] | None

    @property
    def last_line(self) -> str:
        lines = self.err.strip().splitlines()
        return lines[-1] if lines else ""


@dataclass
class Running:
    """The three processes of a study; a context that leaves none behind."""

    study: Path
    wait: float = 120.0
    options: Sequence[str] = ()
    command: str = "run"
    processes: dict[int, subprocess.Popen[str]] = field(default_factory=dict)
    started: dict[int, float] = field(default_factory=dict)

    def start(self, *parties: int) -> Running:
        for party in parties or PARTIES:
            log = self.log(party).open("w")
            command = [
                sys.executable,
                "-m",
                "pipeline",
                self.command,
                "--party-id",
                str(party),
                "--config",
                str(self.study),
            ]
            self.started[party] = time.monotonic()
            self.processes[party] = subprocess.Popen(
                [*command, "--wait", str(self.wait), *self.options],
                stdout=self.log(party, "out").open("w"),
                stderr=log,
                stdin=subprocess.DEVNULL,
                text=True,
                cwd=ROOT,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
            )
        return self

    def log(self, party: int, kind: str = "err") -> Path:
        return self.study.parent / f"party-{party}.{kind}"

    def wait_for(self, party: int, words: str, seconds: float = 120.0) -> None:
        """Until the party has written `words` to standard error."""
        self.until(lambda: words in self.log(party).read_text(), seconds, f"{words!r} at party {party}")

    def until(self, true: Callable[[], bool], seconds: float, what: str) -> None:
        deadline = time.monotonic() + seconds
        while not true():
            if time.monotonic() > deadline or all(p.poll() is not None for p in self.processes.values()):
                logs = "\n".join(f"[{party}] {self.log(party).read_text()}" for party in self.processes)
                raise AssertionError(f"waited in vain for {what}\n{logs}")
            time.sleep(0.02)

    def signal(self, party: int, number: int = signal.SIGKILL) -> None:
        self.processes[party].send_signal(number)

    def ends(self, seconds: float = 240.0) -> dict[int, Ended]:
        """Wait for all that were started."""
        deadline = time.monotonic() + seconds
        ended = {}
        for party, process in self.processes.items():
            state = process.wait(max(0.1, deadline - time.monotonic()))
            result = self.result(party)
            out = self.log(party, "out").read_text()
            err = self.log(party).read_text()
            ended[party] = Ended(state, out, err, time.monotonic() - self.started[party], result)
        return ended

    def result(self, party: int) -> dict[str, Any] | None:
        path = self.study.parent / "results" / FOLDERS[party] / "result.json"
        return json.loads(path.read_text()) if path.exists() else None

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
            process.wait()


def run_study(study: Path, seconds: float = 240.0) -> dict[int, Ended]:
    """Run all three parties to their ends."""
    with Running(study) as running:
        return running.start().ends(seconds)
