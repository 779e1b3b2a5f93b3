"""All connections of one party: one HTTPS port, one link to each peer. Runs in the network's thread.

Below the path of a party's url:

    GET /v1/link    WebSocket for the frames of `session.py`; the lower id calls
    GET /v1/here    204: the higher id sees whether it reaches the lower one
    PUT /v1/message/…    see `parcels.py`

Who calls is decided by the certificate of the connection, for each request
anew, and by nothing a caller says.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from typing import Any, TypeAlias

import aiohttp
import yarl
from aiohttp import web

from pipeline.buffers import Link, Shared, TransportSettings
from pipeline.config import Agreement, Local, Party
from pipeline.dialling import CONNECT_SECONDS, Patience, Trouble, Unwelcome, delays, diagnose
from pipeline.errors import LocalProtocolError, PeerError, PipelineError
from pipeline.parcels import ROUTE, Broken, NotTaken, Receiver, Sender, Stalled
from pipeline.session import (
    MAX_FRAME_BYTES,
    STREAM_PREFIX,
    Abort,
    AbortCode,
    Beat,
    Command,
    Done,
    Sending,
    Session,
    SessionEnded,
    Stream,
    decode,
    encode,
)
from pipeline.tls import client_context, party_of, server_context

log = logging.getLogger(__name__)

STREAM_BYTES = 64 << 10  # bytes in a frame, so that on a slow line a sign of life is not stuck behind a long one
CLIENT_CONNECTIONS = 4

# Reasons that waiting does not mend, whoever comes.
_LASTING = (
    AbortCode.AGREEMENTS_DIFFER,
    AbortCode.VERSIONS_DIFFER,
    AbortCode.COMMANDS_DIFFER,
    AbortCode.WRONG_CERTIFICATE,
    AbortCode.CERTIFICATE_NOT_ACCEPTED,
)

Socket: TypeAlias = "web.WebSocketResponse | aiohttp.ClientWebSocketResponse"
Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]


def caller(request: web.Request, pins: Mapping[bytes, int]) -> int | None:
    """The party that makes `request`, by its TLS certificate; None for anybody else.

    The only place that knows how a caller is recognised: behind another
    server that ends the TLS connection, this is what changes.
    """
    transport = request.transport
    return None if transport is None else party_of(pins, transport.get_extra_info("ssl_object"))


class Peer:
    """Another party, as the network's thread sees it."""

    def __init__(self, party: Party, link: Link, client: aiohttp.ClientSession) -> None:
        self.party = party
        self.link = link
        self.client = client
        self.url = yarl.URL(party.url)
        self.socket: Socket | None = None
        self.over = asyncio.Event()  # there is no conversation over `socket`
        self.over.set()
        self.met = asyncio.Event()  # there has been a conversation
        self.idle = asyncio.Event()  # all frames have been handed to the connection
        self.silent = 0  # beats since the last frame came
        self.frames: deque[bytes] = deque()  # to be sent before what waits in `link`
        self.last_frame: bytes | None = None  # to be sent after it
        self.streaming = False  # `link` may be sent from: the session stands
        self.wake = asyncio.Event()
        self.trouble = "has not called yet"
        link.wake = self.wake.set

    def next_frame(self) -> bytes | None:
        if self.frames:
            return self.frames.popleft()
        if self.streaming and (data := self.link.take(STREAM_BYTES)):
            return STREAM_PREFIX + data
        last, self.last_frame = self.last_frame, None
        return last


