"""Three runtimes in one process and one event loop, for tests of protocols that use none of MPyC's own operations.

MPyC keeps its runtime in module globals, so its own operations need a process each (`mpc_processes.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from pipeline.mpc_runtime import PARTIES, Runtime


class MemoryLink:
    """Hands over bytes in pieces of `piece`; `sent` keeps them for tests that look."""

    def __init__(self, peer: int, piece: int = 1 << 20) -> None:
        self.peer = peer
        self.other: MemoryLink | None = None
        self.sent: list[bytes] = []
        self.lost: Callable[[Exception], None] | None = None
        self._piece = piece
        self._early: list[bytes] = []
        self._on_data: Callable[[bytes], None] | None = None

    def write(self, data: bytes) -> None:
        self.sent.append(data)
        assert self.other is not None
        for i in range(0, len(data), self._piece):
            self.other.arrive(data[i : i + self._piece])

    def arrive(self, data: bytes) -> None:
        if self._on_data is None:
            self._early.append(data)
        else:
            self._on_data(data)

    def set_receiver(self, on_data: Callable[[bytes], None], on_lost: Callable[[Exception], None]) -> None:
        self._on_data, self.lost = on_data, on_lost
        for data in self._early:
            on_data(data)


def linked(piece: int = 1 << 20) -> list[dict[int, MemoryLink]]:
    """Links of the three parties, by peer."""
    links: list[dict[int, MemoryLink]] = [
        {j: MemoryLink(j, piece) for j in range(PARTIES) if j != i} for i in range(PARTIES)
    ]
    for i in range(PARTIES):
        for j, link in links[i].items():
            link.other = links[j][i]
    return links


def play(function: Callable[[Runtime], Awaitable[Any]], piece: int = 1 << 20) -> list[Any]:
    """Run `function(runtime)` at all three parties together; return their results."""

    async def main() -> list[Any]:
        runtimes = [Runtime(i, links) for i, links in enumerate(linked(piece))]
        await asyncio.gather(*(runtime.start() for runtime in runtimes))
        return await asyncio.gather(*(runtime.supervise(function(runtime)) for runtime in runtimes))

    return asyncio.run(asyncio.wait_for(main(), 60))
