"""Three nodes of one study on this machine, in one process, over real TLS.

    with three_nodes(tmp_path) as network:
        network.connect()
        network.nodes[0].send(2, b"...")

For processes of their own, `parties` gives agreement and local files.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from studies import make_study

from pipeline.config import Agreement, Local, load
from pipeline.transport import Node, TransportSettings

HOSPITAL_CSV = "id,age,days\n1,50,3\n"
INSURER_CSV = "id,income\n1,7\n"
WAIT = 60.0  # seconds for parties to find one another; they take a tenth of one, and longer on a busy machine

QUICK = TransportSettings(
    beat=0.1, silence=50, grace=0.6, resend=2.0, hold=0.3, farewell=2.0, linger=4.0, patience=60.0
)


@dataclass(frozen=True)
class Network:
    """A study and a node for each party; index is the party's id."""

    path: Path  # study.toml
    nodes: Sequence[Node]

    def connect(self, wait: float = WAIT) -> bytes:
        """Connect all nodes; returns their session identifier."""
        sessions = self.everywhere(lambda node: node.connect(wait, lambda names: None))
        assert len(set(sessions)) == 1
        return bytes(sessions[0])

    def everywhere(self, action: Callable[[Node], Any]) -> list[Any]:
        """What `action` returns for each node, or the exception it raises; all at the same time."""
        return at_once([lambda node=node: action(node) for node in self.nodes])


def at_once(actions: Sequence[Callable[[], Any]]) -> list[Any]:
    """Do all actions at the same time, return their results; an exception is raised when all have ended."""
    with ThreadPoolExecutor(len(actions)) as pool:
        futures = [pool.submit(action) for action in actions]
    return [future.result() for future in futures]


def outcome(action: Callable[[], Any]) -> Any:
    """What `action` returns or raises."""
    try:
        return action()
    except Exception as error:
        return error


def until(true: Callable[[], bool]) -> None:
    """Wait until `true()`."""
    deadline = time.monotonic() + WAIT
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def load_party(path: Path, party: int) -> tuple[Agreement, Local]:
    return load(path, party)


def small_study(folder: Path, **changes: Any) -> Path:
    """A study in `folder`; `changes` as in studies.make_study."""
    return make_study(folder, hospital_csv=HOSPITAL_CSV, insurer_csv=INSURER_CSV, **changes)


def new_node(path: Path, party: int, settings: TransportSettings = QUICK, **local: Any) -> Node:
    """The node of a party, not started; `local` replaces settings of its own file."""
    agreement, own = load(path, party)
    return Node(agreement, replace(own, **local), party, settings=settings)


def party_process(answers: Any, path: Path, party: int, settings: TransportSettings, act: Callable[..., Any]) -> None:
    """What a party's process does: it connects, then sends back what comes of `act(node, answers)`."""
    node = new_node(path, party, settings)
    try:
        node.start()
        node.connect(WAIT, lambda names: None)
        answers.send("connected")
        answers.send(outcome(lambda: act(node, answers)))
    except BaseException as error:
        answers.send(error)
    finally:
        node.close()


class PartyProcess:
    """A party in a process of its own."""

    def __init__(self, path: Path, party: int, act: Callable[..., Any], settings: TransportSettings = QUICK) -> None:
        context = multiprocessing.get_context("spawn")
        self.answers, theirs = context.Pipe()
        self.process = context.Process(target=party_process, args=(theirs, path, party, settings, act), daemon=True)
        self.process.start()
        theirs.close()

    def answer(self, timeout: float = WAIT) -> Any:
        """The next thing the process sends."""
        assert self.answers.poll(timeout), "the process has not answered"
        return self.answers.recv()

    def signal(self, number: int) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def __enter__(self) -> PartyProcess:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.join()


def until_failure(node: Node, answers: Any) -> Any:
    """Wait for a message, which is never sent."""
    return node.receive(2 * WAIT)


@contextmanager
def three_nodes(folder: Path, settings: TransportSettings = QUICK, **changes: Any) -> Iterator[Network]:
    """Three started nodes, not connected yet; closed at the end."""
    path = small_study(folder, **changes)
    nodes = [new_node(path, party, settings) for party in range(3)]
    try:
        for node in nodes:
            node.start()
        yield Network(path, nodes)
    finally:
        at_once([node.close for node in nodes])
