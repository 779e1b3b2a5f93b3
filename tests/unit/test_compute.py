"""Workers: results in order, lazily, bounded; errors without secrets. In this process, with small keys."""

from __future__ import annotations

import gc
import io
import itertools
import os
import sys
import threading
import traceback
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
import pytest
from attacks import in_group, numbers, shared_divisor_key
from rich.console import Console

from pipeline import compute
from pipeline.compute import (
    Decrypt,
    EncryptOwn,
    EncryptPeer,
    InlineExecutor,
    Inspect,
    Keyring,
    Multiply,
    ObfuscateOwn,
    ObfuscatePeer,
    Part,
    Task,
    Workers,
    cores,
    run_job,
)
from pipeline.errors import LocalProtocolError, PipelineError, RemoteProtocolError
from pipeline.messages import Bytes
from pipeline.packing import draw_masks
from pipeline.paillier import Decryptor, OwnEncryptor, PeerEncryptor, base, encrypt_with, multiply, residues
from pipeline.progress import Bars

PAIR = shared_divisor_key()
N = PAIR.n
SESSION = b"\x07" * 32
KEY = PAIR.encryption_key(SESSION)


@dataclass(frozen=True)
class Doubled:
    """Twice each byte, two rows a job."""

    job: ClassVar[int] = 2

    def __call__(self, keyring: Keyring, rows: Bytes) -> Bytes:
        return rows * np.uint8(2)


@dataclass(frozen=True)
class Failing:
    job: ClassVar[int] = 2
    error: type[Exception]

    def __call__(self, keyring: Keyring, rows: Bytes) -> Bytes:
        raise self.error(f"secret {rows[0, 0, 0]}")


def _here() -> Workers:
    return Workers.here(PAIR, os.urandom)


def _parts(*lengths: int) -> list[Bytes]:
    starts = np.cumsum([0, *lengths])
    return [np.arange(a, b, dtype=np.uint8).reshape(-1, 1, 1) for a, b in itertools.pairwise(starts)]


def _run(task: Task, parts: tuple[Part, ...]) -> Bytes:
    return run_job(Keyring(PAIR, os.urandom), task, parts)


# --- the tasks --------------------------------------------------------------


def test_what_is_encrypted_and_masked_decrypts_to_the_sum() -> None:
    values, masks = draw_masks(70, 8, 512, os.urandom), draw_masks(70, 8, 512, os.urandom)
    with _here() as workers:
        own = list(workers.map_parts(EncryptOwn(SESSION), [values[:40], values[40:]]))
        peer = list(workers.map_parts(EncryptPeer(KEY), [masks[:40], masks[40:]]))
        masked = workers.map_parts(Multiply(N), own, peer)
        plaintexts = np.concatenate(list(workers.map_parts(Decrypt(), masked)))
    expected = Decryptor(PAIR).decrypt(
        multiply(_own().encrypt(values), PeerEncryptor(KEY, os.urandom).encrypt(masks), N)
    )
    assert np.array_equal(plaintexts, expected)


def _own() -> OwnEncryptor:
    return OwnEncryptor(PAIR, SESSION, os.urandom)


@pytest.mark.parametrize("task", [ObfuscateOwn(SESSION), ObfuscatePeer(KEY)])
def test_obfuscators_made_ahead_serve_for_encryption(task: Task) -> None:
    plaintexts = draw_masks(100, 4, 512, os.urandom)
    with _here() as workers:
        (obfuscators,) = workers.map_parts(task, [range(100)])
    assert len(set(numbers(obfuscators))) == 100
    assert all(in_group(o % N, base(SESSION, N) % N, PAIR) for o in numbers(obfuscators[:5]))
    assert np.array_equal(Decryptor(PAIR).decrypt(encrypt_with(plaintexts, obfuscators, N)), plaintexts)


def test_an_inspection_gives_the_residues_of_good_ciphertexts_and_refuses_bad_ones() -> None:
    ciphertexts = _own().encrypt(draw_masks(5, 8, 512, os.urandom))
    bad = ciphertexts.copy()
    bad[4, 1] = 0
    with _here() as workers:
        (seen,) = workers.map_parts(Inspect(N), [ciphertexts])
        assert np.array_equal(seen, residues(ciphertexts, N))
        with pytest.raises(RemoteProtocolError, match="coprime"):
            list(workers.map_parts(Inspect(N), [bad]))


def test_the_tables_of_the_own_key_are_gone_when_masks_begin() -> None:
    keyring = Keyring(PAIR, os.urandom)
    own, decryptor = weakref.ref(keyring.own_encryptor(SESSION)), keyring.decryptor()
    peer = keyring.peer_encryptor(KEY)
    gc.collect()
    assert own() is None
    assert keyring.decryptor() is decryptor
    again = keyring.own_encryptor(SESSION)
    assert keyring.peer_encryptor(KEY) is peer
    assert keyring.own_encryptor(SESSION) is again


