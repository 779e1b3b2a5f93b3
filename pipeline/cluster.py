"""Paillier work on a cluster of this party's own, through `distributed` (Dask).

The cluster is part of the party: its workers get plaintext rows and the private
key of the join, so scheduler and workers must be machines that may see them.
Jobs and answers are pickled, as everything is between a Dask client and its
workers; nothing of another party is, for what they send is parsed before.

The key goes to the workers that are there at the start, once each, and stays
under a token. On its way through the scheduler it is encrypted to a key that the
worker has made for it: scheduler and workers write the calls they pass on or
get into their logs when these are set to debug. It is dropped when the join is
over, and by each worker itself
when this party has not been heard of for `LEASE_SECONDS`. That drops all
references; it does not overwrite memory, and the workers' processes live on: to
claim more, end the cluster after the run.

Jobs never raise on the cluster, where an error would be logged with its
arguments: what went wrong is an answer. Workers that may write results to a
disk when memory is short are refused.
"""

from __future__ import annotations

import gc
import importlib
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import CancelledError, Executor, Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from secrets import token_hex
from typing import Any, ParamSpec, TypeVar

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from pipeline import __version__
from pipeline.compute import Keyring, Part, Task, Workers, no_core_dump, run_job
from pipeline.compute_settings import Compute
from pipeline.errors import ConfigError, LocalProtocolError, PipelineError
from pipeline.messages import Bytes
from pipeline.paillier import KeyPair

CONNECT_SECONDS = 30
LEASE_SECONDS = 120
RENEW_SECONDS = 20
TLS = "tls://"  # how an address begins
LABEL = b"secure-lasso-pipeline/cluster-key/v1"
ONCE = bytes(12)  # the nonce of a key that encrypts one message

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, eq=False, repr=False)
class Sealed:
    """Something that crosses the cluster and shows nothing of itself in any log."""

    content: Any


# --- at a worker ------------------------------------------------------------


class _Held:
    """What a worker holds for one join."""

    def __init__(self, keyring: Keyring) -> None:
        self.keyring = keyring
        self.until = time.monotonic() + LEASE_SECONDS


_held: dict[str, _Held] = {}
_offered: dict[str, X25519PrivateKey] = {}


@dataclass(frozen=True)
class _Worker:
    version: str
    on_disk: bool  # whether results may go there
    encrypted: bool  # whether its connections are
    threads: int


def _describe(dask_worker: Any) -> _Worker:
    ends = (dask_worker.address, dask_worker.scheduler.address)
    encrypted = all(end.startswith(TLS) for end in ends)
    return _Worker(__version__, type(dask_worker.data) is not dict, encrypted, int(dask_worker.state.nthreads))


def _offer(token: str) -> bytes:
    """The public half of a new key, to which that of the join shall be encrypted."""
    no_core_dump()
    return _offered.setdefault(token, X25519PrivateKey.generate()).public_key().public_bytes_raw()


def _hold(token: str, encrypted: Mapping[bytes, bytes]) -> None:
    private = _offered.pop(token, None)
    if private is None:  # another worker in this process was first
        return
    public = private.public_key().public_bytes_raw()
    theirs, content = encrypted[public][:32], encrypted[public][32:]
    key = _shared_key(private, X25519PublicKey.from_public_bytes(theirs), theirs + public)
    keypair = pickle.loads(AESGCM(key).decrypt(ONCE, content, None))  # noqa: S301 (of this party, as all jobs are)
    _held[token] = _Held(Keyring(keypair, os.urandom))
    threading.Thread(target=_watch, args=(token,), name="lease-watch", daemon=True).start()


def _renew(token: str) -> None:
    if token in _held:
        _held[token].until = time.monotonic() + LEASE_SECONDS


def _drop(token: str) -> None:
    _held.pop(token, None)
    gc.collect()


def _watch(token: str) -> None:
    while (held := _held.get(token)) is not None:
        left = held.until - time.monotonic()
        if left <= 0:
            _drop(token)
        del held
        time.sleep(max(0.0, min(left, 1.0)))


def _run_held(token: str, task: Task, parts: tuple[Part, ...]) -> Bytes:
    held = _held.get(token)
    if held is None:
        raise PipelineError("a worker of the cluster no longer has the keys of this join")
    return run_job(held.keyring, task, parts)


def _shared_key(own: X25519PrivateKey, other: X25519PublicKey, both: bytes) -> bytes:
    """X25519, then HKDF-SHA-256 (RFC 5869) over both public keys."""
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=LABEL + both).derive(own.exchange(other))


def _answer(call: Sealed) -> Sealed:
    """Call a function; its result, or its error as one."""
    function, arguments = call.content
    try:
        return Sealed(function(*arguments))
    except PipelineError as error:
        return Sealed(error)


# --- here -------------------------------------------------------------------


