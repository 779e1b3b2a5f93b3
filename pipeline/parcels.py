"""Payloads over HTTP, each delivered once and in order although connections break. Runs in the network's thread.

    PUT /v1/message/<session>/<sequence>    one payload; `X-SHA256` is the hex digest of its bytes

A payload stays with its sender until 204 has come for it, and the same bytes
are sent again over a new connection when one breaks; the receiver takes each
once and answers 503 when there is no room, because its own side has not
fetched what came before. So neither end holds more than its bound.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import re
from collections.abc import AsyncIterator, Callable

import aiohttp
import yarl
from aiohttp import web

from pipeline.buffers import Accepted, Duplicate, Incoming, Outbox, OutOfOrder, Parcel, Shared, TransportSettings
from pipeline.dialling import CONNECT_SECONDS, Unwelcome, delays
from pipeline.messages import MAX_MESSAGE_BYTES

log = logging.getLogger(__name__)

MAX_PAYLOAD_BYTES = MAX_MESSAGE_BYTES + (64 << 10)  # bytes; a message and what is put around it
ROUTE = "/v1/message/{session:[0-9a-f]{64}}/{sequence:[0-9]{1,9}}"

_WRITE_BYTES = 256 << 10  # bytes of a body handed to the connection at a time
_SLOWEST = 16 << 10  # bytes a second; a request slower than this counts as broken
_LATER = 503
_BROKEN_ON_THE_WAY = (408, 500, 502, 504)
_BUSY_PAUSE = 0.05  # seconds; the receiver has already held the request before it said "later"


class Undelivered(Exception):
    """A payload could not be delivered."""


class Broken(Undelivered):
    """Connections failed for too long, the last time because of the error that caused this one."""


class Stalled(Undelivered):
    """The receiver is there, but has not taken the payload for too long."""


class NotTaken(Undelivered):
    """The receiver does not want the payload; `status` is its HTTP status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Sender:
    """Delivers the payloads in one outbox."""

    def __init__(
        self,
        client: aiohttp.ClientSession,
        url: str,
        outbox: Outbox,
        shared: Shared,
        settings: TransportSettings,
        lasting: Callable[[BaseException], bool],
    ) -> None:
        self._client = client
        self._url = yarl.URL(url)
        self._outbox = outbox
        self._shared = shared
        self._settings = settings
        self._lasting = lasting  # whether an error of a connection will not pass
        self.posted = asyncio.Event()  # something was put into the outbox

    async def run(self, session: Callable[[], bytes | None]) -> None:
        """Deliver what comes, for ever; raises Undelivered."""
        while True:
            await self.posted.wait()
            self.posted.clear()
            while self._outbox.parcels and (identifier := session()):
                await self._deliver(identifier, self._outbox.parcels[0])
                with self._shared.changed:
                    self._shared.sent_bytes += len(self._outbox.parcels[0].payload)
                    self._outbox.acknowledged()
                    self._shared.changed.notify_all()

    async def _deliver(self, session: bytes, parcel: Parcel) -> None:
        clock = asyncio.get_running_loop().time
        started, pauses = clock(), delays()
        broken: float | None = None
        while True:
            try:
                status = await self._attempt(session, parcel)
                if status in _BROKEN_ON_THE_WAY:
                    raise Unwelcome(status)
            except (aiohttp.ClientError, OSError) as error:
                broken = clock() if broken is None else broken
                if self._lasting(error) or clock() - broken > self._settings.resend:
                    raise Broken from error
                log.info("a connection broke; a message is sent again")
                await asyncio.sleep(next(pauses))
                continue
            if status == 204:
                return
            if status != _LATER:
                raise NotTaken(status)
            if clock() - started > self._settings.patience:
                raise Stalled
            broken, pauses = None, delays()
            await asyncio.sleep(_BUSY_PAUSE)

    async def _attempt(self, session: bytes, parcel: Parcel) -> int:
        size = len(parcel.payload)
        async with (
            asyncio.timeout(CONNECT_SECONDS + 2 * self._settings.hold + size / _SLOWEST),
            self._client.put(
                self._url / "v1/message" / session.hex() / str(parcel.sequence),
                data=_Body(parcel.payload),
                headers={"Content-Length": str(size), "X-SHA256": parcel.digest},
                allow_redirects=False,
            ) as response,
        ):
            return response.status


