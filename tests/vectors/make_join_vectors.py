"""Writes wire.json and psi_*.json: `PYTHONPATH=.:tests python tests/vectors/make_join_vectors.py`.

A psi_bad_*.json holds messages to one role. It takes all but the last and
refuses that one, without moving. psi_join.json is a whole join; the randomness
of a party is that of `fakes.stream`.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from attacks import shared_divisor_key
from fakes import BITS, SESSION, THIRD, Delivery, Study

from pipeline import wire
from pipeline.messages import (
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
from pipeline.paillier import KeyPair

FOLDER = Path(__file__).parent
SEED = "vector"
OTHER_KEY = KeyPair(
    83948325727322561031212470799210651425856370893465962728668155547252515941989,
    98132177799455748410721260054122178943958021470712549739194930534643115186883,
)
KEYS = (shared_divisor_key(), OTHER_KEY)


def write(name: str, vector: dict[str, Any]) -> None:
    (FOLDER / f"{name}.json").write_text(json.dumps(vector, indent=1, ensure_ascii=False) + "\n")


# --- wire.json --------------------------------------------------------------


def wire_messages() -> list[Message]:
    ciphertexts = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    return [
        KeyContribution(bytes(range(100, 132))),
        PublicKey(b"\xff\x00\x01"),
        SubgroupKey(b"\xff\x00\x01", bytes(range(6))),
        Columns(()),
        Columns((-1000, 0, 38)),
        ScrambledDataset(5, 7, np.arange(64, dtype=np.uint8).reshape(2, 32), ciphertexts),
        ScrambledDataset(0, 0, np.zeros((0, 32), np.uint8), ciphertexts[:0]),
        IntersectionSize(4321),
        TooFewRecords(),
        RandomShare(0, 2, ciphertexts),
        MaskedShare(1, 1000, ciphertexts),
        ShareKey(bytes(range(200, 232))),
        ShamirShare(0, 1, np.array([[[1, 2, 1 << 63], [0, (1 << 64) - 1, 3]]], np.uint64)),
    ]


def plain(message: Message) -> dict[str, Any]:
    values = {field.name: getattr(message, field.name) for field in fields(message)}
    return {name: _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        # An array without rows cannot show its other lengths as a nested list.
        return value.tolist() if value.size else {"shape": value.shape}
    return value.hex() if isinstance(value, bytes) else value


def body(number: int, *integers: int, rest: bytes = b"") -> bytes:
    return head(number=number) + struct.pack(f"<{len(integers)}q", *integers) + rest


def head(magic: bytes = b"SLPM", version: int = 1, number: int = 6, session: bytes = SESSION) -> bytes:
    return magic + struct.pack("<HH", version, number) + session


def wire_defects() -> list[tuple[str, str, bytes]]:
    huge = 1 << 40
    return [
        ("nothing at all", "shorter", b""),
        ("a head cut short", "shorter", head()[:-1]),
        ("another magic", "no message of this protocol", head(magic=b"SLPN")),
        ("another version", "version 2", head(version=2)),
        ("another session", "another session", head(session=bytes(32))),
        ("an unknown type", "unknown type 12", head(number=12)),
        ("a body where none belongs", "1 bytes too many", head() + b"\0"),
        ("a body missing", "shorter", head(number=5)),
        ("a contribution of 31 bytes", "contribution of wrong length", body(1, 31, rest=bytes(31))),
        ("a negative length", "length in a message is out of bounds", body(1, -1)),
        ("a length beyond the message", "shorter", body(1, 33, rest=bytes(32))),
        ("a length beyond every message", "length in a message is out of bounds", body(1, huge, rest=bytes(32))),
        ("an empty modulus", "modulus of wrong length", body(2, 0)),
        (
            "a base shorter than the square of its modulus",
            "base of wrong length",
            body(11, 2, rest=b"\1\1" + body(0, 3)[40:] + bytes(3)),
        ),
        ("more integers than there are", "shorter", body(3, 2, 0)),
        ("an exponent out of bounds", "exponent out of bounds", body(3, 1, 1001)),
        ("a negative number of records", "out of bounds", body(5, -1)),
        ("a number of records beyond all bounds", "out of bounds", body(5, huge)),
        ("an array of a length beyond every message", "out of bounds", body(7, 0, 1, 1, huge, 0)),
        ("an array that is too large", "too large", body(7, 0, 1, 1 << 12, 1 << 12, 2)),
        ("an array without elements that claims too much", "too large", body(7, 0, 0, 0, 1 << 24, 1 << 24)),
        ("an array cut short", "shorter", body(7, 0, 1, 1, 2, 3, rest=bytes(5))),
        ("an array too long", "1 bytes too many", body(7, 0, 1, 1, 2, 3, rest=bytes(7))),
        ("a part that reaches beyond its total", "beyond its total", body(7, 1, 1, 1, 1, 1, rest=b"\1")),
        ("a part with a negative first row", "out of bounds", body(7, -1, 1, 1, 1, 1, rest=b"\1")),
        ("a total beyond all bounds", "out of bounds", body(7, 0, (1 << 24) + 1, 1, 1, 1, rest=b"\1")),
        ("an empty part of a whole with rows", "empty part", body(7, 0, 1, 0, 1, 1)),
        ("a hash of 31 bytes", "hash of wrong length", body(4, 0, 1, 1, 31, rest=bytes(31) + bytes(24))),
        (
            "two hashes for one row",
            "not one hash a row",
            body(4, 0, 2, 2, 32, rest=bytes(64) + struct.pack("<qqq", 1, 1, 1) + b"\1"),
        ),
    ]


def write_wire() -> None:
    good = [
        {"type": type(m).__name__, "fields": plain(m), "bytes": wire.encode(m, SESSION).hex()} for m in wire_messages()
    ]
    bad = [{"defect": defect, "says": says, "bytes": data.hex()} for defect, says, data in wire_defects()]
    write("wire", {"session": SESSION.hex(), "messages": good, "bad": bad})


# --- psi_*.json -------------------------------------------------------------


def study(min_records: int = 0) -> Study:
    return Study((range(6), range(2, 9)), (2, 5), min_records, keypairs=KEYS, seed=SEED)


def about(text: str, made: Study) -> dict[str, Any]:
    return {
        "about": text,
        "session": SESSION.hex(),
        "widths": list(made.widths),
        "bits": BITS,
        "min_records": made.min_records,
        "keys": [{"p": str(key.p), "q": str(key.q)} for key in KEYS],
        "tables": [
            {"identifiers": t.identifiers, "values": t.values.tolist(), "exponents": t.exponents} for t in made.tables
        ],
        "seed": SEED,
    }


def sent(delivery: Delivery) -> dict[str, Any]:
    return {"from": delivery.sender, "to": delivery.receiver, "bytes": delivery.data.hex()}


def write_join(name: str, text: str, min_records: int) -> None:
    made = study(min_records)
    vector = about(text, made)
    vector["messages"] = [sent(delivery) for delivery in made.play().delivered]
    write(name, vector)


def write_bad(
    name: str,
    text: str,
    says: str,
    wanted: Callable[[Delivery], bool],
    change: Callable[[Any, list[Any]], Message],
    receiver: int = THIRD,
) -> None:
    """`change` makes the bad message of the wanted one and those before it from the same sender."""
    made = study()
    taken = made.play().received_by(receiver)
    last = next(i for i, delivery in enumerate(taken) if wanted(delivery))
    earlier = [d.message for d in taken[:last] if d.sender == taken[last].sender]
    bad = wire.encode(change(taken[last].message, earlier), SESSION)
    vector = about(text, made)
    vector["to"] = receiver
    vector["says"] = says
    vector["messages"] = [{"from": d.sender, "bytes": d.data.hex()} for d in taken[:last]]
    vector["messages"].append({"from": taken[last].sender, "bytes": bad.hex()})
    write(f"psi_bad_{name}", vector)


def part(kind: type, first: int, sender: int = 0) -> Callable[[Delivery], bool]:
    return lambda d: isinstance(d.message, kind) and d.message.first == first and d.sender == sender


def is_a(kind: type, sender: int) -> Callable[[Delivery], bool]:
    return lambda d: isinstance(d.message, kind) and d.sender == sender


def with_number(message: Any, value: int) -> Message:
    ciphertexts = message.ciphertexts.copy()
    ciphertexts[0, 0] = np.frombuffer(value.to_bytes(ciphertexts.shape[-1], "big"), np.uint8)
    return replace(message, ciphertexts=ciphertexts)


def disguised(message: Any, earlier: list[Any]) -> Message:
    """The first mask of the set once more, with another plaintext."""
    n = KEYS[1].n
    mask = next(m for m in earlier if isinstance(m, RandomShare)).ciphertexts[0, 0]
    return with_number(message, int.from_bytes(mask.tobytes(), "big") * (1 + 7 * n) % n**2)


def write_all_bad() -> None:
    upload, masks = ScrambledDataset, RandomShare
    one_more = np.ones((1, 2, 2 * BITS // 8), np.uint8)
    write_bad(
        "duplicate_hash",
        "The last row of an upload has the keyed hash of its first row.",
        "holds a keyed hash twice",
        part(upload, 5),
        lambda m, earlier: replace(m, hashes=earlier[1].hashes),
    )
    write_bad(
        "missing_part",
        "A part of an upload is left out.",
        "begins at row 2, where 1",
        part(upload, 1),
        lambda m, _: replace(m, first=2),
    )
    write_bad(
        "repeated_part",
        "A part of an upload comes twice.",
        "begins at row 0, where 1",
        part(upload, 1),
        lambda _, earlier: earlier[-1],
    )
    write_bad(
        "other_total",
        "A part of an upload tells another total than the one before.",
        "is of 7 rows, not of 6",
        part(upload, 1),
        lambda m, _: replace(m, total=7),
    )
    write_bad(
        "row_shape",
        "A row has two ciphertexts where the agreement's columns take one.",
        "has rows of shape",
        part(upload, 0),
        lambda m, _: replace(m, ciphertexts=one_more),
    )
    write_bad(
        "ciphertext_not_coprime",
        "A ciphertext is a multiple of a prime of the modulus.",
        "not coprime",
        part(upload, 3),
        lambda m, _: with_number(m, 12 * KEYS[0].p),
    )
    write_bad(
        "ciphertext_too_large",
        "A ciphertext is not below the square of the modulus.",
        "out of range",
        part(upload, 3),
        lambda m, _: with_number(m, KEYS[0].n ** 2 + 2),
    )
    write_bad(
        "upload_before_key",
        "An upload begins with no public key.",
        "before the public key",
        is_a(PublicKey, 0),
        lambda *_: upload(0, 6, np.ones((1, 32), np.uint8), one_more[:, :1]),
    )
    write_bad(
        "modulus_shared",
        "The second controller sends the first one's modulus.",
        "share a factor",
        is_a(PublicKey, 1),
        lambda *_: PublicKey(KEYS[0].modulus),
    )
    write_bad(
        "mask_repeated",
        "A mask has the obfuscator of an earlier one, under another plaintext.",
        "share an obfuscator",
        part(masks, 2),
        disguised,
    )
    write_bad(
        "mask_without_obfuscator",
        "A mask is added in plaintext.",
        "no obfuscator",
        part(masks, 2),
        lambda m, _: with_number(m, 1 + 7 * KEYS[1].n),
    )
    write_bad(
        "mask_set_repeated",
        "After the first part of a mask set, the set begins anew.",
        "begins at row 0, where 1",
        part(masks, 1),
        lambda _, earlier: earlier[-1],
    )
    write_bad(
        "count_above_table",
        "A controller of 6 rows is told of 7 matched records.",
        "above the size of the table",
        is_a(IntersectionSize, THIRD),
        lambda *_: IntersectionSize(7),
        receiver=0,
    )
    write_bad(
        "columns",
        "The other controller tells the exponents of 4 columns where 5 are agreed.",
        "as many columns as agreed",
        is_a(Columns, 1),
        lambda m, _: Columns(m.exponents[:4]),
        receiver=0,
    )
    write_bad(
        "masked_share_too_early",
        "A masked share comes in place of the number of matched records.",
        "has no place in state AwaitingIntersectionSize",
        is_a(IntersectionSize, THIRD),
        lambda *_: MaskedShare(0, 4, one_more[:, :1]),
        receiver=0,
    )


if __name__ == "__main__":
    write_wire()
    write_join("psi_join", "A join of 6 and 7 rows with 4 matches.", 0)
    write_join("psi_too_few_records", "The same with 5 records asked for: no number leaves the third party.", 5)
    write_all_bad()
