"""Messages <-> bytes: the only parser of what a peer sends between steps 1 and 7.

Everything is little-endian. A message is a head of 40 bytes and a body:

    0   4   magic
    4   2   version of this format
    6   2   type of the message
    8   32  identifier of the session
    40      the fields of the message, in the order of its dataclass

An integer takes 8 bytes, signed. Bytes are their length (8 bytes) and
themselves; a tuple of integers is their number and they; an array is one
length for each of its dimensions and then its elements. Nothing follows the
last field. Which field is what stands in `TYPES`; there is no other type, so
nothing a peer sends decides what is built from it.

The head is checked before the body is looked at, and every length against what
is really there before anything is allocated. Any defect is a
RemoteProtocolError, whose text never quotes what was received.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np

from pipeline.errors import LocalProtocolError, RemoteProtocolError
from pipeline.messages import (
    MAX_MESSAGE_BYTES,
    SECRET_BYTES,
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

MAGIC = b"SLPM"
VERSION = 1
_HEAD = struct.Struct(f"<4sHH{SECRET_BYTES}s")
_INTEGER = struct.Struct("<q")


class Codec(Protocol):
    """How one kind of field is written and read."""

    def write(self, value: Any) -> Sequence[bytes | memoryview]: ...

    def read(self, body: Body) -> Any: ...


class Body:
    """The part of a message that has not been read yet."""

    def __init__(self, content: memoryview) -> None:
        self._content = content

    @property
    def left(self) -> int:
        return len(self._content)

    def take(self, size: int) -> memoryview:
        if size > self.left:
            raise RemoteProtocolError("a message is shorter than its lengths say")
        taken, self._content = self._content[:size], self._content[size:]
        return taken

    def integer(self) -> int:
        (value,) = _INTEGER.unpack(self.take(_INTEGER.size))
        return int(value)

    def length(self) -> int:
        """Read a length. None exceeds the size of a whole message, whatever it counts."""
        value = self.integer()
        if not 0 <= value <= MAX_MESSAGE_BYTES:
            raise RemoteProtocolError("a length in a message is out of bounds")
        return value


class Integer:
    """A signed integer of 64 bits."""

    def write(self, value: int) -> list[bytes]:
        return [_INTEGER.pack(value)]

    def read(self, body: Body) -> int:
        return body.integer()


class Blob:
    """Bytes."""

    def write(self, value: bytes) -> list[bytes]:
        return [_INTEGER.pack(len(value)), value]

    def read(self, body: Body) -> bytes:
        return bytes(body.take(body.length()))


class Integers:
    """A tuple of integers."""

    def write(self, value: tuple[int, ...]) -> list[bytes]:
        return [_INTEGER.pack(len(value)), struct.pack(f"<{len(value)}q", *value)]

    def read(self, body: Body) -> tuple[int, ...]:
        length = body.length()
        return struct.unpack(f"<{length}q", body.take(length * _INTEGER.size))


@dataclass(frozen=True)
class Array:
    """An array of fixed dimension and type; `dtype` in little-endian notation."""

    dtype: str
    ndim: int

    def write(self, value: np.ndarray[Any, Any]) -> list[bytes | memoryview]:
        content = np.ascontiguousarray(value, self.dtype).ravel()
        return [*(_INTEGER.pack(length) for length in value.shape), content.view(np.uint8).data]

    def read(self, body: Body) -> np.ndarray[Any, Any]:
        shape = tuple(body.length() for _ in range(self.ndim))
        dtype = np.dtype(self.dtype)
        # A length of 0 must not let the others grow beyond what NumPy can index.
        if math.prod(max(length, 1) for length in shape) * dtype.itemsize > MAX_MESSAGE_BYTES:
            raise RemoteProtocolError("an array in a message is too large")
        content = body.take(math.prod(shape) * dtype.itemsize)
        # Copied: the fields before it may leave it at an odd address, and nobody
        # else shall hold the memory of an array that is taken for closed.
        return np.frombuffer(content, dtype).astype(dtype.newbyteorder("=")).reshape(shape)


TYPES: dict[int, tuple[type[Message], tuple[Codec, ...]]] = {
    1: (KeyContribution, (Blob(),)),
    2: (PublicKey, (Blob(),)),
    3: (Columns, (Integers(),)),
    4: (ScrambledDataset, (Integer(), Integer(), Array("<u1", 2), Array("<u1", 3))),
    5: (IntersectionSize, (Integer(),)),
    6: (TooFewRecords, ()),
    7: (RandomShare, (Integer(), Integer(), Array("<u1", 3))),
    8: (MaskedShare, (Integer(), Integer(), Array("<u1", 3))),
    9: (ShareKey, (Blob(),)),
    10: (ShamirShare, (Integer(), Integer(), Array("<u8", 3))),
    11: (SubgroupKey, (Blob(), Blob())),
}
_NUMBERS = {kind: number for number, (kind, _) in TYPES.items()}


def encode(message: Message, session: bytes) -> bytes:
    """Return the bytes of a message of this session.

    LocalProtocolError if they exceed MAX_MESSAGE_BYTES: the receiver would
    refuse them.
    """
    if len(session) != SECRET_BYTES:
        raise LocalProtocolError(f"a session identifier has {SECRET_BYTES} bytes, not {len(session)}")
    number = _NUMBERS[type(message)]
    _, codecs = TYPES[number]
    pieces: list[bytes | memoryview] = [_HEAD.pack(MAGIC, VERSION, number, session)]
    for field, codec in zip(fields(message), codecs, strict=True):
        pieces += codec.write(getattr(message, field.name))
    size = sum(map(len, pieces))
    if size > MAX_MESSAGE_BYTES:
        raise LocalProtocolError(f"a {type(message).__name__} of {size} bytes; {MAX_MESSAGE_BYTES} are allowed")
    return b"".join(pieces)


def decode(data: bytes, session: bytes) -> Message:
    """Return the message that `data` holds, if it is one of this session.

    Any defect is a RemoteProtocolError. The message is well formed by itself;
    whether it fits the study and may come now is for the role to say.
    """
    if len(data) > MAX_MESSAGE_BYTES:
        raise RemoteProtocolError(f"a message of {len(data)} bytes; {MAX_MESSAGE_BYTES} are allowed")
    body = Body(memoryview(data))
    kind, codecs = _kind(body.take(_HEAD.size), session)
    values = [codec.read(body) for codec in codecs]
    if body.left:
        raise RemoteProtocolError(f"{body.left} bytes too many in a {kind.__name__}")
    try:
        return kind(*values)
    except ValueError as defect:  # the text is one of our own fixed sentences
        raise RemoteProtocolError(f"a malformed {kind.__name__}: {defect}") from None


def _kind(head: memoryview, session: bytes) -> tuple[type[Message], tuple[Codec, ...]]:
    magic, version, number, theirs = _HEAD.unpack(head)
    if magic != MAGIC:
        raise RemoteProtocolError("what was received is no message of this protocol")
    if version != VERSION:
        raise RemoteProtocolError(f"a message in version {version} of the format; this program speaks {VERSION}")
    if theirs != session:
        raise RemoteProtocolError("a message of another session")
    if number not in TYPES:
        raise RemoteProtocolError(f"a message of unknown type {number}")
    return TYPES[number]
