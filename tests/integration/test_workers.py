"""Worker processes for real: they share the work, keep their secrets, and never outlive their parent."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest
import worker_probe
from attacks import shared_divisor_key

from pipeline.compute import Decrypt, EncryptOwn, EncryptPeer, Inspect, Multiply, Workers
from pipeline.errors import LocalProtocolError, PipelineError, RemoteProtocolError
from pipeline.packing import VALUE_BOUND, draw_masks, pack_values, slots_of

PAIR = shared_divisor_key()
SESSION = b"\x09" * 32
TESTS = Path(worker_probe.__file__).parent


def test_two_processes_join_a_table() -> None:
    values = np.random.default_rng(1).integers(-VALUE_BOUND, VALUE_BOUND, (300, 6))
    plaintexts, masks = pack_values(values, 512), draw_masks(300, 6, 512, os.urandom)
    with Workers.spawn(2, PAIR) as workers:
        own = workers.map_parts(EncryptOwn(SESSION), [plaintexts[:200], plaintexts[200:]])
        peer = workers.map_parts(EncryptPeer(PAIR.encryption_key(SESSION)), [masks[:200], masks[200:]])
        masked = np.concatenate(list(workers.map_parts(Decrypt(), workers.map_parts(Multiply(PAIR.n), own, peer))))
    shares = zip(slots_of(masked, 6).reshape(-1, 15), slots_of(masks, 6).reshape(-1, 15), strict=True)
    assert [_integer(a) - _integer(b) - (1 << 43) for a, b in shares] == values.ravel().tolist()


def _integer(slot: np.ndarray) -> int:
    return int.from_bytes(slot.tobytes(), "little")


def test_each_worker_ignores_interrupts_and_writes_no_core_dump() -> None:
    with Workers.spawn(2, None) as workers:
        facts = worker_probe.told(workers, 2)
    assert len(facts) == 2
    assert os.getpid() not in {fact["pid"] for fact in facts}
    for fact in facts:
        assert fact["core"] == [0, 0]
        assert fact["dumpable"] == 0
        assert fact["interrupt"]


def test_an_interrupt_of_all_leaves_the_workers_at_work_until_closed() -> None:
    with Workers.spawn(2, None) as workers:
        pids = {fact["pid"] for fact in worker_probe.told(workers, 2)}
        for pid in pids:
            os.kill(pid, signal.SIGINT)
        assert {fact["pid"] for fact in worker_probe.told(workers, 2)} == pids
    assert not any(_runs(pid) for pid in pids)


def test_an_error_in_a_process_comes_through_and_the_workers_go_on() -> None:
    with Workers.spawn(1, PAIR) as workers:
        with pytest.raises(RemoteProtocolError, match="coprime"):
            list(workers.map_parts(Inspect(PAIR.n), [np.zeros((1, 1, 128), np.uint8)]))
        assert worker_probe.told(workers, 1)


def test_the_death_of_a_process_is_an_error_and_closing_returns() -> None:
    with Workers.spawn(2, None) as workers, pytest.raises(PipelineError, match="has died"):
        list(workers.map_parts(worker_probe.Die(), [np.zeros((4, 1, 1), np.uint8)]))


def test_processes_started_without_a_key_wait_for_it() -> None:
    plaintexts = draw_masks(64, 6, 512, os.urandom)
    with Workers.start(2) as workers:
        encrypted = workers.prefetch(EncryptOwn(SESSION), [plaintexts], jobs=2)
        workers.hold(PAIR)
        assert (next(workers.map_parts(Decrypt(), encrypted)) == plaintexts).all()
        with pytest.raises(LocalProtocolError, match="given a key once"):
            workers.hold(PAIR)


def test_processes_that_wait_for_a_key_end_when_they_are_closed_and_when_they_are_told_to(
    request: pytest.FixtureRequest,
) -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # here, not there
    request.addfinalizer(lambda: signal.signal(signal.SIGTERM, before))
    others = set(psutil.Process().children())  # Python's own helper, if an earlier test needed one
    with Workers.start(2):
        children = set(psutil.Process().children()) - others
    assert len(children) == 2 and not any(child.is_running() for child in children)
    with Workers.start(1) as workers:
        (child,) = set(psutil.Process().children()) - others
        while child.is_running() and child.status() != psutil.STATUS_ZOMBIE:
            child.terminate()  # again, as long as it has only started and still ignores it as its parent does
            time.sleep(0.05)
        with pytest.raises(PipelineError, match="has died"):
            worker_probe.told(workers, 1)


def test_no_key_is_seen_on_a_command_line_or_in_the_environment() -> None:
    with Workers.spawn(1, PAIR) as workers:
        (fact,) = worker_probe.told(workers, 1)
        process = psutil.Process(fact["pid"])
        visible = " ".join(process.cmdline()) + str(process.environ())
    assert not any(str(prime)[:20] in visible or f"{prime:x}"[:20] in visible for prime in (PAIR.p, PAIR.q))


@pytest.mark.parametrize(
    "what",
    [
        "workers",
        "watched",
        pytest.param(
            "stopped", marks=pytest.mark.skipif(sys.platform != "linux", reason="the kernel's help is Linux's")
        ),
    ],
)
def test_a_process_ends_with_its_parent_however_that_one_ends(what: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
    command = [sys.executable, str(TESTS / "worker_probe.py"), what]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = json.loads(parent.stdout.readline())
        if what == "stopped":
            _wait_while(lambda: any(psutil.Process(pid).status() != psutil.STATUS_STOPPED for pid in pids))
        assert pids and all(_runs(pid) for pid in pids)
        parent.kill()
        parent.wait(60)
        _wait_while(lambda: any(_runs(pid) for pid in pids))
        left = [pid for pid in pids if _runs(pid)]
        for pid in left:
            os.kill(pid, signal.SIGKILL)
    assert left == []


def _wait_while(true: Callable[[], bool]) -> None:
    """Wait while `true()`, at most a minute."""
    deadline = time.monotonic() + 60
    while true() and time.monotonic() < deadline:
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
