"""Tasks and processes that tell what a worker is like. Imported by name in the processes themselves."""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import resource
import signal
import sys
import time
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from pipeline import compute
from pipeline.compute import Keyring, Workers
from pipeline.messages import Bytes

PR_GET_DUMPABLE = 3


@dataclass(frozen=True)
class Tell:
    """Facts about the worker as JSON in bytes, for any part."""

    job: ClassVar[int] = 1

    def __call__(self, keyring: Keyring, rows: Bytes) -> Bytes:
        time.sleep(0.05)  # so that another worker takes the next job
        facts = {
            "pid": os.getpid(),
            "core": resource.getrlimit(resource.RLIMIT_CORE),
            "dumpable": ctypes.CDLL(None).prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) if sys.platform == "linux" else 0,
            "interrupt": signal.getsignal(signal.SIGINT) is signal.SIG_IGN,
        }
        return np.frombuffer(json.dumps(facts).encode().ljust(256), np.uint8).reshape(1, 256)


@dataclass(frozen=True)
class Die:
    """Ends the worker as the kernel does when the memory is short."""

    job: ClassVar[int] = 1

    def __call__(self, keyring: Keyring, rows: Bytes) -> Bytes:
        os.kill(os.getpid(), signal.SIGKILL)
        return rows


def told(workers: Workers, count: int) -> list[dict[str, Any]]:
    """Return what each of `count` workers tells of itself."""
    facts: dict[int, dict[str, Any]] = {}
    deadline = time.monotonic() + 120
    while len(facts) < count and time.monotonic() < deadline:
        (answers,) = workers.map_parts(Tell(), [np.zeros((2 * count, 1, 1), np.uint8)])
        facts |= {fact["pid"]: fact for fact in (json.loads(answer.tobytes()) for answer in answers)}
    return list(facts.values())


def wait_without_the_kernel(sender: Any) -> None:
    """Rely on the thread that watches the parent alone."""
    compute._prctl = lambda option, value: None
    _wait(sender)


def wait_stopped(sender: Any) -> None:
    """Rely on the kernel alone: a stopped process runs no thread."""
    sender.send(os.getpid())
    compute.die_with_parent()
    os.kill(os.getpid(), signal.SIGSTOP)


def _wait(sender: Any) -> None:
    compute.die_with_parent()
    sender.send(os.getpid())
    time.sleep(600)


def main(what: str) -> None:
    """Start workers or a process, print their identifiers, then wait to be killed."""
    context = multiprocessing.get_context("spawn")
    if what == "workers":
        workers = Workers.spawn(2, None)  # kept until the end: a pool that nobody holds ends its processes
        print(json.dumps([fact["pid"] for fact in told(workers, 2)]), flush=True)
    else:
        receiver, sender = context.Pipe(duplex=False)
        target = {"watched": wait_without_the_kernel, "stopped": wait_stopped}[what]
        context.Process(target=target, args=(sender,)).start()
        print(json.dumps([receiver.recv()]), flush=True)
    time.sleep(600)


if __name__ == "__main__":
    main(sys.argv[1])
