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
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np

from pipeline.errors import LocalProtocolError, PipelineError, RemoteProtocolError
from pipeline.field import FIELD_254, PrimeField
from pipeline.residues import Residues, concatenate

Result = TypeVar("Result")
Shares: TypeAlias = Residues  # this party's Shamir shares

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
    "a level has too few records": ALL,
    "column of a refusal": ALL,
    "features are dependent": ALL,
    "conditions hold": ALL,
    "an error is too large": ALL,
    "a rule on the model fails": ALL,
    "too few degrees of freedom": ALL,
    "too many parameters": ALL,
    "r2 is too large": ALL,
    "a mean is too far away": ALL,
    "slopes": CONTROLLERS,
    "intercept": CONTROLLERS,
    "r2": CONTROLLERS,
    "variance of the outcome": CONTROLLERS,
    "place of the penalty": CONTROLLERS,
    "largest penalty": CONTROLLERS,
    "errors of the folds": CONTROLLERS,
    "spread of errors": CONTROLLERS,
    "cross-validated r2": CONTROLLERS,
    "standard errors": CONTROLLERS,
    "leverage": CONTROLLERS,
    "means": CONTROLLERS,
    "variances": CONTROLLERS,
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
            with memoryview(self._bytes) as view:
                payload = bytes(view[12 : 12 + size])
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
        self.branch: tuple[int, ...] = ()  # of the computation that runs, among those that run together
        self._trace = b""
        self._drawn: set[tuple[str, tuple[int, int]]] = set()
        self._drawn_at = -1

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
        task = self._loop.create_task(self._drive(computation))
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

    async def _drive(self, computation: Coroutine[Any, Any, Result]) -> Result:
        result: Result = await _Driven(self, computation)
        return result

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
        """One round: send `outgoing` by receiver, return what arrives, of the known `sizes` by sender."""
        return await Round(operation, outgoing, sizes)

    async def together(self, *branches: Coroutine[Any, Any, Any]) -> list[Any]:
        """Run the branches in the same rounds, each round of all of them one message to a peer; return their results.

        The n-th round of one goes with the n-th of the others, whatever arrives
        first, so that all parties do the same.
        """
        return await _Together(self, branches)

    async def _perform(self, round_: Round) -> dict[int, bytes]:
        """Every message begins with a digest of the operations so far, so that parties that do not do the same
        thing notice instead of computing garbage.
        """
        self._program_counter[0] += 1
        self.rounds += 1
        self._trace = hashlib.sha256(self._trace + round_.operation.encode()).digest()[:8]
        for receiver, payload in round_.outgoing.items():
            self._send_message(receiver, self._trace + payload)
        arrived = {}
        for sender, size in round_.sizes.items():
            received = self._receive_message(sender)
            payload = received if isinstance(received, bytes) else await received
            if payload[:8] != self._trace or len(payload) != 8 + size:
                raise RemoteProtocolError(f"party {sender} is at another step of the fit ({round_.operation} here)")
            arrived[sender] = payload[8:]
        return arrived

    async def secret_inputs(
        self, field: PrimeField, values: Mapping[int, Any], shapes: Mapping[int, tuple[int, ...]]
    ) -> list[Shares]:
        """Share arrays of integers, one of each owner in `shapes`, in their order; `values` holds this party's own."""
        secure = self.SecFld(modulus=field.p)
        shared = []
        for owner, shape in shapes.items():
            own = values.get(owner)
            own = np.zeros(shape, dtype=object) if own is None else np.array(own, dtype=object).reshape(shape)
            shared.append(self.input(secure.array(own), senders=owner))
        self.rounds += 1
        return [Residues.of_integers(field, x.value) for x in await self.gather(shared)]

    def key_of(self, operation: str, field: str, pair: tuple[int, int]) -> bytes:
        """A key of AES-256 that only the pair knows, for one operation in the coming round; asked for once."""
        counter = self._program_counter[0]
        if counter > self._drawn_at:
            self._drawn_at, self._drawn = counter, set()
        use = f"{field}/{operation}/{'.'.join(map(str, self.branch))}"
        if counter < self._drawn_at or (use, pair) in self._drawn:
            raise LocalProtocolError(f"{operation} would draw the same numbers twice")
        self._drawn.add((use, pair))
        label = b"secure-lasso-pipeline/prss/v2" + counter.to_bytes(8, "little", signed=True)
        return hashlib.sha256(self._prss_keys[pair] + label + use.encode()).digest()

    def note_opening(self, name: str, whom: str) -> None:
        """Refuse to open what is not listed in OPENED for these receivers."""
        if OPENED.get(name) != whom:
            raise LocalProtocolError(f"{name} must not be opened to {whom}")
        self.opened.append(name)

    async def open_to_controllers(self, shares: Mapping[str, Shares], controllers: Sequence[int]) -> Any:
        """Open flat arrays of results, by name, to the controllers; return their integers in [0, p) by name.

        None at the third party, which sends its shares and receives none. One round.
        """
        for name in shares:
            self.note_opening(name, CONTROLLERS)
        self.rounds += 1
        flat = concatenate(list(shares.values()))
        secure = self.SecFld(modulus=flat.field.p)
        opened = await self.output(secure.array(flat.integers()), receivers=list(controllers))
        if opened is None:
            return None
        ends = np.cumsum([len(x) for x in shares.values()])
        return dict(zip(shares, np.split(opened.value, ends[:-1]), strict=True))


