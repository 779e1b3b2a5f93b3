"""A TCP relay that keeps what passes for half a round trip, each way: distance without a network.

The bytes are not looked into and the bandwidth is not limited. Connecting is
as fast as without the relay; everything after it takes its time.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from contextlib import suppress

CHUNK = 64 << 10
HOST = "127.0.0.1"


class Relay:
    """Relays each port (key) to another one (value) from `__enter__` to `__exit__`, in a thread of its own."""

    def __init__(self, ports: Mapping[int, int], round_trip: float) -> None:
        self._ports = ports
        self._delay = round_trip / 2  # seconds
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="relay", daemon=True)

    def __enter__(self) -> Relay:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._cancel(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _listen(self) -> None:
        for outside, inside in self._ports.items():
            await asyncio.start_server(lambda r, w, port=inside: self._connected(r, w, port), HOST, outside)

    async def _cancel(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
        try:
            onward_reader, onward_writer = await asyncio.open_connection(HOST, port)
        except OSError:  # that party does not listen yet
            writer.close()
            return
        try:
            await asyncio.gather(self._pass_on(reader, onward_writer), self._pass_on(onward_reader, writer))
        finally:
            writer.close()
            onward_writer.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One direction, until its end, which is passed on as well."""
        clock = asyncio.get_running_loop().time
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        reading = asyncio.create_task(self._read(reader, waiting))
        try:
            with suppress(OSError):
                while True:
                    due, data = await waiting.get()
                    await asyncio.sleep(due - clock())
                    if not data:
                        writer.write_eof()
                        return
                    writer.write(data)
                    await writer.drain()
        finally:
            reading.cancel()

    async def _read(self, reader: asyncio.StreamReader, waiting: asyncio.Queue[tuple[float, bytes]]) -> None:
        clock = asyncio.get_running_loop().time
        data = b"begin"
        while data:
            try:
                data = await reader.read(CHUNK)
            except OSError:
                data = b""
            waiting.put_nowait((clock() + self._delay, data))
