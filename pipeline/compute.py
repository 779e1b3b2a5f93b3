"""Paillier work in processes of its own.

Processes, because one interpreter runs one thread of Python at a time: two of
them do 1.9 times the work of one. Each gets the own key pair once, draws its
randomness from the operating system, and builds the comb
tables it needs at first use. Only bytes travel: arrays of plaintexts and
ciphertexts, over pipes within this party's process tree.

The processes hold the private key and tables that tell it. They ignore the
interrupt key, write no core dump, and end with the process that made them,
however that one ends.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import resource
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from itertools import islice
from multiprocessing.context import ForkContext, SpawnContext
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any, ClassVar, ParamSpec, Protocol, TypeAlias, TypeVar

import numpy as np

from pipeline.errors import LocalProtocolError, PipelineError
from pipeline.messages import Bytes
from pipeline.paillier import (
    COMMON_POWERS,
    Decryptor,
    EncryptionKey,
    KeyPair,
    OwnEncryptor,
    PeerEncryptor,
    RandomBytes,
    check_ciphertexts,
    multiply,
    residues,
)

P = ParamSpec("P")
T = TypeVar("T")
Part: TypeAlias = Bytes | range  # rows; a range where only their number counts

POWERS_A_JOB = 32  # ciphertexts; 0.02 to 0.3 s: shipping does not count, closing does not take long
PRODUCTS_A_JOB = 2048  # ciphertexts; multiplying one takes about as long as shipping it
JOB_SECONDS = 600  # without any job done; a machine that needs longer for one is stuck

PR_SET_PDEATHSIG = 1  # linux/prctl.h
PR_SET_DUMPABLE = 4


# --- what a worker holds and does -------------------------------------------


class Keyring:
    """The own key pair, if this party has one, and what was built from it, or for a peer, at first use."""

    def __init__(self, keypair: KeyPair | None, rng: RandomBytes) -> None:
        self._keypair = keypair
        self._rng = rng
        self._built: dict[object, Any] = {}
        self._building = threading.Lock()  # a worker of a cluster may have several threads

    def own_encryptor(self, session: bytes, powers: int = COMMON_POWERS) -> OwnEncryptor:
        return self._once(("own", session), lambda: OwnEncryptor(self._own(), session, self._rng, powers))

    def peer_encryptor(self, key: EncryptionKey, powers: int = COMMON_POWERS) -> PeerEncryptor:
        return self._once(("peer", key), lambda: self._peer_after_own(key, powers))

    def decryptor(self) -> Decryptor:
        return self._once("decryptor", lambda: Decryptor(self._own()))

    def _peer_after_own(self, key: EncryptionKey, powers: int) -> PeerEncryptor:
        # Masks begin when the own rows are all encrypted. The own key's tables, tens of megabytes that tell the primes,
        # make room; should they be wanted again, they are built again and stay.
        self._built = {name: what for name, what in self._built.items() if not isinstance(what, OwnEncryptor)}
        return PeerEncryptor(key, self._rng, powers)

    def _own(self) -> KeyPair:
        if self._keypair is None:
            raise LocalProtocolError("this party has no Paillier key pair")
        return self._keypair

    def _once(self, name: object, build: Callable[[], T]) -> T:
        with self._building:
            if name not in self._built:
                self._built[name] = build()
            built: T = self._built[name]
        return built


class Task(Protocol):
    """What to do with a job: some rows of each stream. Holds nothing secret."""

    job: ClassVar[int]  # ciphertexts

    def __call__(self, keyring: Keyring, /, *args: Any, **kwargs: Any) -> Bytes: ...


@dataclass(frozen=True)
class EncryptOwn:
    """Plaintexts to ciphertexts under the own key."""

    job: ClassVar[int] = POWERS_A_JOB
    session: bytes
    powers: int = COMMON_POWERS  # about as many as a worker shall make

    def __call__(self, keyring: Keyring, plaintexts: Bytes) -> Bytes:
        return keyring.own_encryptor(self.session, self.powers).encrypt(plaintexts)


@dataclass(frozen=True)
class EncryptPeer:
    """Plaintexts to ciphertexts under the other controller's key."""

    job: ClassVar[int] = POWERS_A_JOB
    key: EncryptionKey
    powers: int = COMMON_POWERS  # about as many as a worker shall make

    def __call__(self, keyring: Keyring, plaintexts: Bytes) -> Bytes:
        return keyring.peer_encryptor(self.key, self.powers).encrypt(plaintexts)


@dataclass(frozen=True)
class ObfuscateOwn:
    """A range to as many obfuscators for the own key, for `encrypt_with`."""

    job: ClassVar[int] = POWERS_A_JOB
    session: bytes
    powers: int = COMMON_POWERS  # about as many as a worker shall make

    def __call__(self, keyring: Keyring, places: range) -> Bytes:
        return keyring.own_encryptor(self.session, self.powers).obfuscators(len(places))