@pytest.mark.parametrize("task", [EncryptOwn(SESSION), Decrypt()])
def test_the_third_party_has_no_key_to_work_with(task: Task) -> None:
    with Workers.here(None, os.urandom) as workers, pytest.raises(LocalProtocolError, match="no Paillier key pair"):
        list(workers.map_parts(task, [draw_masks(1, 1, 512, os.urandom)]))


def test_tables_are_built_once_for_a_session_and_a_key() -> None:
    keyring = Keyring(PAIR, os.urandom)
    assert keyring.own_encryptor(SESSION) is keyring.own_encryptor(SESSION)
    assert keyring.own_encryptor(SESSION) is not keyring.own_encryptor(b"\x08" * 32)
    assert keyring.peer_encryptor(KEY) is keyring.peer_encryptor(KEY)
    assert isinstance(keyring.peer_encryptor(KEY), PeerEncryptor)
    assert keyring.decryptor() is keyring.decryptor()


# --- order, laziness, bounds ------------------------------------------------


@pytest.mark.parametrize("lengths", [(), (5,), (1, 2, 3, 4), (4, 0, 3), (0,)])
def test_each_part_has_its_result_in_order(lengths: tuple[int, ...]) -> None:
    with _here() as workers:
        results = list(workers.map_parts(Doubled(), _parts(*lengths)))
    assert [r.shape for r in results] == [(length, 1, 1) for length in lengths]
    assert [r.tolist() for r in results] == [(2 * part).tolist() for part in _parts(*lengths)]


def test_results_keep_their_order_when_later_jobs_finish_first() -> None:
    later = threading.Event()

    def first_waits(task: Task, parts: tuple[Part, ...]) -> Bytes:
        rows = parts[0]
        assert isinstance(rows, np.ndarray)
        if rows[0, 0, 0]:
            later.set()
        else:
            assert later.wait(60)
        return _run(task, parts)

    with Workers(ThreadPoolExecutor(3), first_waits, ahead=5) as workers:
        results = np.concatenate(list(workers.map_parts(Doubled(), _parts(4, 6))))
    assert results.ravel().tolist() == list(range(0, 20, 2))


class Counting(InlineExecutor):
    """Counts the jobs handed in."""

    def __init__(self) -> None:
        self.jobs = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.jobs += 1
        return super().submit(fn, *args, **kwargs)


def test_jobs_are_handed_in_only_as_results_are_drawn() -> None:
    executor = Counting()
    with Workers(executor, _run, ahead=3) as workers:
        results = workers.map_parts(Doubled(), iter(_parts(4, 4, 4, 4)))
        assert executor.jobs == 0
        seen = [executor.jobs for _ in results]
    assert seen == [4, 6, 8, 8]


def test_parts_are_drawn_lazily_so_that_an_endless_stream_serves() -> None:
    def endless() -> Iterator[Bytes]:
        while True:
            yield np.ones((2, 1, 1), np.uint8)

    with Workers(Counting(), _run, ahead=4) as workers:
        results = workers.map_parts(Doubled(), endless())
        assert next(results).tolist() == next(results).tolist() == [[[2]], [[2]]]


def test_a_prefetch_hands_in_its_jobs_at_once_and_stays_ahead() -> None:
    executor = Counting()
    with Workers(executor, _run, ahead=2) as workers:
        results = workers.prefetch(Doubled(), iter(_parts(4, 4, 4, 4)), jobs=4)
        assert executor.jobs == 4
        assert next(results).ravel().tolist() == [0, 2, 4, 6]
        assert executor.jobs == 6
        assert np.concatenate(list(results)).ravel().tolist() == list(range(8, 32, 2))


def test_workers_that_are_this_thread_work_on_one_job_at_a_time() -> None:
    drawn: list[int] = []

    def parts() -> Iterator[Bytes]:
        for part in _parts(2, 2, 2):
            drawn.append(len(drawn))
            yield part

    with _here() as workers:
        results = workers.map_parts(Doubled(), parts())
        next(results)
        assert drawn == [0]


def test_a_job_takes_fewer_rows_where_a_row_has_several_ciphertexts() -> None:
    executor = Counting()
    with Workers(executor, _run, ahead=1) as workers:
        list(workers.map_parts(Doubled(), [np.zeros((6, 3, 1), np.uint8)]))
        assert executor.jobs == 6
        list(workers.map_parts(ObfuscateOwn(SESSION), [range(128)]))
        assert executor.jobs == 6 + 128 // compute.POWERS_A_JOB


def test_streams_of_different_length_are_refused() -> None:
    ciphertexts = _own().encrypt(draw_masks(2, 4, 512, os.urandom))
    with _here() as workers:
        with pytest.raises(ValueError, match="zip"):
            list(workers.map_parts(Multiply(N), [ciphertexts], []))
        with pytest.raises(LocalProtocolError, match="shapes"):
            list(workers.map_parts(Multiply(N), [ciphertexts], [ciphertexts[:1]]))


