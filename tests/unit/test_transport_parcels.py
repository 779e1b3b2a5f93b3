"""The reading of a body."""

from __future__ import annotations

import asyncio

import pytest

from pipeline.parcels import _read


class Content:
    """A body that comes in pieces."""

    def __init__(self, *pieces):
        self.pieces = pieces

    async def iter_any(self):
        for piece in self.pieces:
            yield piece


@pytest.mark.parametrize("size", [0, 1, 2499, 2500])
def test_no_more_is_kept_of_a_body_than_shows_that_it_is_too_long(size):
    body = asyncio.run(_read(Content(*[bytes(1000)] * 1000), size))
    assert len(body) == size + 1


def test_a_body_is_read_whole_however_it_comes():
    assert asyncio.run(_read(Content(b"ab", b"", b"c"), 3)) == b"abc"