class _Body:
    """A payload in pieces; may be read more than once."""

    def __init__(self, payload: bytes) -> None:
        self._payload = memoryview(payload)

    async def __aiter__(self) -> AsyncIterator[memoryview]:
        for first in range(0, len(self._payload), _WRITE_BYTES):
            yield self._payload[first : first + _WRITE_BYTES]


class Receiver:
    """Takes the payloads of one sender."""

    def __init__(self, sender: int, shared: Shared, settings: TransportSettings) -> None:
        self._sender = sender
        self._shared = shared
        self._settings = settings
        self._incoming = Incoming()
        self._room = asyncio.Event()
        self._reading: asyncio.Timeout | None = None
        self._closed = False

    def made_room(self) -> None:
        """Something was fetched, or given back."""
        self._room.set()

    def close(self) -> None:
        """Take nothing more."""
        self._closed = True
        self._room.set()

    async def handle(self, request: web.Request, session: bytes | None) -> web.Response:
        """Answer one PUT; whatever is wrong with it, it has no effect."""
        if session is None or not hmac.compare_digest(request.match_info["session"], session.hex()):
            return web.Response(status=404)
        size, digest = request.content_length, request.headers.get("X-SHA256", "")
        if size is None or not re.fullmatch("[0-9a-f]{64}", digest):
            return web.Response(status=400)
        if size > MAX_PAYLOAD_BYTES:
            return web.Response(status=413)
        sequence = int(request.match_info["sequence"])
        limit = self._settings.hold + CONNECT_SECONDS + size / _SLOWEST
        try:
            async with asyncio.timeout(limit) as reading:
                self._supersede(reading)
                return web.Response(status=await self._take(request.content, size, sequence, digest))
        except TimeoutError:
            return web.Response(status=408)
        finally:
            self._reading = None if self._reading is reading else self._reading

    def _supersede(self, reading: asyncio.Timeout) -> None:
        """A sender has one payload on its way: a second request shows that the connection of the first is broken."""
        if self._reading is not None:
            self._reading.reschedule(0)
        self._reading = reading

    async def _take(self, content: aiohttp.StreamReader, size: int, sequence: int, digest: str) -> int:
        verdict = self._incoming.judge(sequence, digest)
        if isinstance(verdict, OutOfOrder):
            return 409
        if isinstance(verdict, Duplicate):
            async for _ in content.iter_any():
                pass
            return 204
        try:
            async with asyncio.timeout(self._settings.hold):
                await self._reserve(size)
        except TimeoutError:
            return 503
        kept = False
        try:
            body = await _read(content, size)
            if hashlib.sha256(body).hexdigest() != digest:
                return 400
            kept = not self._closed and isinstance(self._incoming.judge(sequence, digest), Accepted)
            return self._keep(body, digest) if kept else 409
        finally:
            if not kept:
                self._give_back(size)

    async def _reserve(self, size: int) -> None:
        inbox = self._shared.inbox
        while not self._closed:
            self._room.clear()
            with self._shared.changed:
                if inbox.reserve(self._sender, size):
                    return
            await self._room.wait()
        raise TimeoutError

    def _give_back(self, size: int) -> None:
        with self._shared.changed:
            self._shared.inbox.release(self._sender, size)
        self._room.set()

    def _keep(self, body: bytes, digest: str) -> int:
        self._incoming.advance(digest)
        with self._shared.changed:
            self._shared.inbox.payloads.append((self._sender, body))
            self._shared.changed.notify_all()
        return 204


async def _read(content: aiohttp.StreamReader, size: int) -> bytes:
    """The body; no more than one byte above `size` of it, for a body may be compressed."""
    chunks, left = [], size + 1
    async for chunk in content.iter_any():
        if left:
            chunks.append(chunk[:left])
            left -= len(chunks[-1])
    return b"".join(chunks)
