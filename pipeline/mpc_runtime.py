"""MPyC's runtime on the links of this project.

What differs from stock MPyC: the module is imported without reading
`sys.argv`; messages travel over links given by the caller, whose peer is known
for certain; nothing that arrives is unpickled; a lost link or a failed
coroutine ends the computation with its error instead of a wait for ever; what
is opened to whom is listed in `OPENED`.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import logging
import struct
import sys
import warnings
from collections.abc import Callable, Coroutine, Mapping, Sequence
from types import ModuleType
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np

from pipeline.errors import LocalProtocolError, PipelineError, RemoteProtocolError
from pipeline.field import FIELD_254

Result = TypeVar("Result")
Shares: TypeAlias = Any  # an array of MPyC's prime field: this party's Shamir shares

PARTIES = 3
THRESHOLD = 1
MAX_PAYLOAD = 1 << 28  # bytes in one message
MAX_WAITING = 1 << 29  # bytes that have arrived before they were asked for

# Everything that is opened in step 8 beyond masked intermediate values, and to whom.
ALL = "all parties"
CONTROLLERS = "controllers"
OPENED: Mapping[str, str] = {
    "outcome is constant": ALL,
    "spread is too small": ALL,
    "conditions hold": ALL,
    "slopes": CONTROLLERS,
    "intercept": CONTROLLERS,
    "r2": CONTROLLERS,
    "variance of the outcome": CONTROLLERS,
}


class Link(Protocol):
    """A byte stream to one peer, in order and without loss; `peer` is certain."""

    peer: int

    def write(self, data: bytes) -> None:
        """Queue `data`; thread-safe, returns at once."""

    def set_receiver(self, on_data: Callable[[bytes], None], on_lost: Callable[[Exception], None]) -> None:
        """Call `on_data` with what arrives, from any thread; `on_lost` once, when no more will."""


def import_mpyc() -> ModuleType:
    """Import `mpyc.runtime`, leaving sys.argv, logging, event loop and its policy as they are.

    MPyC parses the command line, configures logging and may set an event loop
    policy when it is imported.
    """
    if "mpyc.runtime" in sys.modules:
        return sys.modules["mpyc.runtime"]
    try:
        running: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
    except RuntimeError:
        running = None
    handler = running.get_exception_handler() if running else None
    argv, handlers, level = sys.argv, logging.root.handlers[:], logging.root.level
    own = None if running else asyncio.new_event_loop()
    sys.argv = ["mpyc", "--no-log", "--no-uvloop"]
    try:
        if own:
            asyncio.set_event_loop(own)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of NumPy, about names MPyC uses
            return importlib.import_module("mpyc.runtime")
    finally:
        sys.argv = argv
        logging.root.handlers[:], logging.root.level = handlers, level
        if own:
            asyncio.set_event_loop(None)
            own.close()
        if running:
            running.set_exception_handler(handler)


_mpyc = import_mpyc()
GF = _mpyc.finfields.GF  # the prime field of a modulus; its `array` is the type of shares


class Codec:
    """Stands where MPyC uses `pickle`: arrays of field elements and plain values, nothing else.

    An array is `A`, then `width` little-endian bytes an element; a plain value
    is `V` and one of None, bool, int, bytes and lists of them.
    """

    def __init__(self, modulus: int) -> None:
        self.modulus = modulus
        self.width = (modulus.bit_length() + 7) // 8

    def dumps(self, value: Any) -> bytes:
        if isinstance(value, np.ndarray):
            return b"A" + self.pack(value)
        return b"V" + _pack_value(value)

    def loads(self, data: bytes) -> Any:
        if data[:1] == b"A":
            return self.unpack(memoryview(data)[1:])
        if data[:1] == b"V":
            value, rest = _unpack_value(data[1:], 0)
            if not rest:
                return value
        raise RemoteProtocolError("a peer sent a value that is not allowed in the fit")

    def pack(self, values: Any) -> bytes:
        """Elements as bytes; all must lie in [0, modulus)."""
        return b"".join([int(x).to_bytes(self.width, "little") for x in values.ravel().tolist()])

    def unpack(self, data: bytes | memoryview) -> Any:
        """The inverse of `pack`, a flat object array; raises RemoteProtocolError on anything else."""
        if len(data) % self.width:
            raise RemoteProtocolError("a peer sent shares of the wrong length")
        values = unpack_integers(data, self.width)
        if values and max(values) >= self.modulus:
            raise RemoteProtocolError("a peer sent a share that is no field element")
        return object_array(values)


def unpack_integers(data: bytes | memoryview, width: int) -> list[int]:
    """Little-endian integers of `width` bytes each."""
    from_bytes = int.from_bytes
    return [from_bytes(data[i : i + width], "little") for i in range(0, len(data), width)]


def object_array(values: Sequence[int]) -> Any:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def _pack_value(value: Any) -> bytes:
    if value is None or isinstance(value, bool):
        return {None: b"n", True: b"t", False: b"f"}[value]
    if isinstance(value, int):
        data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        return b"i" + struct.pack("<I", len(data)) + data
    if isinstance(value, bytes):
        return b"b" + struct.pack("<I", len(value)) + value
    if isinstance(value, list):
        return b"l" + struct.pack("<I", len(value)) + b"".join(map(_pack_value, value))
    raise LocalProtocolError(f"{type(value).__name__} is not sent in the fit")


def _unpack_value(data: bytes, depth: int) -> tuple[Any, bytes]:
    kind, rest = data[:1], data[1:]
    if kind in (b"n", b"t", b"f"):
        return {b"n": None, b"t": True, b"f": False}[kind], rest
    if len(rest) >= 4 and depth < 4:
        size, rest = int.from_bytes(rest[:4], "little"), rest[4:]
        if kind == b"l" and size <= len(rest):
            values = []
            for _ in range(size):
                value, rest = _unpack_value(rest, depth + 1)
                values.append(value)
            return values, rest
        if kind in (b"i", b"b") and size <= len(rest):
            body = rest[:size]
            return (body if kind == b"b" else int.from_bytes(body, "little", signed=True)), rest[size:]
    raise RemoteProtocolError("a peer sent a value that is not allowed in the fit")


class _Exchange:
    """Messages with one peer; takes the place of MPyC's `MessageExchanger`.

    A message is its label (8 bytes, the sender's program counter), its length
    (4 bytes) and its payload. The party with the lower number opens the stream
    with its number (2 bytes) and the PRSS keys it has drawn.
    """

    def __init__(self, runtime: Runtime, link: Link) -> None:
        self._runtime = runtime
        self._link = link
        self._bytes = bytearray()
        self._messages: dict[int, bytes] = {}
        self._waiting = 0
        self._awaited: dict[int, asyncio.Future[bytes]] = {}
        self._greeted = link.peer > runtime.pid  # then it is we who greet
        self.nbytes_sent = 0

    def open(self) -> None:
        loop = self._runtime._loop

        def threadsafe(function: Callable[[Any], None]) -> Callable[[Any], None]:
            def call(argument: Any) -> None:
                if not loop.is_closed():
                    loop.call_soon_threadsafe(function, argument)

            return call

        if self._greeted:
            keys = self._runtime._prss_keys_to_peer(self._link.peer)
            self._link.write(b"".join([self._runtime.pid.to_bytes(2, "little"), *map(bytes, keys)]))
            self._runtime.set_protocol(self._link.peer, self)
        self._link.set_receiver(threadsafe(self._received), threadsafe(self._runtime.fail))

    def send(self, label: int, payload: bytes) -> None:
        self._link.write(struct.pack("<qI", label, len(payload)) + payload)
        self.nbytes_sent += 12 + len(payload)

    def receive(self, label: int) -> bytes | asyncio.Future[bytes]:
        payload = self._messages.pop(label, None)
        if payload is not None:
            self._waiting -= len(payload)
            return payload
        return self._awaited.setdefault(label, self._runtime._loop.create_future())

    def close_connection(self) -> None:
        """The link belongs to the caller."""

    def _received(self, data: bytes) -> None:
        self._bytes += data
        try:
            if self._greeted or self._greet():
                self._deliver()
        except PipelineError as error:
            self._runtime.fail(error)

    def _greet(self) -> bool:
        """Take the peer's number and PRSS keys, once they are complete."""
        peer = self._link.peer
        size = 2 + self._runtime._prss_keys_from_peer(peer)
        if len(self._bytes) < size:
            return False
        if int.from_bytes(self._bytes[:2], "little") != peer:
            raise RemoteProtocolError(f"party {peer} gives itself another number")
        self._runtime._prss_keys_from_peer(peer, bytes(self._bytes[2:size]))
        del self._bytes[:size]
        self._greeted = True
        self._runtime.set_protocol(peer, self)
        return True

    def _deliver(self) -> None:
        while len(self._bytes) >= 12:
            label, size = struct.unpack_from("<qI", self._bytes)
            if size > MAX_PAYLOAD:
                raise RemoteProtocolError(f"party {self._link.peer} announces a message of {size} bytes")
            if len(self._bytes) < 12 + size:
                return
            payload = bytes(self._bytes[12 : 12 + size])
            del self._bytes[: 12 + size]
            awaited = self._awaited.pop(label, None)
            if awaited is not None:
                if not awaited.done():
                    awaited.set_result(payload)
                continue
            self._waiting += size
            if label in self._messages or self._waiting > MAX_WAITING:
                raise RemoteProtocolError(f"party {self._link.peer} sends more than was asked for")
            self._messages[label] = payload


class Runtime(_mpyc.Runtime):  # type: ignore[misc, name-defined]
    """MPyC's runtime among the three parties of a study, threshold 1.

    rounds: message exchanges so far, one after another; an upper bound for
        MPyC's own operations, which may overlap.
    """

    def __init__(self, party_id: int, links: Mapping[int, Link]) -> None:
        if set(links) != set(range(PARTIES)) - {party_id} or any(link.peer != i for i, link in links.items()):
            raise LocalProtocolError("a link to each of the other two parties is needed")
        options = _options()
        super().__init__(party_id, [_mpyc.Party(i) for i in range(PARTIES)], options)
        self._loop.set_exception_handler(self._handle_exception)
        self.rounds = 0
        self.opened: list[str] = []  # names out of OPENED, in order
        self._exchanges = {i: _Exchange(self, link) for i, link in links.items()}
        self._failure: asyncio.Future[None] = self._loop.create_future()
        self._trace = b""

    async def start(self) -> None:
        """Exchange the PRSS keys: each pair of parties has one the third does not know."""
        for party in self.parties:
            party.protocol = self._loop.create_future() if party.pid == self.pid else None

        async def greeted() -> None:
            for exchange in self._exchanges.values():
                exchange.open()
            await self.parties[self.pid].protocol

        await self.supervise(greeted())
        keys = self.__dict__["_prss_keys"]
        self._prss_keys = {subset: bytes(key) for subset, key in keys.items()}

    # Failure

    def fail(self, error: Exception) -> None:
        """End whatever `supervise` runs; the first reason counts."""
        if not self._failure.done():
            self._failure.set_exception(error)
            self._failure.exception()  # not to be reported as never retrieved

    async def supervise(self, computation: Coroutine[Any, Any, Result]) -> Result:
        """Run `computation` until it is done or `fail` is called; raise the reason of the failure."""
        task = self._loop.create_task(computation)
        try:
            await asyncio.wait((task, self._failure), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                self._failure.result()
            result: Result = await task
            return result
        finally:
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    def _handle_exception(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, Exception):
            self.fail(error)
        elif "destroyed but it is pending" not in context.get("message", ""):
            loop.default_exception_handler(context)

    # Communication

    async def exchange(
        self, operation: str, outgoing: Mapping[int, bytes], sizes: Mapping[int, int]
    ) -> dict[int, bytes]:
        """One round: send `outgoing` by receiver, return what arrives, of the known `sizes` by sender.

        Every message begins with a digest of the operations so far, so that
        parties that do not do the same thing notice instead of computing garbage.
        """
        self._program_counter[0] += 1
        self.rounds += 1
        self._trace = hashlib.sha256(self._trace + operation.encode()).digest()[:8]
        for receiver, payload in outgoing.items():
            self._send_message(receiver, self._trace + payload)
        arrived = {}
        for sender, size in sizes.items():
            received = self._receive_message(sender)
            payload = received if isinstance(received, bytes) else await received
            if payload[:8] != self._trace or len(payload) != 8 + size:
                raise RemoteProtocolError(f"party {sender} is at another step of the fit ({operation} here)")
            arrived[sender] = payload[8:]
        return arrived

    async def secret_input(self, field: Any, owner: int, values: Any, shape: tuple[int, ...]) -> Shares:
        """Share `values`, integers modulo the field's prime known to `owner` alone; None elsewhere."""
        secure = self.SecFld(modulus=field.modulus)
        own = np.zeros(shape, dtype=object) if values is None else np.array(values, dtype=object).reshape(shape)
        self.rounds += 1
        return await self.gather(self.input(secure.array(own), senders=owner))

    async def open_to_all(self, name: str, shares: Shares) -> Any:
        """Open a result to all parties; `name` must be listed in OPENED so."""
        return await self._open(name, shares, ALL, range(PARTIES))

    async def open_to_controllers(self, name: str, shares: Shares, controllers: Sequence[int]) -> Any:
        """Open a result to the controllers; None at the third party, which sends its share and receives none."""
        return await self._open(name, shares, CONTROLLERS, controllers)

    async def _open(self, name: str, shares: Shares, whom: str, receivers: Sequence[int]) -> Any:
        if OPENED.get(name) != whom:
            raise LocalProtocolError(f"{name} must not be opened to {whom}")
        self.opened.append(name)
        self.rounds += 1
        secure = self.SecFld(modulus=shares.field.modulus)
        opened = await self.output(secure.array(shares), receivers=list(receivers))
        return None if opened is None else opened.value


def make_runtime(party_id: int, links: Mapping[int, Link], modulus: int = FIELD_254.p) -> Runtime:
    """Build the runtime of this process, inside its running event loop; to be started with `start`.

    modulus: of the field whose elements MPyC's own operations send. One runtime
        at a time in a process, as MPyC keeps it in module globals.
    """
    runtime = Runtime(party_id, links)
    for name in ("asyncoro", "sectypes", "mpctools", "random", "seclists", "secgroups", "secpols", "statistics"):
        vars(importlib.import_module(f"mpyc.{name}"))["runtime"] = runtime
    vars(_mpyc).update(mpc=runtime, pickle=Codec(modulus))
    _mpyc.asyncoro._reconcile = _reconcile
    return runtime


def _options() -> Any:
    options = sys.modules["mpyc"]._get_arg_parser().parse_args([])
    options.threshold = THRESHOLD
    options.no_log = True
    options.no_async = False
    return options


def _reconcile(declared: Any, task: asyncio.Task[Any]) -> None:
    """Hand on the result of an MPyC coroutine; a failed one ends the computation (stock MPyC stops the loop)."""
    asyncoro = _mpyc.asyncoro
    asyncoro.runtime._pc_level -= 1
    if task.cancelled():
        return
    error = task.exception()
    if error is None:
        if declared is not None:
            vars(asyncoro)["__reconcile"](declared, task.result())
    elif isinstance(error, Exception):
        asyncoro.runtime.fail(error)
