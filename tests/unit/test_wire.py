"""The bytes of messages: vectors, and every defect by itself."""

from __future__ import annotations

import json
import pickle
import struct
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from pipeline import messages, wire
from pipeline.errors import LocalProtocolError, RemoteProtocolError
from pipeline.messages import (
    MAX_MESSAGE_BYTES,
    PART_BYTES,
    Columns,
    IntersectionSize,
    MaskedShare,
    Message,
    ScrambledDataset,
    ShamirShare,
    TooFewRecords,
)

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "wire.json").read_text())
SESSION = bytes.fromhex(VECTORS["session"])
ARRAYS = {"hashes": np.uint8, "ciphertexts": np.uint8, "shares": np.uint64}


def message_of(vector: dict[str, Any]) -> Message:
    kind = getattr(messages, vector["type"])
    return kind(**{name: value_of(name, value) for name, value in vector["fields"].items()})


def value_of(name: str, value: Any) -> Any:
    if name in ARRAYS:
        return np.zeros(value["shape"], ARRAYS[name]) if isinstance(value, dict) else np.array(value, ARRAYS[name])
    return bytes.fromhex(value) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value


def same(left: Message, right: Message) -> bool:
    return type(left) is type(right) and all(
        np.array_equal(getattr(left, f.name), getattr(right, f.name)) for f in fields(left)
    )


@pytest.mark.parametrize("vector", VECTORS["messages"], ids=lambda v: v["type"])
def test_a_message_is_written_and_read_as_the_vector_says(vector: dict[str, Any]) -> None:
    message, data = message_of(vector), bytes.fromhex(vector["bytes"])
    assert wire.encode(message, SESSION) == data
    assert same(wire.decode(data, SESSION), message)


@pytest.mark.parametrize("vector", VECTORS["bad"], ids=lambda v: v["defect"])
def test_a_defect_is_refused_with_its_reason(vector: dict[str, Any]) -> None:
    with pytest.raises(RemoteProtocolError) as refusal:
        wire.decode(bytes.fromhex(vector["bytes"]), SESSION)
    assert vector["says"] in str(refusal.value)
    assert refusal.value.__cause__ is None


def test_the_layout_is_the_one_of_the_module_docstring() -> None:
    message = ScrambledDataset(3, 9, np.full((1, 32), 5, np.uint8), np.arange(6, dtype=np.uint8).reshape(1, 2, 3))
    head = b"SLPM" + struct.pack("<HH", 1, 4) + SESSION
    body = struct.pack("<qq", 3, 9) + struct.pack("<qq", 1, 32) + b"\5" * 32 + struct.pack("<qqq", 1, 2, 3)
    assert len(head) == 40
    assert wire.encode(message, SESSION) == head + body + bytes(range(6))


def test_every_message_has_one_type_and_a_codec_for_each_field() -> None:
    assert {kind for kind, _ in wire.TYPES.values()} == set(get_args(Message))
    for kind, codecs in wire.TYPES.values():
        assert len(codecs) == len(fields(kind))


def test_every_message_has_a_vector() -> None:
    assert {vector["type"] for vector in VECTORS["messages"]} == {kind.__name__ for kind in get_args(Message)}


@pytest.mark.parametrize("vector", VECTORS["messages"], ids=lambda v: v["type"])
def test_every_truncation_of_a_message_is_refused(vector: dict[str, Any]) -> None:
    data = bytes.fromhex(vector["bytes"])
    for length in range(len(data)):
        with pytest.raises(RemoteProtocolError):
            wire.decode(data[:length], SESSION)


def test_a_pickle_is_no_message() -> None:
    class Harmful:
        def __reduce__(self) -> tuple[Any, ...]:
            return (pytest.fail, ("a pickle was loaded",))

    load = pickle.dumps(Harmful())
    head = wire.encode(TooFewRecords(), SESSION)
    for data in (load, head + load, head[:6] + struct.pack("<H", 1) + head[8:] + struct.pack("<q", len(load)) + load):
        with pytest.raises(RemoteProtocolError):
            wire.decode(data, SESSION)


def test_a_refusal_quotes_nothing_of_what_was_received() -> None:
    secret = b"a secret that was sent"
    head = wire.encode(TooFewRecords(), SESSION)[:6]
    for number in range(12):
        with pytest.raises(RemoteProtocolError) as refusal:
            wire.decode(
                head + struct.pack("<H", number) + SESSION + struct.pack("<q", len(secret)) + secret + b"!", SESSION
            )
        assert "secret" not in str(refusal.value)


def test_a_claimed_size_is_checked_before_memory_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytearray(wire.encode(MaskedShare(0, 1, np.ones((1, 1, 8), np.uint8)), SESSION))
    data[40 + 16 : 40 + 40] = struct.pack("<qqq", 1 << 11, 1 << 11, 1 << 2)
    monkeypatch.setattr(np, "frombuffer", lambda *_: pytest.fail("an array was built"))
    with pytest.raises(RemoteProtocolError, match="shorter"):
        wire.decode(bytes(data), SESSION)


def test_arrays_read_are_closed_for_writing_and_aligned_and_not_the_senders_memory() -> None:
    data = bytearray(wire.encode(ShamirShare(0, 2, np.arange(12, dtype=np.uint64).reshape(2, 2, 3)), SESSION))
    shares = wire.decode(data, SESSION).shares
    data[-8:] = b"\xff" * 8
    assert shares[1, 1, 2] == 11
    assert shares.flags.aligned
    assert not shares.flags.writeable


def test_arrays_that_are_views_are_written_in_order() -> None:
    whole = np.arange(48, dtype=np.uint8).reshape(4, 3, 4)
    message = MaskedShare(0, 2, whole[::2, :, 1:3])
    assert same(wire.decode(wire.encode(message, SESSION), SESSION), message)
    shares = ShamirShare(0, 2, np.arange(12, dtype=np.uint64).reshape(3, 2, 2).transpose(1, 2, 0))
    assert same(wire.decode(wire.encode(shares, SESSION), SESSION), shares)
    none = ShamirShare(0, 0, np.zeros((0, 2, 3), np.uint64))
    assert same(wire.decode(wire.encode(none, SESSION), SESSION), none)


def test_the_largest_part_a_sender_makes_fits() -> None:
    rows = PART_BYTES // 800
    part = ScrambledDataset(0, rows, np.zeros((rows, 32), np.uint8), np.zeros((rows, 1, 768), np.uint8))
    assert len(wire.encode(part, SESSION)) < MAX_MESSAGE_BYTES


def test_a_message_beyond_the_limit_is_neither_sent_nor_read() -> None:
    message = MaskedShare(0, 1, np.zeros((1, 1, MAX_MESSAGE_BYTES), np.uint8))
    with pytest.raises(LocalProtocolError):
        wire.encode(message, SESSION)
    with pytest.raises(RemoteProtocolError, match="are allowed"):
        wire.decode(bytes(MAX_MESSAGE_BYTES + 1), SESSION)


def test_a_session_identifier_of_wrong_length_is_a_local_error() -> None:
    with pytest.raises(LocalProtocolError):
        wire.encode(IntersectionSize(1), bytes(31))


def test_the_bounds_of_an_exponent_pass() -> None:
    message = Columns((-1000, 0, 1000))
    assert wire.decode(wire.encode(message, SESSION), SESSION) == message
