"""Whatever arrives, either it is a message and these are its only bytes, or it is refused."""

from __future__ import annotations

import struct
from dataclasses import fields

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline import wire
from pipeline.errors import RemoteProtocolError
from pipeline.messages import (
    MAX_ROWS,
    Columns,
    IntersectionSize,
    KeyContribution,
    MaskedShare,
    Message,
    PublicKey,
    RandomShare,
    ScrambledDataset,
    ShamirShare,
    ShareKey,
    SubgroupKey,
    TooFewRecords,
)

SESSION = bytes(range(32))
SECRET = st.binary(min_size=32, max_size=32)
INTEGER = st.integers(-(1 << 63), (1 << 63) - 1) | st.integers(-2, 40)


@st.composite
def parts(draw: st.DrawFn) -> Message:
    kind = draw(st.sampled_from([ScrambledDataset, RandomShare, MaskedShare, ShamirShare]))
    rows, columns, size = (draw(st.integers(low, 4)) for low in (0, 0, 1))
    first = draw(st.integers(0, MAX_ROWS - rows)) if rows else 0
    total = draw(st.integers(first + rows, MAX_ROWS)) if rows else 0
    generator = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    if kind is ShamirShare:
        return ShamirShare(first, total, generator.integers(0, 1 << 64, (rows, columns, size), np.uint64))
    ciphertexts = generator.integers(0, 256, (rows, columns, size), np.uint8)
    if kind is ScrambledDataset:
        return ScrambledDataset(first, total, generator.integers(0, 256, (rows, 32), np.uint8), ciphertexts)
    return kind(first, total, ciphertexts)


MESSAGES = (
    st.builds(KeyContribution, SECRET)
    | st.builds(ShareKey, SECRET)
    | st.builds(PublicKey, st.binary(min_size=1, max_size=2048))
    | st.binary(min_size=1, max_size=512).map(lambda modulus: SubgroupKey(modulus, modulus[::-1] * 2))
    | st.builds(Columns, st.lists(st.integers(-1000, 1000)).map(tuple))
    | st.builds(IntersectionSize, st.integers(0, MAX_ROWS))
    | st.just(TooFewRecords())
    | parts()
)


@given(MESSAGES, SECRET)
def test_a_message_is_read_as_it_was_written(message: Message, session: bytes) -> None:
    read = wire.decode(wire.encode(message, session), session)
    assert type(read) is type(message)
    for field in fields(message):
        ours, theirs = getattr(message, field.name), getattr(read, field.name)
        assert np.array_equal(ours, theirs)
        assert getattr(ours, "dtype", None) == getattr(theirs, "dtype", None)


def refused_or_canonical(data: bytes) -> None:
    try:
        message = wire.decode(data, SESSION)
    except RemoteProtocolError:
        return
    assert wire.encode(message, SESSION) == data


@given(MESSAGES, st.data())
def test_an_altered_message_is_refused_or_another_message(message: Message, data: st.DataObject) -> None:
    content = bytearray(wire.encode(message, SESSION))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    refused_or_canonical(bytes(content))


@given(MESSAGES, st.data())
def test_an_altered_length_is_refused_or_another_message(message: Message, data: st.DataObject) -> None:
    content = bytearray(wire.encode(message, SESSION))
    at = 40 + 8 * data.draw(st.integers(0, 6))
    content[at : at + 8] = struct.pack("<q", data.draw(INTEGER))
    refused_or_canonical(bytes(content))


@given(MESSAGES, st.data())
def test_a_cut_or_prolonged_message_is_refused(message: Message, data: st.DataObject) -> None:
    content = wire.encode(message, SESSION)
    cut = content[: data.draw(st.integers(0, len(content) - 1))]
    for wrong in (cut, content + data.draw(st.binary(min_size=1, max_size=9))):
        try:
            wire.decode(wrong, SESSION)
        except RemoteProtocolError:
            continue
        raise AssertionError("taken")


@given(st.integers(0, 12), st.lists(INTEGER, max_size=8), st.binary(max_size=80))
def test_any_bytes_behind_a_good_head_are_refused_or_a_message(number: int, lengths: list[int], rest: bytes) -> None:
    head = wire.MAGIC + struct.pack("<HH", wire.VERSION, number) + SESSION
    refused_or_canonical(head + struct.pack(f"<{len(lengths)}q", *lengths) + rest)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_a_message(data: bytes) -> None:
    refused_or_canonical(data)
