"""Three real processes, connected pairwise, for tests of what runs on `mpc_runtime.Runtime`."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import socket
import threading
import traceback
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from pipeline.errors import PeerError

PARTIES = 3
Computation = Callable[..., Awaitable[Any]]


class SocketLink:
    """A link over a connected socket; a thread reads, so that `on_data` is called from outside the loop."""

    def __init__(self, peer: int, connection: socket.socket) -> None:
        self.peer = peer
        self.connection = connection
        self._lock = threading.Lock()

    def write(self, data: bytes) -> None:
        with self._lock, contextlib.suppress(OSError):  # the reader reports it
            self.connection.sendall(data)

    def set_receiver(self, on_data: Callable[[bytes], None], on_lost: Callable[[Exception], None]) -> None:
        def read() -> None:
            with contextlib.suppress(OSError):
                while data := self.connection.recv(1 << 20):
                    on_data(data)
            on_lost(PeerError(f"the connection with party {self.peer} is lost"))

        threading.Thread(target=read, daemon=True).start()


def run_three(function: Computation, arguments: Sequence[tuple[Any, ...]], timeout: float = 240) -> list[Any]:
    """Run `await function(runtime, *arguments[i])` at each party i; return the results, exceptions among them."""
    context = multiprocessing.get_context("spawn")
    sockets: list[dict[int, socket.socket]] = [{}, {}, {}]
    for i in range(PARTIES):
        for j in range(i + 1, PARTIES):
            sockets[i][j], sockets[j][i] = socket.socketpair()
    pipes = [context.Pipe() for _ in range(PARTIES)]
    processes = [
        context.Process(target=_party, args=(i, sockets[i], pipes[i][1], function, arguments[i]))
        for i in range(PARTIES)
    ]
    try:
        for i, process in enumerate(processes):
            process.start()
            pipes[i][1].close()
        for own in sockets:
            for connection in own.values():
                connection.close()
        results = [_result(pipe, timeout) for pipe, _ in pipes]
        for pipe, _ in pipes:
            with contextlib.suppress(OSError):
                pipe.send("all are done")
        return results
    finally:
        for process in processes:
            process.kill()
            process.join()


def _result(pipe: Any, timeout: float) -> Any:
    if not pipe.poll(timeout):
        return TimeoutError("a party did not finish")
    try:
        return pipe.recv()
    except EOFError:
        return EOFError("a party has died")


def _party(
    party_id: int, sockets: dict[int, socket.socket], pipe: Any, function: Computation, arguments: tuple[Any, ...]
) -> None:
    async def main() -> Any:
        from pipeline.mpc_runtime import make_runtime

        runtime = make_runtime(party_id, {peer: SocketLink(peer, s) for peer, s in sockets.items()})
        await runtime.start()
        return await function(runtime, *arguments)

    try:
        pipe.send(asyncio.run(main()))
    except Exception as error:
        error.__notes__ = [traceback.format_exc()]
        pipe.send(error)
    else:
        pipe.recv()  # keeps the sockets open until the others are done