@dataclass(frozen=True, eq=False)
class Round:
    """A wish for one exchange of messages; awaited, it is handed to whoever drives the computation."""

    operation: str
    outgoing: Mapping[int, bytes] = field(repr=False)  # never in a message about a fault
    sizes: Mapping[int, int]

    def __await__(self) -> Generator[Any, Any, dict[int, bytes]]:
        arrived: dict[int, bytes] = yield self
        return arrived


class _Driven:
    """A computation whose rounds are performed as they come."""

    def __init__(self, runtime: Runtime, computation: Coroutine[Any, Any, Any]) -> None:
        self._runtime = runtime
        self._computation = computation

    def __await__(self) -> Generator[Any, Any, Any]:
        reply = None
        try:
            while True:
                wish = self._computation.send(reply)
                if isinstance(wish, Round):
                    reply = yield from self._runtime._perform(wish).__await__()
                else:
                    reply = yield wish  # a future of one of MPyC's operations
        except StopIteration as stop:
            return stop.value
        finally:
            self._computation.close()


class _Together:
    """Branches in lockstep; a round of it is one round of every branch that goes on."""

    def __init__(self, runtime: Runtime, branches: Sequence[Coroutine[Any, Any, Any]]) -> None:
        self._runtime = runtime
        self._branches = dict(enumerate(branches))
        self._results: list[Any] = [None] * len(branches)

    def __await__(self) -> Generator[Any, Any, list[Any]]:
        runtime, outer = self._runtime, self._runtime.branch
        replies: dict[int, Any] = dict.fromkeys(self._branches)
        try:
            while True:
                wishes: dict[int, Round] = {}
                for i in list(self._branches):
                    runtime.branch = (*outer, i)
                    wish = yield from self._step(i, replies[i])
                    if wish is not None:
                        wishes[i] = wish
                runtime.branch = outer
                if not wishes:
                    return self._results
                arrived = yield _merged(list(wishes.values()))
                replies = dict(zip(wishes, _divided(list(wishes.values()), arrived), strict=True))
        finally:
            for branch in self._branches.values():
                branch.close()
            runtime.branch = outer  # last: branches of a branch have set it to their own

    def _step(self, i: int, reply: Any) -> Generator[Any, Any, Round | None]:
        """Run one branch up to its next round; None when it has ended."""
        try:
            wish = self._branches[i].send(reply)
            while not isinstance(wish, Round):
                wish = self._branches[i].send((yield wish))
            return wish
        except StopIteration as stop:
            self._results[i] = stop.value
            del self._branches[i]
            return None


def _merged(wishes: Sequence[Round]) -> Round:
    if len(wishes) == 1:
        return wishes[0]
    outgoing: dict[int, bytes] = {}
    sizes: dict[int, int] = {}
    for wish in wishes:
        for receiver, payload in wish.outgoing.items():
            outgoing[receiver] = outgoing.get(receiver, b"") + payload
        for sender, size in wish.sizes.items():
            sizes[sender] = sizes.get(sender, 0) + size
    return Round("+".join(wish.operation for wish in wishes), outgoing, sizes)


def _divided(wishes: Sequence[Round], arrived: Mapping[int, bytes]) -> list[dict[int, bytes]]:
    done = dict.fromkeys(arrived, 0)
    parts = []
    for wish in wishes:
        part = {}
        for sender, size in wish.sizes.items():
            part[sender] = arrived[sender][done[sender] : done[sender] + size]
            done[sender] += size
        parts.append(part)
    return parts


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