class Carrier:
    """Begins with `listen`, ends with `close`; `failed` is called once, if the run fails."""

    def __init__(
        self,
        agreement: Agreement,
        local: Local,
        party_id: int,
        settings: TransportSettings,
        shared: Shared,
        links: Mapping[int, Link],
        nonce: bytes,
        command: Command,
    ) -> None:
        self._agreement = agreement
        self._local = local
        self._me = agreement.party(party_id)
        self._settings = settings
        self._shared = shared
        self._links = links
        self._session = Session(agreement, party_id, nonce, command)
        self._peers: dict[int, Peer] = {}
        self._senders: dict[int, Sender] = {}
        self._receivers: dict[int, Receiver] = {}
        self._pins = {der: p.id for p in agreement.parties if p.id != party_id for der in p.certificates}
        self._caller = caller
        self._runner: web.AppRunner | None = None
        self._calls: set[asyncio.Task[None]] = set()
        self._work: set[asyncio.Task[None]] = set()
        self._ending: asyncio.Task[None] | None = None
        self._notice: Abort | None = None  # what others are told at the end, if it is not the orderly one
        self._hushed = asyncio.Event()  # nobody needs to be called any more
        self.failed: Callable[[PipelineError], None] = lambda error: None

    # Life

    async def listen(self) -> None:
        """Open the port; OSError when that cannot be."""
        others = [party for party in self._agreement.parties if party.id != self._me.id]
        for party in others:
            peer = self._peers[party.id] = Peer(party, self._links[party.id], self._client(party))
            outbox = self._shared.outboxes[party.id]
            sender = Sender(peer.client, party.url, outbox, self._shared, self._settings, self._lasting(party))
            self._senders[party.id] = sender
            self._receivers[party.id] = Receiver(party.id, self._shared, self._settings)
            self._spawn(self._work, self._deliver(peer, sender))
        self._runner = web.AppRunner(
            self._application(), access_log=None, shutdown_timeout=0.1, keepalive_timeout=60, handle_signals=False
        )
        await self._runner.setup()
        host, port = self._local.listen
        await web.TCPSite(self._runner, host, port, ssl_context=server_context(self._local, others)).start()
        self._publish()
        self._spawn(self._work, self._beats())

    def dial(self) -> None:
        """Begin to call the others."""
        for peer in self._peers.values():
            self._spawn(self._calls, self._call(peer))

    def give_up(self, wait: float) -> None:
        """The time to wait for the others is over."""
        if self._session.established:
            return
        missing = self._session.missing
        troubles = "; ".join(f"{self._peers[p].party.name} {self._peers[p].trouble}" for p in missing)
        sentence = troubles or "not every party has a connection with every other"
        error = PeerError(f"waited {wait:g} s in vain: {sentence}; see to that, then start again at all parties")
        self.fail(self._session.end(error, AbortCode.AWAITED_IN_VAIN, missing[0] if missing else None))

    def say_done(self) -> None:
        """Tell everybody, after all that is still to be sent, that this party needs nothing more."""
        self._session.is_done = True
        for peer in self._peers.values():
            peer.last_frame = encode(Done())
            peer.idle.clear()
            peer.wake.set()

    def posted(self, peer: int) -> None:
        """Something was put into the outbox for `peer`."""
        self._senders[peer].posted.set()

    def fetched(self, peer: int) -> None:
        """Something of `peer` was taken out of the inbox."""
        self._receivers[peer].made_room()

    def overflowed(self, peer: int) -> None:
        """More waits in the link with `peer` than may."""
        error = PeerError(f"{self._peers[peer].party.name} does not keep up with this party; start again everywhere")
        self.fail(self._session.end(error, AbortCode.PEER_STALLED, peer))

    def stalled(self, what: str, party: int | None) -> None:
        """`what` has taken longer than it may."""
        error = PeerError(f"{what} for too long; find out at the others what happened, then start again everywhere")
        self.fail(self._session.end(error, AbortCode.PEER_STALLED, party))

    def fail(self, ended: SessionEnded) -> None:
        """End the run; the first reason counts, the others follow from it."""
        if self._ending is not None:
            return
        log.info("the run has ended: %s", ended)
        self._end(ended.notice)
        with self._shared.changed:
            self._shared.failure = ended.error
            self._shared.changed.notify_all()
        for peer in self._peers.values():
            peer.link.lose(ended.error)
        self.failed(ended.error)

    async def stop(self, code: AbortCode, party: int | None) -> None:
        """End the run for a reason of this party's own; returns when the others have been told, if they can be."""
        if self._ending is None:
            self._end(Abort(code, self._me.id, party))
        assert self._ending is not None  # noqa: S101
        await asyncio.wait({self._ending})

    async def close(self) -> None:
        """Close everything, orderly if everybody is done."""
        if self._ending is None and self._shared.finished:
            self._end(None)
        await self.stop(AbortCode.INTERRUPTED, None)
        for task in self._calls | self._work:
            task.cancel()
        if tasks := self._calls | self._work:
            await asyncio.wait(tasks)
        if self._runner is not None:
            await self._runner.cleanup()
        for peer in self._peers.values():
            await peer.client.close()
        await asyncio.sleep(0.01)  # closed connections let go of their sockets in the next turns of the loop

    def _end(self, notice: Abort | None) -> None:
        self._notice = notice
        if not self._for_latecomers():
            self._hushed.set()
        for receiver in self._receivers.values():
            receiver.close()
        for task in self._work:
            task.cancel()
        self._ending = asyncio.get_running_loop().create_task(self._farewell(notice))

    async def _farewell(self, notice: Abort | None) -> None:
        """Close all links; with a notice, tell everybody and let them close first.

        Closing over bytes not yet read would destroy the notice. After the
        orderly end everybody knows that all are done, or will when it reads on.
        """
        if notice is not None:
            self._send(self._session.farewell(notice))
            if self._for_latecomers():
                await self._within(self._settings.linger, (peer.met.wait() for peer in self._unaware(notice)))
                self._hushed.set()
            await self._within_farewell([*(peer.over.wait() for peer in self._peers.values()), _all(self._calls)])
        await self._within_farewell(self._hang_up(peer) for peer in self._peers.values())

    def _for_latecomers(self) -> bool:
        """Whether a party that has not come yet, but may be about to, would wait in vain.

        One that is not who the agreement says can be told nothing, but meets
        this party's certificate, or hears that its own is refused, when it calls.
        """
        return self._notice is not None and self._notice.code in _LASTING and bool(self._unaware(self._notice))

    def _unaware(self, notice: Abort) -> list[Peer]:
        """Who has not been there to hear of `notice`, and is not where it comes from."""
        return [peer for peer in self._peers.values() if not peer.met.is_set() and peer.party.id != notice.origin]

    async def _within_farewell(self, waits: Iterable[Coroutine[Any, Any, Any]]) -> None:
        await self._within(self._settings.farewell, waits)

    async def _within(self, seconds: float, waits: Iterable[Coroutine[Any, Any, Any]]) -> None:
        tasks = [asyncio.ensure_future(wait) for wait in waits]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=seconds)
            for task in late:
                task.cancel()

    async def _hang_up(self, peer: Peer) -> None:
        if peer.socket is not None:
            with suppress(OSError, RuntimeError, aiohttp.ClientError):
                await peer.socket.close()

    def _spawn(self, group: set[asyncio.Task[None]], work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(self._guard(work))
        group.add(task)
        task.add_done_callback(group.discard)

    async def _guard(self, work: Coroutine[Any, Any, None]) -> None:
        """Any end of `work` but its own or a cancellation ends the run."""
        try:
            await work
        except SessionEnded as ended:
            self.fail(ended)
        except Exception as error:
            log.debug("a fault in the connections", exc_info=True)
            fault = LocalProtocolError(f"the connections failed by a fault of this software ({type(error).__name__})")
            self.fail(self._session.end(fault, AbortCode.INTERNAL_ERROR))

    def _publish(self) -> None:
        """Show the computation's thread where the session stands."""
        session = self._session
        said = session.is_done and all(peer.idle.is_set() for peer in self._peers.values() if peer.socket is not None)
        with self._shared.changed:
            self._shared.missing = session.missing
            self._shared.finished = session.finished and said
            self._shared.session = session.identifier if session.established else None
            self._shared.changed.notify_all()
        for peer in self._peers.values():
            if session.established and not peer.streaming:
                peer.streaming = True
                peer.wake.set()

    # Calls from others

    def _application(self) -> web.Application:
        application = web.Application(middlewares=[self._only_parties])
        for prefix in {"", yarl.URL(self._me.url).raw_path.rstrip("/")}:  # a server in front may take the path away
            application.router.add_get(f"{prefix}/v1/link", self._on_link)
            application.router.add_get(f"{prefix}/v1/here", self._on_here)
            application.router.add_put(prefix + ROUTE, self._on_message)
        return application

    @web.middleware
    async def _only_parties(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self._caller(request, self._pins) is None:
            return web.Response(status=403)
        try:
            return await handler(request)
        except web.HTTPException:
            raise
        except Exception:  # most often the caller's connection broke
            log.debug("a request failed", exc_info=True)
            return web.Response(status=500)

    def _calling(self, request: web.Request) -> Peer:
        party = self._caller(request, self._pins)
        if party is None:
            raise web.HTTPForbidden
        return self._peers[party]

    async def _on_here(self, request: web.Request) -> web.StreamResponse:
        return web.Response(status=204 if self._ending is None else 410)

    async def _on_message(self, request: web.Request) -> web.StreamResponse:
        if self._ending is not None:
            return web.Response(status=410)
        return await self._receivers[self._calling(request).party.id].handle(request, self._session.identifier)

    async def _on_link(self, request: web.Request) -> web.StreamResponse:
        peer = self._calling(request)
        if peer.party.id > self._me.id:
            return web.Response(status=403)
        if peer.socket is not None:
            log.warning("a second connection of %s was refused", peer.party.name)
            return web.Response(status=409)
        if self._notice is None and (self._ending is not None or self._session.identifier is not None):
            return web.Response(status=410)  # a party that was done and comes again is in another run
        socket = web.WebSocketResponse(compress=False, max_msg_size=MAX_FRAME_BYTES, timeout=self._settings.farewell)
        peer.socket = socket
        try:
            await socket.prepare(request)
            await self._guard(self._converse(peer, socket))
        finally:
            peer.socket = None
        return socket

    # Calls to others

    def _client(self, party: Party) -> aiohttp.ClientSession:
        refuse = aiohttp.TraceConfig()
        refuse.on_request_redirect.append(_refuse_redirect)
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=client_context(self._local, party), limit=CLIENT_CONNECTIONS),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
            auto_decompress=False,
            trace_configs=[refuse],
            timeout=aiohttp.ClientTimeout(total=None, connect=CONNECT_SECONDS),
        )

    async def _call(self, peer: Peer) -> None:
        """Call `peer` until it answers; again, when its connection is lost before the session stands."""
        patience = Patience(self._settings.grace)
        for delay in delays():
            try:
                async with asyncio.timeout(2 * CONNECT_SECONDS):
                    socket = await self._dial(peer)
            except (OSError, aiohttp.ClientError) as error:
                self._bear(peer, self._diagnose(peer.party, error), patience)
            else:
                if socket is None:
                    peer.trouble = f"has not called; it may not reach this party at {self._me.url}"
                    self._send(self._session.reached(peer.party.id))
                    return
                patience = Patience(self._settings.grace)
                await self._talk(peer, socket)
            if self._session.identifier is not None:
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(self._hushed.wait(), delay)
                return

    async def _dial(self, peer: Peer) -> aiohttp.ClientWebSocketResponse | None:
        """A link with a peer of higher id; None when one of lower id, which calls us, can be reached."""
        if peer.party.id > self._me.id:
            return await peer.client.ws_connect(peer.url / "v1/link", max_msg_size=MAX_FRAME_BYTES)
        async with peer.client.get(peer.url / "v1/here", allow_redirects=False) as response:
            if response.status != 204:
                raise Unwelcome(response.status)
        return None

    def _diagnose(self, party: Party, error: BaseException) -> Trouble:
        return diagnose(error, self._agreement, party, self._local.certificate)

    def _lasting(self, party: Party) -> Callable[[BaseException], bool]:
        return lambda error: not self._diagnose(party, error).passing

    def _bear(self, peer: Peer, trouble: Trouble, patience: Patience) -> None:
        log.debug("calling %s: it %s", peer.party.name, trouble.words)
        peer.trouble = trouble.words
        if patience.ends(trouble, asyncio.get_running_loop().time()):
            assert trouble.code is not None  # noqa: S101
            error = PeerError(f"{peer.party.name} {trouble.words}")
            raise self._session.end(error, trouble.code, peer.party.id)

    async def _talk(self, peer: Peer, socket: aiohttp.ClientWebSocketResponse) -> None:
        peer.socket = socket
        try:
            self._send(self._session.reached(peer.party.id))
            await self._converse(peer, socket)
        finally:
            peer.socket = None

    # Links

    async def _converse(self, peer: Peer, socket: Socket) -> None:
        """Exchange frames until the connection ends."""
        peer.over.clear()
        peer.met.set()
        peer.silent = 0
        peer.frames.clear()
        pump = asyncio.get_running_loop().create_task(self._pump(peer, socket))
        try:
            self._send(self._session.connected(peer.party.id))
            if self._notice is not None:
                farewell = self._session.farewell(self._notice)
                self._send((receiver, frame) for receiver, frame in farewell if receiver == peer.party.id)
            async for message in socket:
                peer.silent = 0
                if message.type is not aiohttp.WSMsgType.BINARY or not self._take(peer, message.data):
                    break
            self._lose(peer, "has closed its connection or died")
        finally:
            pump.cancel()
            await self._within_farewell([self._hang_up(peer)])
            peer.over.set()

    def _take(self, peer: Peer, data: bytes) -> bool:
        """Handle a frame; False when it is the last one."""
        try:
            frame = decode(data)
        except ValueError:
            self.fail(self._session.broken(peer.party.id, "sent a frame that cannot be read"))
            return True
        if self._ending is not None:
            return not isinstance(frame, Abort)
        try:
            sendings = self._session.receive(peer.party.id, frame)
        except SessionEnded as ended:
            self.fail(ended)
            return not isinstance(frame, Abort)
        if isinstance(frame, Stream):
            peer.link.deliver(frame.data)
        elif not isinstance(frame, Beat):
            self._send(sendings)
        return True

    def _send(self, sendings: Iterable[Sending]) -> None:
        for receiver, frame in sendings:
            self._peers[receiver].frames.append(encode(frame))
            self._peers[receiver].wake.set()
        self._publish()

    async def _pump(self, peer: Peer, socket: Socket) -> None:
        with suppress(OSError, RuntimeError, aiohttp.ClientError):  # the reader notices a broken connection as well
            while True:
                while frame := peer.next_frame():
                    await socket.send_bytes(frame)
                    self._shared.sent_bytes += len(frame)
                peer.idle.set()
                if self._session.is_done:
                    self._publish()
                await peer.wake.wait()
                peer.wake.clear()

    def _lose(self, peer: Peer, how: str) -> None:
        """The connection with `peer` has ended."""
        if self._ending is not None:
            return
        try:
            self._session.lost(peer.party.id, f"{how}; find out there what happened, then start again at all parties")
        except SessionEnded as ended:
            self.fail(ended)
        peer.trouble = how
        self._publish()

    async def _beats(self) -> None:
        """Give signs of life and expect them.

        Beats are counted, not seconds: when this thread did not get to run for
        a while, that is one beat, and what has come meanwhile is read first.
        """
        allowed = self._settings.silence
        while True:
            await asyncio.sleep(self._settings.beat)
            for peer in self._peers.values():
                if peer.socket is None:
                    continue
                peer.silent += 1
                peer.frames.append(encode(Beat()))
                peer.wake.set()
                if peer.silent > allowed:
                    self._lose(peer, f"has given no sign of life for {allowed * self._settings.beat:g} s")
                    self._spawn(self._calls, self._hang_up(peer))

    # Messages

    async def _deliver(self, peer: Peer, sender: Sender) -> None:
        name, party = peer.party.name, peer.party.id
        try:
            await sender.run(lambda: self._session.identifier)
        except NotTaken as refusal:
            await asyncio.sleep(self._settings.farewell)  # its own reason may be on the way
            raise self._session.broken(party, f"refused a message (HTTP status {refusal.status})") from refusal
        except Broken as broken:
            assert broken.__cause__ is not None  # noqa: S101
            trouble = self._diagnose(peer.party, broken.__cause__)
            error = PeerError(f"messages no longer reach {name}: it {trouble.words}; start again at all parties")
            raise self._session.end(error, trouble.code or AbortCode.PEER_LOST, party) from broken
        except Stalled:
            self.stalled(f"{name} has not taken a message", party)


async def _all(tasks: set[asyncio.Task[None]]) -> None:
    if tasks:
        await asyncio.wait(set(tasks))


async def _refuse_redirect(
    session: aiohttp.ClientSession, context: Any, parameters: aiohttp.TraceRequestRedirectParams
) -> None:
    """A party answers at its own address or not at all; who is redirected would be asked for its trust anew."""
    parameters.response.close()
    raise Unwelcome(parameters.response.status)