@dataclass(frozen=True)
class ObfuscatePeer:
    """A range to as many obfuscators for the other controller's key, for `encrypt_with`."""

    job: ClassVar[int] = POWERS_A_JOB
    key: EncryptionKey
    powers: int = COMMON_POWERS  # about as many as a worker shall make

    def __call__(self, keyring: Keyring, places: range) -> Bytes:
        return keyring.peer_encryptor(self.key, self.powers).obfuscators(len(places))


@dataclass(frozen=True)
class Decrypt:
    """Ciphertexts under the own key to plaintexts; checks them first."""

    job: ClassVar[int] = POWERS_A_JOB

    def __call__(self, keyring: Keyring, ciphertexts: Bytes) -> Bytes:
        return keyring.decryptor().decrypt(ciphertexts)


@dataclass(frozen=True)
class Multiply:
    """Two streams of ciphertexts under modulus n to the ciphertexts of the sums."""

    job: ClassVar[int] = PRODUCTS_A_JOB
    n: int

    def __call__(self, keyring: Keyring, left: Bytes, right: Bytes) -> Bytes:
        return multiply(left, right, self.n)


@dataclass(frozen=True)
class Inspect:
    """Received ciphertexts under modulus n to their residues, (count, 16); refuses what is no ciphertext."""

    job: ClassVar[int] = PRODUCTS_A_JOB
    n: int

    def __call__(self, keyring: Keyring, ciphertexts: Bytes) -> Bytes:
        check_ciphertexts(ciphertexts, self.n)
        return residues(ciphertexts, self.n)


def run_job(keyring: Keyring, task: Task, parts: tuple[Part, ...]) -> Bytes:
    """Run one job; an error of any other kind becomes one that quotes no number."""
    try:
        return task(keyring, *parts)
    except PipelineError:
        raise
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(frame.filename).name} line {frame.lineno}"
        raise LocalProtocolError(f"{type(task).__name__} failed ({type(error).__name__}, {place})") from None


# --- handing it out ---------------------------------------------------------


class Workers:
    """Runs tasks over streams of parts; close it, or use it as a context.

    `run` takes a task and the rows of one job; `ahead` is the number of jobs
    handed to `executor` before the first result is awaited.
    """

    def __init__(
        self,
        executor: Executor,
        run: Callable[[Task, tuple[Part, ...]], Bytes],
        ahead: int,
        keys: SimpleQueue[KeyPair | None] | None = None,
    ) -> None:
        self._executor = executor
        self._run = run
        self._ahead = ahead
        self._keys = keys  # where processes that were started without one wait for it
        self._keyless = keys is not None
        self._last_done = 0.0  # by the monotonic clock

    @classmethod
    def here(cls, keypair: KeyPair | None, rng: RandomBytes) -> Workers:
        """Return workers that are this thread: each part is computed as it is drawn."""
        return cls(InlineExecutor(), partial(run_job, Keyring(keypair, rng)), ahead=1)

    @classmethod
    def start(cls, count: int) -> Workers:
        """Start `count` processes, which draw randomness from the operating system and wait until `hold` is called.

        Returns before they are up. Call it in the main thread: Linux takes the
        end of the thread that started a process for the death of its parent.
        """
        if threading.current_thread() is not threading.main_thread():
            raise LocalProtocolError("workers must be started from the main thread")
        context = start_context()
        keys: SimpleQueue[KeyPair | None] = context.SimpleQueue()
        executor = ProcessPoolExecutor(count, context, initializer=_start_worker, initargs=(keys,))
        for _ in range(count):  # the pool starts a process for each job that finds none idle
            executor.submit(os.getpid)
        return cls(executor, _run_in_worker, ahead=2 * count + 1, keys=keys)

    @classmethod
    def spawn(cls, count: int, keypair: KeyPair | None) -> Workers:
        """`start` and `hold`."""
        workers = cls.start(count)
        workers.hold(keypair)
        return workers

    def hold(self, keypair: KeyPair | None) -> None:
        """Give the processes the own key pair, or say that there is none; once."""
        if self._keys is None or not self._keyless:
            raise LocalProtocolError("workers are given a key once")
        self._keyless = False
        self._keys.put(keypair)

    def map_parts(self, task: Task, *streams: Iterable[Part]) -> Iterator[Bytes]:
        """Yield the result for each part, in order.

        Lazy: parts are drawn as results are, about `ahead` jobs before them.
        With several streams their parts go together, as in `map`.
        """
        yield from self.prefetch(task, *streams, jobs=0)

    def prefetch(self, task: Task, *streams: Iterable[Part], jobs: int) -> Iterator[Bytes]:
        """As `map_parts`, but hand the first `jobs` jobs to the workers before returning and stay as far ahead.

        Jobs are done in the order they are handed in, whatever stream they belong to.
        """
        counts: deque[int] = deque()
        pending = self._split(task, streams, counts)
        begun = deque(self._submit(task, parts) for parts in islice(pending, jobs))
        return self._joined(self._results(task, begun, pending), counts)

    def close(self) -> None:
        """End the workers after the jobs they are at; the keys end with them. Jobs not begun are dropped."""
        if self._keyless:
            self.hold(None)  # they hear of nothing else before
        self._executor.shutdown(wait=True, cancel_futures=True)
        if self._keys is not None:
            self._keys.close()
        self._executor, self._run = InlineExecutor(), _closed  # the old ones refer to the key pair

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @staticmethod
    def _split(task: Task, streams: tuple[Iterable[Part], ...], counts: deque[int]) -> Iterator[tuple[Part, ...]]:
        for parts in zip(*streams, strict=True):
            rows = _rows_a_job(task, parts[0])
            starts = range(0, max(len(parts[0]), 1), rows)
            counts.append(len(starts))
            for start in starts:
                yield tuple(part[start : start + rows] for part in parts)

    def _results(self, task: Task, begun: deque[Future[Bytes]], pending: Iterator[tuple[Part, ...]]) -> Iterator[Bytes]:
        try:
            for parts in pending:
                begun.append(self._submit(task, parts))
                if len(begun) >= self._ahead:
                    yield self._result(begun.popleft())
            while begun:
                yield self._result(begun.popleft())
        finally:
            for future in begun:
                future.cancel()

    @staticmethod
    def _joined(results: Iterator[Bytes], counts: deque[int]) -> Iterator[Bytes]:
        for first in results:
            yield np.concatenate([first, *islice(results, counts.popleft() - 1)])

    def _submit(self, task: Task, parts: tuple[Part, ...]) -> Future[Bytes]:
        try:
            future = self._executor.submit(self._run, task, parts)
        except BrokenProcessPool:
            raise _died() from None
        future.add_done_callback(self._note)
        return future

    def _note(self, _: Future[Bytes]) -> None:
        self._last_done = time.monotonic()

    def _result(self, future: Future[Bytes]) -> Bytes:
        while True:
            since = time.monotonic()
            try:
                return future.result(timeout=JOB_SECONDS)
            except BrokenProcessPool:
                raise _died() from None
            except TimeoutError:
                if self._last_done < since:  # else other jobs were before it
                    raise PipelineError(f"no worker process of this party has answered for {JOB_SECONDS} s") from None