def test_jobs_not_begun_are_cancelled_when_results_are_no_longer_drawn() -> None:
    gate, started = threading.Event(), []

    def wait(task: Task, parts: tuple[Part, ...]) -> Bytes:
        started.append(1)
        if len(started) > 1:
            gate.wait(60)
        return _run(task, parts)

    with Workers(ThreadPoolExecutor(1), wait, ahead=8) as workers:
        results = workers.map_parts(Doubled(), _parts(2, 20))
        next(results)
        results.close()  # type: ignore[attr-defined]
        gate.set()
        list(workers.map_parts(Doubled(), _parts(2)))
    assert len(started) <= 3  # the first, the one it was at, and the last


# --- errors -----------------------------------------------------------------


def test_an_unexpected_error_tells_task_kind_and_place_but_no_secret() -> None:
    with _here() as workers, pytest.raises(LocalProtocolError) as caught:
        list(workers.map_parts(Failing(ZeroDivisionError), _parts(2)))
    text = "".join(traceback.format_exception(caught.value))
    assert "Failing failed (ZeroDivisionError, test_compute.py line" in text
    assert "secret 0" not in text


def test_an_error_of_the_protocol_comes_through_as_it_is() -> None:
    with _here() as workers, pytest.raises(RemoteProtocolError, match="secret 0"):
        list(workers.map_parts(Failing(RemoteProtocolError), _parts(2)))


class Broken(Executor):
    """A pool whose process has died: before the job was handed in, or while it was at it."""

    def __init__(self, at_once: bool) -> None:
        self._at_once = at_once

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        if self._at_once:
            raise BrokenProcessPool
        future: Future[Any] = Future()
        future.set_exception(BrokenProcessPool())
        return future


@pytest.mark.parametrize("at_once", [True, False])
def test_the_death_of_a_worker_is_an_error(at_once: bool) -> None:
    with Workers(Broken(at_once), _run, ahead=2) as workers, pytest.raises(PipelineError, match="has died"):
        list(workers.map_parts(Doubled(), _parts(2)))


class Stuck(Executor):
    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return Future()


def test_a_worker_that_does_not_answer_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compute, "JOB_SECONDS", 0.01)
    with Workers(Stuck(), _run, ahead=2) as workers, pytest.raises(PipelineError, match="has answered for"):
        list(workers.map_parts(Doubled(), _parts(2)))


class Behind(Future[Any]):
    """A result that is waited for in vain while other jobs are before it; each wait takes one of them."""

    def __init__(self, jobs: list[tuple[Future[Any], Callable[[], Any]]]) -> None:
        super().__init__()
        self._jobs = jobs

    def result(self, timeout: float | None = None) -> Any:
        if not self.done():
            future, job = self._jobs.pop(0)
            future.set_result(job())
            if future is not self:
                raise TimeoutError
        return super().result(0)


class OneByOne(Executor):
    """Does jobs in turn, and only while somebody waits; each takes as long as the wait lasts."""

    def __init__(self) -> None:
        self._jobs: list[tuple[Future[Any], Callable[[], Any]]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future = Behind(self._jobs)
        self._jobs.append((future, partial(fn, *args, **kwargs)))
        return future


def test_waiting_behind_other_jobs_is_no_error() -> None:
    with Workers(OneByOne(), _run, ahead=2) as workers:
        before = workers.prefetch(Doubled(), _parts(20), jobs=10)
        after = workers.prefetch(Doubled(), _parts(2), jobs=1)
        assert len(list(after)) == 1
        assert len(list(before)) == 1


@pytest.mark.parametrize("executor", [InlineExecutor, lambda: ThreadPoolExecutor(1)])
def test_closed_workers_refuse_work_and_forget_the_key(executor: Callable[[], Executor]) -> None:
    keyring = Keyring(PAIR, os.urandom)
    gone = weakref.ref(keyring)
    workers = Workers(executor(), partial(run_job, keyring), ahead=1)
    list(workers.map_parts(Doubled(), _parts(2)))
    workers.close()
    del keyring
    assert gone() is None
    with pytest.raises(LocalProtocolError, match="closed"):
        list(workers.map_parts(Doubled(), _parts(2)))


def test_processes_are_started_from_the_main_thread_only() -> None:
    caught: list[BaseException] = []

    def start() -> None:
        try:
            Workers.spawn(1, None)
        except LocalProtocolError as error:
            caught.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert len(caught) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="other systems start processes afresh")
def test_a_process_is_copied_only_while_it_has_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "active_count", lambda: 1)
    assert compute.start_context().get_start_method() == "fork"
    monkeypatch.setattr(threading, "active_count", lambda: 2)
    assert compute.start_context().get_start_method() == "spawn"


def test_a_bar_starts_no_thread_before_its_first_step() -> None:
    bars, before = Bars(Console(file=io.StringIO(), force_terminal=True)), threading.active_count()
    bars.note("a line")
    assert threading.active_count() == before
    bars.step("encrypting")
    assert threading.active_count() > before
    bars.close()
    assert threading.active_count() == before


def test_at_least_one_core_is_counted() -> None:
    assert 1 <= cores() <= (os.cpu_count() or 1)


def test_a_process_nobody_started_has_no_parent_to_die_with() -> None:
    with pytest.raises(LocalProtocolError, match="not started by another"):
        compute.die_with_parent()