class Cluster:
    """A connection to the cluster, whose workers were found to be fit; it ends with `workers`, or with this process."""

    def __init__(self, client: Any, workers: dict[str, int]) -> None:
        self._client = client
        self._workers = workers  # address -> threads

    @classmethod
    def connect(cls, compute: Compute) -> Cluster:
        """Connect and look at the workers; ConfigError if they are not fit for it."""
        client = _client(compute)
        try:
            found = client.run(_describe)
        except Exception as error:
            client.close()
            raise _unfit(f"do not all answer ({type(error).__name__}); is this program installed at each?") from None
        words = _fault(found, compute)
        if words:
            client.close()
            raise _unfit(words)
        return cls(client, {address: worker.threads for address, worker in found.items()})

    def workers(self, keypair: KeyPair | None) -> Workers:
        """Give the key pair to the workers that were found, and return them for use; they are closed as others are."""
        token = token_hex(16)
        executor = ClusterExecutor(self._client, list(self._workers), token, keypair)
        return Workers(executor, partial(_run_held, token), ahead=2 * sum(self._workers.values()) + 1)


class ClusterExecutor(Executor):
    """Hands calls to the workers that hold the key, and to no others; ends their hold when it is shut down."""

    def __init__(self, client: Any, addresses: list[str], token: str, keypair: KeyPair | None) -> None:
        self._client = client
        self._addresses = addresses
        self._token = token
        self._over = threading.Event()
        offers = self._tell(_offer, token)
        self._tell(_hold, token, _encrypted(keypair, offers.values()))
        self._theirs = client.get_executor(pure=False, workers=addresses, allow_other_workers=False)
        threading.Thread(target=self._keep, name="lease", daemon=True).start()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        if kwargs:
            raise LocalProtocolError("a call on a cluster takes no arguments by name")
        ours: Future[T] = Future()
        theirs = self._theirs.submit(_answer, Sealed((fn, args)))
        theirs.add_done_callback(partial(_pass_on, ours))
        return ours

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Drop the keys at the workers and end the connection."""
        if self._over.is_set():
            return
        self._over.set()
        with suppress(Exception):  # a worker that is not there any more is what its lease is for
            self._theirs.shutdown(wait=wait and not cancel_futures)
            self._client.run(_drop, self._token, workers=self._addresses, on_error="ignore")
        self._client.close()

    def _keep(self) -> None:
        while not self._over.wait(RENEW_SECONDS):
            with suppress(Exception):  # jobs will say what is wrong
                self._client.run(_renew, self._token, workers=self._addresses, on_error="ignore")

    def _tell(self, function: Callable[..., T], *arguments: object) -> dict[str, T]:
        try:
            answers: dict[str, T] = self._client.run(function, *arguments, workers=self._addresses)
        except Exception as error:
            raise _lost(error) from None
        return answers


def _encrypted(keypair: KeyPair | None, publics: Iterable[bytes]) -> dict[bytes, bytes]:
    """The key pair for each worker: a public key of ours and the ciphertext, by the worker's public key."""
    content, result = pickle.dumps(keypair), {}
    for public in publics:
        own = X25519PrivateKey.generate()
        ours = own.public_key().public_bytes_raw()
        key = _shared_key(own, X25519PublicKey.from_public_bytes(public), ours + public)
        result[public] = ours + AESGCM(key).encrypt(ONCE, content, None)
    return result


def _pass_on(ours: Future[Any], theirs: Future[Sealed]) -> None:
    if not ours.set_running_or_notify_cancel():
        return
    try:
        content = theirs.result().content
    except (Exception, CancelledError) as error:
        content = _lost(error)
    if isinstance(content, PipelineError):
        ours.set_exception(content)
    else:
        ours.set_result(content)


def _client(compute: Compute) -> Any:
    distributed: Any = importlib.import_module("distributed")  # only here: it is an optional dependency

    security = None
    if compute.certificate is not None:
        security = distributed.Security(
            tls_ca_file=str(compute.ca),
            tls_client_cert=str(compute.certificate),
            tls_client_key=str(compute.key),
            require_encryption=True,
        )
    try:
        return distributed.Client(
            compute.scheduler, security=security, timeout=CONNECT_SECONDS, set_as_default=False, name="join"
        )
    except Exception as error:
        raise ConfigError(
            f"compute.scheduler: no connection to {compute.scheduler} ({type(error).__name__}); "
            "is the cluster up, and do certificate, key and ca fit it?"
        ) from None


def _fault(found: Mapping[str, _Worker], compute: Compute) -> str:
    workers = found.values()
    if not workers:
        return "are none"
    if any(not isinstance(worker, _Worker) or worker.version != __version__ for worker in workers):
        return f"do not all have version {__version__} of this program"
    if any(worker.on_disk for worker in workers):
        return "may write results to a disk; start them with distributed.worker.memory.target and .spill set to false"
    if compute.certificate is not None and not all(worker.encrypted for worker in workers):
        return f"do not all encrypt their connections; start them with a scheduler's address that begins with {TLS}"
    return ""


def _unfit(words: str) -> ConfigError:
    return ConfigError(f"compute.scheduler: the workers of the cluster {words}")


def _lost(error: BaseException) -> PipelineError:
    return PipelineError(f"the cluster has lost a job ({type(error).__name__}); are its workers still there?")
