"""Between and instead of parties: a relay that cuts, a server that writes down what it is sent, a caller by hand."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.config import Local

HOST = "127.0.0.1"
TURN_SECONDS = 0.05
BUFFER = 1 << 16


class Served:
    """A TCP server in threads of its own; `handle` is called for each connection."""

    def __init__(self, port: int = 0) -> None:
        self.listener = socket.create_server((HOST, port))
        self.listener.settimeout(TURN_SECONDS)
        self.port: int = self.listener.getsockname()[1]
        self.running = True
        self.deaf = False  # closes new connections at once
        self.threads = [threading.Thread(target=self._accept, daemon=True)]
        self.threads[0].start()

    def handle(self, connection: socket.socket) -> None:
        raise NotImplementedError

    def _accept(self) -> None:
        while self.running:
            with suppress(TimeoutError):
                connection, _ = self.listener.accept()
                if self.deaf:
                    connection.close()
                    continue
                connection.settimeout(TURN_SECONDS)
                thread = threading.Thread(target=self._handle, args=(connection,), daemon=True)
                self.threads.append(thread)
                thread.start()

    def _handle(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            self.handle(connection)

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *error: object) -> None:
        self.running = False
        for thread in self.threads:
            thread.join(2)
        self.listener.close()

    def receive(self, connection: socket.socket) -> Iterator[bytes]:
        """What arrives, until the other end or this server closes."""
        while self.running:
            with suppress(TimeoutError):
                if not (data := connection.recv(BUFFER)):
                    return
                yield data


@dataclass
class Cut:
    """Breaks the next connection that has sent `up` bytes; or, having sent so many, is about to be sent `down` more."""

    up: int
    down: int | None = None
    done: threading.Event = field(default_factory=threading.Event)


class Relay(Served):
    """Passes everything on to `target`; `cut`, when set, breaks one connection."""

    def __init__(self) -> None:
        self.target = 0  # port
        self.cut: Cut | None = None
        self.dead = False  # swallows everything, and closes nothing
        self.connections = 0
        super().__init__()

    def handle(self, connection: socket.socket) -> None:
        self.connections += 1
        with socket.create_connection((HOST, self.target)) as onward:
            onward.settimeout(TURN_SECONDS)
            sent = [0]
            back = threading.Thread(target=self._back, args=(onward, connection, sent), daemon=True)
            back.start()
            with suppress(OSError):
                for data in self.receive(connection):
                    sent[0] += len(data)
                    if self.dead:
                        continue
                    cut = self.cut
                    if cut and cut.down is None and sent[0] >= cut.up:
                        self._break(cut)
                        break
                    onward.sendall(data)
            for end in (onward, connection):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            back.join(2)

    def _back(self, onward: socket.socket, connection: socket.socket, sent: list[int]) -> None:
        with suppress(OSError):
            for data in self.receive(onward):
                if self.dead:
                    continue
                cut = self.cut
                if cut and cut.down is not None and sent[0] >= cut.up and len(data) >= cut.down:
                    self._break(cut)
                    break
                connection.sendall(data)
        for end in (onward, connection):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _break(self, cut: Cut) -> None:
        self.cut = None
        cut.done.set()


class TlsServer(Served):
    """Answers at an address with the key of some party, and writes down what it is sent.

    raw: the bytes of the connections as they came; plain: what was in them.
    """

    def __init__(self, local: Local, port: int = 0, answer: bytes = b"") -> None:
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        load_own(self.context, local)
        self.answer = answer
        self.raw: list[bytes] = []
        self.plain = b""
        super().__init__(port)

    def handle(self, connection: socket.socket) -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = self.context.wrap_bio(incoming, outgoing, server_side=True)
        number = len(self.raw)
        self.raw.append(b"")
        ready = False
        for data in self.receive(connection):
            self.raw[number] += data
            incoming.write(data)
            with suppress(ssl.SSLWantReadError):
                if not ready:
                    tls.do_handshake()
                    ready = True
                while received := tls.read(BUFFER):
                    self.plain += received
                    if self.answer:
                        tls.write(self.answer)
            connection.sendall(outgoing.read())


class PlainServer(Served):
    """Answers at an address without TLS."""

    def __init__(self, port: int = 0, answer: bytes = b"HTTP/1.1 400 Bad Request\r\n\r\n") -> None:
        self.answer = answer
        self.heard = b""
        super().__init__(port)

    def handle(self, connection: socket.socket) -> None:
        for data in self.receive(connection):
            self.heard += data
            connection.sendall(self.answer)
            return


def load_own(context: ssl.SSLContext, local: Local) -> None:
    certificate = local.private_key.with_suffix(".own.pem")
    certificate.write_text(ssl.DER_cert_to_PEM_cert(local.certificate))
    context.load_cert_chain(certificate, local.private_key)


def caller_context(local: Local | None) -> ssl.SSLContext:
    """A client that takes any server, and shows the certificate of `local`, if any."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if local is not None:
        load_own(context, local)
    return context


def call(
    local: Local | None, port: int, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
) -> int:
    """Make one request with the certificate of `local`; returns the HTTP status."""
    connection = http.client.HTTPSConnection(HOST, port, context=caller_context(local), timeout=60)
    try:
        connection.request(method, path, body or None, headers or {})
        return connection.getresponse().status
    finally:
        connection.close()


def records(raw: bytes) -> list[tuple[int, bytes]]:
    """The TLS records in `raw`: type and body."""
    found = []
    while raw:
        length = int.from_bytes(raw[3:5], "big")
        found.append((raw[0], raw[5 : 5 + length]))
        raw = raw[5 + length :]
    return found


def nothing_but_a_client_hello(raw: bytes) -> bool:
    """Whether a TLS 1.3 client has sent its ClientHello and at most an alert."""
    handshake, change_cipher_spec, alert, encrypted = 22, 20, 21, 23
    encrypted_alert = 2 + 1 + 16  # alert, its type, authentication tag
    (kind, body), *rest = records(raw)
    quiet = all(k in (change_cipher_spec, alert) or (k, len(b)) == (encrypted, encrypted_alert) for k, b in rest)
    return kind == handshake and body[0] == 1 and quiet


def own_port(path: Path, party: int) -> int:
    """The port a party of the study at `path` listens on."""
    from pipeline.config import load

    return load(path, party)[1].listen[1]