def _rows_a_job(task: Task, part: Part) -> int:
    return task.job if isinstance(part, range) else max(1, task.job // max(1, part.shape[1]))


def _closed(task: Task, parts: tuple[Part, ...]) -> Bytes:
    raise LocalProtocolError("the workers have been closed")


def _died() -> PipelineError:
    return PipelineError("a worker process of this party has died; was the memory short?")


class InlineExecutor(Executor):
    """Runs each call at once, in the caller's thread."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


# --- the process of a worker ------------------------------------------------

_keyring = Keyring(None, os.urandom)  # in a worker: replaced once, when it starts


def start_context() -> ForkContext | SpawnContext:
    """Return how to start a process.

    As a copy of this one on Linux, while it has one thread: a fresh one takes
    0.3 s to import what this one has. Start it before there are secrets here
    that it need not have.
    """
    if sys.platform == "linux" and threading.active_count() == 1:
        return multiprocessing.get_context("fork")
    return multiprocessing.get_context("spawn")


def ignore_interrupts() -> None:
    """Leave to the parent process what an interrupt ends; forget what it does when it is told to end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _start_worker(keys: SimpleQueue[KeyPair | None]) -> None:
    global _keyring
    ignore_interrupts()
    die_with_parent()
    no_core_dump()
    keypair = keys.get()
    keys.put(keypair)  # for the next one
    _keyring = Keyring(keypair, os.urandom)


def _run_in_worker(task: Task, parts: tuple[Part, ...]) -> Bytes:
    return run_job(_keyring, task, parts)


def no_core_dump() -> None:
    """Let the memory of this process be neither dumped nor read by others of the same user."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # The limit does not hold where dumps are piped to a collector (core(5)); this does.
    _prctl(PR_SET_DUMPABLE, 0)


def die_with_parent() -> None:
    """Let this process, started by `multiprocessing`, end when its parent does.

    On Linux the kernel kills it, even stopped or in the midst of a computation;
    it goes by the parent's thread that started this process, which must
    therefore live as long as the process shall. Elsewhere a thread watches.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        raise LocalProtocolError("this process was not started by another one")
    threading.Thread(target=_end_after, args=(parent.join,), name="parent-watch", daemon=True).start()
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if sys.platform == "linux" and os.getppid() != parent.pid:
        os._exit(1)  # it was gone before the kernel was asked


def _end_after(wait: Callable[[], None]) -> None:
    wait()
    os._exit(1)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux" and ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
