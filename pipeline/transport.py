"""What the rest of the program sees of the network: a node that moves bytes between the parties.

A node has a thread of its own for all input and output, so that signs of life
go out while the computation is busy. Its methods may be called from any
thread. What is moved is not looked into here, nor written down, nor logged.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import logging
import secrets
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from pipeline.buffers import Link, Shared, TransportSettings
from pipeline.carrier import Carrier
from pipeline.config import Agreement, Local
from pipeline.errors import ConfigError, LocalProtocolError, PipelineError
from pipeline.parcels import MAX_PAYLOAD_BYTES
from pipeline.session import NONCE_BYTES, AbortCode, Command, abort_code
from pipeline.tls import refuse_key_log

__all__ = ["AbortCode", "Command", "Link", "Node", "TransportSettings", "abort_code"]

log = logging.getLogger(__name__)

_HURRY_SECONDS = 30.0  # for the network's thread to do what takes milliseconds, on a machine that is very busy

Result = TypeVar("Result")


class Node:
    """One party's connections with all others, from `start` to `close`.

    The first failure, here or at a peer, ends the run: `failure` keeps it,
    every method that waits raises it, and links and callbacks are told of it
    in the network's thread.
    """

    def __init__(
        self,
        agreement: Agreement,
        local: Local,
        party_id: int,
        *,
        settings: TransportSettings | None = None,
        command: Command = Command.RUN,
    ) -> None:
        self._agreement = agreement
        self._local = local
        self._me = party_id
        self._settings = settings or TransportSettings()
        self._command = command
        peers = [party.id for party in agreement.parties if party.id != party_id]
        self._shared = Shared(peers, self._settings.outbox_bytes, self._settings.inbox_bytes)
        self._links = {peer: Link(peer, self._settings.link_bytes, self._post, self._overflowed) for peer in peers}
        self._callbacks: list[Callable[[PipelineError], None]] = []
        self._thread: _NetworkThread | None = None

    @property
    def failure(self) -> PipelineError | None:
        """What ended the run, if it has failed."""
        return self._shared.failure

    @property
    def sent_bytes(self) -> int:
        """What this party has sent so far, without HTTP and TLS."""
        return self._shared.sent_bytes

    def on_failure(self, callback: Callable[[PipelineError], None]) -> None:
        """Have `callback` called, in the network's thread, when the run fails; at once if it has failed."""
        with self._shared.changed:
            failure = self._shared.failure
            if failure is None:
                self._callbacks.append(callback)
                return
        callback(failure)

    def start(self) -> None:
        """Listen for the others; raises ConfigError when the port, the key or the environment does not allow it."""
        refuse_key_log()
        carrier = Carrier(
            self._agreement,
            self._local,
            self._me,
            self._settings,
            self._shared,
            self._links,
            secrets.token_bytes(NONCE_BYTES),
            self._command,
        )
        carrier.failed = self._tell
        self._thread = _NetworkThread(carrier)
        try:
            self._thread.run(carrier.listen())
        except OSError as error:
            self.close()
            raise ConfigError(self._cannot_listen(error)) from error
        except BaseException:
            self.close()
            raise

    def connect(self, wait: float, awaiting: Callable[[tuple[str, ...]], None]) -> bytes:
        """Connect with all others within `wait` seconds; returns the session identifier, 32 bytes.

        awaiting: called, in the caller's thread, with the names of the parties
            that are still missing, whenever they change.
        """
        thread, shared = self._running(), self._shared
        thread.post(thread.carrier.dial)
        deadline = time.monotonic() + wait
        told: tuple[int, ...] = ()
        while True:
            changed = self._await_change(told, max(0.0, deadline - time.monotonic()))
            session, missing = shared.session, shared.missing
            if session is not None:
                return session
            if changed:
                told = missing
                awaiting(tuple(self._agreement.party(party).name for party in missing))
            else:
                thread.run(_at_once(lambda: thread.carrier.give_up(wait)))

    def _await_change(self, told: tuple[int, ...], timeout: float) -> bool:
        shared = self._shared
        with shared.changed:
            return shared.wait_for(lambda: shared.session is not None or shared.missing not in ((), told), timeout)

    def send(self, receiver: int, payload: bytes) -> None:
        """Queue `payload`; waits only while too much for `receiver` is queued already."""
        thread, shared = self._running(), self._shared
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise LocalProtocolError(f"a message of {len(payload)} bytes is larger than {MAX_PAYLOAD_BYTES}")
        digest = hashlib.sha256(payload).hexdigest()
        outbox = shared.outboxes[receiver]
        with shared.changed:
            shared.raise_if_over()
            if shared.session is None:
                raise LocalProtocolError("nothing can be sent before the parties are connected")
            fits = shared.wait_for(lambda: outbox.fits(len(payload)), self._settings.patience)
            if fits:
                outbox.add(payload, digest)
        if not fits:
            self._stalled(f"{self._name(receiver)} has not taken a message", receiver)
        thread.post(lambda: thread.carrier.posted(receiver))

    def receive(self, timeout: float | None = None) -> tuple[int, bytes] | None:
        """The next payload and its sender; those of one sender come in the order they were sent.

        None when nothing has come within `timeout` seconds. Without a timeout
        the wait ends with a PeerError after the patience of the settings.
        """
        thread, shared = self._running(), self._shared
        limit = self._settings.patience if timeout is None else timeout
        with shared.changed:
            if shared.wait_for(lambda: bool(shared.inbox.payloads), limit):
                sender, payload = shared.inbox.payloads.popleft()
                shared.inbox.release(sender, len(payload))
                thread.post(lambda: thread.carrier.fetched(sender))
                return sender, payload
        if timeout is None:
            self._stalled("no party has sent anything", None)
        return None

    def link(self, peer: int) -> Link:
        """The stream of bytes to and from `peer`; there is one."""
        return self._links[peer]

    def abort(self, code: AbortCode, party: int | None = None) -> None:
        """Tell the others why this party stops, and about whom, and end; waits until they have heard, for seconds.

        Does nothing after a failure: the others hear of that without it.
        """
        with self._shared.changed:
            if self._shared.failure is not None:
                return
            self._shared.stopped = True
            self._shared.changed.notify_all()
        if self._thread is not None:
            with suppress(LocalProtocolError):
                self._thread.run(self._thread.carrier.stop(code, party))

    def finish(self, timeout: float) -> None:
        """Say that this party is done and wait until all others are; then nobody's end looks like a death.

        The others may still be computing: `timeout` bounds how long.
        """
        thread, shared = self._running(), self._shared
        deadline = time.monotonic() + timeout
        with shared.changed:
            in_time = shared.wait_for(lambda: not any(box.parcels for box in shared.outboxes.values()), timeout)
        if in_time:
            thread.post(thread.carrier.say_done)
            with shared.changed:
                in_time = shared.wait_for(lambda: shared.finished, max(0.0, deadline - time.monotonic()))
        if not in_time:
            self._stalled("some party has not come to its end", None)

    def close(self) -> None:
        """Close all connections; before the end of the run the others are told that this party stops."""
        thread, self._thread = self._thread, None
        if thread is not None:
            with self._shared.changed:
                self._shared.stopped = True
                self._shared.changed.notify_all()
            thread.end()

    def _running(self) -> _NetworkThread:
        if self._thread is None:
            self._shared.raise_if_over()
            raise LocalProtocolError("the node is not started")
        return self._thread

    def _name(self, party: int) -> str:
        return self._agreement.party(party).name

    def _post(self, callback: Callable[[], None]) -> bool:
        return self._thread is not None and self._thread.post(callback)

    def _overflowed(self, peer: int) -> None:
        if self._thread is not None:
            self._thread.carrier.overflowed(peer)

    def _tell(self, failure: PipelineError) -> None:
        for callback in self._callbacks:
            try:
                callback(failure)
            except Exception:
                log.debug("a callback failed", exc_info=True)

    def _stalled(self, what: str, party: int | None) -> None:
        thread = self._running()
        thread.run(_at_once(lambda: thread.carrier.stalled(what, party)))
        self._shared.raise_if_over()

    def _cannot_listen(self, error: OSError) -> str:
        host, port = self._local.listen
        mend = f"or set `listen` in party-{self._me}.toml"
        if error.errno == errno.EADDRINUSE:
            return f"port {port} of {host} is in use: is this party running already? End the other program, {mend}"
        if error.errno == errno.EACCES:
            return f"port {port} of {host} needs special rights; use one above 1023, {mend}"
        return f"{host} is not an address of this machine, so nothing can listen there; mend this party's url, {mend}"


class _NetworkThread:
    """A thread with an event loop in it, in which a carrier lives."""

    def __init__(self, carrier: Carrier) -> None:
        self.carrier = carrier
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(_stray)
        self._thread = threading.Thread(target=self._serve, name="network", daemon=True)
        self._thread.start()

    def post(self, callback: Callable[[], None]) -> bool:
        """Have `callback` called in this thread; False when it has ended."""
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:
            return False
        return True

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Do `work` in this thread and wait for its result."""
        if threading.current_thread() is self._thread or self._loop.is_closed():
            work.close()
            raise LocalProtocolError("the network's thread cannot wait for itself, nor anybody for it after its end")
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(_HURRY_SECONDS)
        except TimeoutError:
            if future.done():
                raise
            raise LocalProtocolError("the network's thread does not answer") from None

    def end(self) -> None:
        with suppress(LocalProtocolError):
            self.run(self.carrier.close())
        self.post(self._loop.stop)
        self._thread.join(_HURRY_SECONDS)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()


def _stray(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Connections that break off are handled where they are used; what asyncio adds is for the curious."""
    log.debug("asyncio: %s", context.get("message"))


async def _at_once(action: Callable[[], None]) -> None:
    action()
