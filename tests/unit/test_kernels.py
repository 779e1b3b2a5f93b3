"""The compiled functions against NumPy and against Python's integers, bit by bit, and with what they must refuse."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from limbs import BOUNDS, agrees, elements, extremes, value, with_limbs_at
from memory_links import play
from sharing_numbers import dealt

from pipeline import kernels, masks
from pipeline.errors import RemoteProtocolError
from pipeline.field import FIELD_127, FIELD_191, FIELD_254, PrimeField
from pipeline.masks import OUTSIDE, PAIRS, PIECE, RECOMBINE, SMALL_PRIME, Masking, Tape
from pipeline.mpc_runtime import Runtime
from pipeline.primitives import Arithmetic
from pipeline.residues import LIMB_MASK, LIMIT, Residues, element_bytes, limbs_of

FIELDS = (FIELD_127, FIELD_191, FIELD_254)
every_field = pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
compiled: Any = kernels.compiled
pytestmark = pytest.mark.skipif(compiled is None, reason="the compiled functions are not there")
SHAPES = ((), (0,), (1,), (7,), (3, 0, 2), (2, 3, 4))


@contextmanager
def by_numpy() -> Iterator[None]:
    kernels.compiled = None
    try:
        yield
    finally:
        kernels.compiled = compiled


def both(function: Callable[[], Any]) -> tuple[Any, Any]:
    """What comes out with the compiled functions, and without."""
    ours = function()
    with by_numpy():
        return ours, function()


def of(field: PrimeField) -> tuple[int, int]:
    return field.bits, field.c


def views(field: PrimeField, seed: int = 0) -> list[Residues]:
    """Arrays whose memory is not in row order: slices, transposed, reversed, broadcast, a single axis of a step."""
    x = Residues.of_integers(field, elements(field, 4, 6, 5, seed=seed))
    x = x + (x << 30)  # limbs that are no digits
    return [x, x[:, ::2], x.transpose(), x[::-1, :, ::-1], x[0, :1].broadcast(4, 6, 5), x[1, 2], x[:, 3, 4], x[2, 2, 2]]


@pytest.fixture(params=[True, False], ids=["eight at once", "one by one"])
def each_way_of_multiplying(request: pytest.FixtureRequest) -> Iterator[None]:
    before = compiled.vectors(request.param)
    yield
    compiled.vectors(before)


# Arrays of elements


@every_field
@pytest.mark.parametrize("bound", [0, *BOUNDS])
def test_canonical_forms_are_those_of_numpy_for_limbs_at_any_bound(field: PrimeField, bound: int) -> None:
    x = with_limbs_at(field, bound)
    for function in (Residues.canonical, Residues.byte_rows, lambda x: x.integers()):
        ours, theirs = both(lambda function=function: function(x))  # type: ignore[misc]
        assert np.array_equal(ours, theirs)
    assert agrees(x.carried(), value(x)) and x.carried().bound <= max(bound, LIMB_MASK)


@every_field
@pytest.mark.parametrize("shape", SHAPES)
def test_arrays_of_any_shape_are_read_and_written_as_by_numpy(field: PrimeField, shape: tuple[int, ...]) -> None:
    x = Residues.of_integers(field, elements(field, *shape)) - (1 << 90)
    for result in both(lambda: (x.canonical(), x.to_bytes(), Residues.received(field, x.to_bytes(), shape).limbs)):
        digits, data, read = result
        assert digits.shape == read.shape == (limbs_of(field), *shape) and np.array_equal(digits, read)
        assert len(data) == x.size * element_bytes(field)
    ours, theirs = both(x.to_bytes)
    assert ours == theirs


@every_field
def test_memory_in_any_order_is_read_rightly(field: PrimeField) -> None:
    for x in views(field):
        expected = value(x)
        assert agrees(Residues(field, compiled.carried(*of(field), x.limbs), LIMB_MASK), expected)
        numbers = [int(n) for n in expected.ravel()]
        assert x.to_bytes() == b"".join(n.to_bytes(element_bytes(field), "little") for n in numbers)


@every_field
@pytest.mark.usefixtures("each_way_of_multiplying")
def test_products_are_those_of_the_integers_for_arrays_that_broadcast(field: PrimeField) -> None:
    shapes = [((), ()), ((3,), ()), ((0,), ()), ((2, 1, 5), (3, 1)), ((1, 5), (4, 1)), ((2, 0), (1, 1)), ((7,), (7,))]
    for left, right in shapes:
        a, b = elements(field, *left, seed=1), elements(field, *right, seed=2)
        x, y = Residues.of_integers(field, a), Residues.of_integers(field, b)
        for p, q, expected in ((x, y, a * b), (y, x, b * a)):
            assert agrees(Residues(field, compiled.multiply(*of(field), p.limbs, q.limbs), LIMB_MASK), expected)
    for a, b in zip(views(field, 1), views(field, 2), strict=True):
        assert agrees(a * b, value(a) * value(b))


@every_field
@pytest.mark.usefixtures("each_way_of_multiplying")
@pytest.mark.parametrize("bound", BOUNDS)
def test_products_of_limbs_at_any_bound_are_exact(field: PrimeField, bound: int) -> None:
    x = with_limbs_at(field, bound)
    for other in (1, LIMB_MASK, LIMIT):
        y = with_limbs_at(field, other)[::-1]
        assert agrees(x * y, value(x) * value(y))
        left, right = x[:15].reshape(3, 5), y[:10].reshape(5, 2)
        assert agrees(left @ right, value(left).dot(value(right)))
        assert agrees(right.transpose() @ left.transpose(), value(left).dot(value(right)).T)


@every_field
@pytest.mark.usefixtures("each_way_of_multiplying")
@pytest.mark.parametrize("rows", [0, 1, 2, 9])
@pytest.mark.parametrize("inner", [0, 1, 7, 255, 256, 257, 600])
@pytest.mark.parametrize("columns", [0, 1, 3, 8, 17])
def test_matrix_products_of_any_size_are_those_of_the_integers(
    field: PrimeField, rows: int, inner: int, columns: int
) -> None:
    a = np.full((rows, inner), field.p - 1, object)
    b = np.full((inner, columns), field.p - 1, object)
    if inner < 100:
        a, b = elements(field, rows, inner, seed=3), elements(field, inner, columns, seed=4)
    expected = a.dot(b) if inner else np.zeros((rows, columns), object)
    x, y = Residues.of_integers(field, a), Residues.of_integers(field, b)
    assert agrees(x @ y, expected)
    ours, theirs = both(lambda: (x @ y).canonical())
    assert np.array_equal(ours, theirs)


@every_field
@pytest.mark.usefixtures("each_way_of_multiplying")
def test_batches_of_matrices_broadcast_and_may_be_transposed(field: PrimeField) -> None:
    a = Residues.of_integers(field, elements(field, 3, 1, 4, 5, seed=5))
    b = Residues.of_integers(field, elements(field, 2, 6, 5, seed=6))
    for x, y in (
        (a, b.transpose()),
        (a[:, 0], b[0].transpose()),
        (a[0, 0], b.transpose()),
        (a[:, :, :1], b[:1, :, :].transpose()),
    ):
        ours, theirs = both(lambda x=x, y=y: (x @ y).canonical())  # type: ignore[misc]
        assert np.array_equal(ours, theirs) and ours.size


@every_field
def test_rows_of_bytes_of_any_width_are_cut_to_the_bits_asked_for(field: PrimeField) -> None:
    rng = np.random.default_rng(0)
    for width in range(1, 3 * limbs_of(field) + 1):
        rows = np.concatenate((rng.integers(0, 256, (4, width), np.uint8), np.full((1, width), 255, np.uint8)))
        for size in (8 * width, 8 * width - 3, 8 * width - 7):
            ours, theirs = both(lambda rows=rows, size=size: Residues.of_bytes(field, rows, size).limbs)  # type: ignore[misc]
            assert np.array_equal(ours, theirs)
            cut = [int.from_bytes(row.tobytes(), "little") & (1 << size) - 1 for row in rows]
            assert agrees(Residues(field, ours, LIMB_MASK), cut)


# Openings under masks


def tapes(field: PrimeField, party: int) -> list[Tape]:
    return [Tape(field, pair, bytes([*pair]) * 16) for pair in PAIRS if party in pair]


MASKINGS = {
    "reduce": lambda field, party: Masking(field, field, party + 1, None),
    "truncate": lambda field, party: Masking(field, field, party + 1, field.bits - 3, 1 << field.bits - 10, 25, 9),
    "truncate by limbs": lambda field, party: Masking(field, field, party + 1, 121, 1 << 60, 48, 0),
    "truncate by a word": lambda field, party: Masking(field, field, party + 1, 122, 1 << 61, 64, 3),
    "exactly": lambda field, party: Masking(field, field, party + 1, field.bits - 5, 1 << 60),
    "to a wide field": lambda field, party: Masking(field, FIELD_254, party + 1, 120, 1 << 60, 0, 1 << 59),
    "to the narrow field": lambda field, party: Masking(field, FIELD_127, party + 1, 120, 1 << 60, 31, 7),
}


@every_field
@pytest.mark.parametrize("kind", MASKINGS)
@pytest.mark.parametrize("count", [0, 1, 40, PIECE + 5])
def test_masked_openings_send_and_return_the_same_by_either_way(field: PrimeField, kind: str, count: int) -> None:
    numbers = np.resize(np.array(extremes(field), object), count)
    large = with_limbs_at(field, LIMIT)
    for x in (Residues.of_integers(field, numbers), large[np.arange(count) % len(large)]):

        def openings(x: Residues = x) -> list[Any]:
            hows = [MASKINGS[kind](field, party) for party in range(3)]
            own = [masks.masked(x, hows[i], tapes(field, i)) for i in range(3)]
            sent = [each.payload for each in own]
            arrived = [{j: sent[j] for j in range(3) if j != i} for i in range(3)]
            return [sent, [masks.unmasked(own[i], hows[i], arrived[i]).to_bytes() for i in range(3)]]

        ours, theirs = both(openings)
        assert ours == theirs


@every_field
def test_tapes_are_used_up_alike_by_either_way(field: PrimeField) -> None:
    def after(count: int) -> list[bytes]:
        drawn = tapes(field, 1)
        masks.masked(Residues.zeros(field, count), MASKINGS["truncate"](field, 1), drawn)
        return [tape.raw(20) for tape in drawn]

    for count in (0, 1, 17, 2 * PIECE + 3):
        ours, theirs = both(lambda count=count: after(count))  # type: ignore[misc]
        assert ours == theirs


@every_field
def test_a_share_that_is_no_element_is_refused_at_any_place(field: PrimeField) -> None:
    width, count = element_bytes(field), 5
    how = MASKINGS["reduce"](field, 0)
    own = masks.masked(Residues.zeros(field, count), how, tapes(field, 0))
    for wrong in (field.p, field.p + 1, (1 << field.bits) - 1, (1 << 8 * width) - 1):
        for place in range(count):
            data = b"".join((wrong if i == place else field.p - 1).to_bytes(width, "little") for i in range(count))
            for arrived in ({1: data, 2: bytes(len(data))}, {1: bytes(len(data)), 2: data}):
                with pytest.raises(RemoteProtocolError, match="no field element"):
                    masks.unmasked(own, how, arrived)
            with pytest.raises(RemoteProtocolError, match="no field element"):
                masks.compare_open(Residues.zeros(field, count), 1, bytes(len(data)), data)


# Comparison


@every_field
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("size", [3, 8, 64, 65, 120])
def test_masks_of_a_comparison_are_the_same_by_either_way(field: PrimeField, first: bool, size: int) -> None:
    rng = np.random.default_rng(size)
    for x in (with_limbs_at(field, LIMIT), Residues.of_integers(field, extremes(field)), Residues.zeros(field, 0)):
        drawn, blinds = rng.bytes(x.size * -(-size // 8)), rng.bytes(x.size * element_bytes(field))
        for factor in RECOMBINE:
            ours, theirs = both(
                lambda x=x, drawn=drawn, blinds=blinds, factor=factor: masks.compare_mask(  # type: ignore[misc]
                    x, factor, drawn, size, 1 << size - 1, blinds, first=first
                )
            )
            assert ours == theirs
            again = x.to_bytes()
            opened, by_arrays = both(
                lambda x=x, factor=factor, again=again: masks.compare_open(x, factor, again, again)  # type: ignore[misc]
            )
            assert opened == by_arrays


@pytest.mark.parametrize("bits", [0, 1, 2, 7, 8, 63, 64, 102, 127, 190, SMALL_PRIME - 2])
@pytest.mark.parametrize("count", [0, 1, 33])
def test_the_bits_of_a_comparison_are_the_same_by_either_way(bits: int, count: int) -> None:
    rng = np.random.default_rng(bits)
    width = bits // 8 + 1
    data, pad = rng.bytes(count * width), rng.integers(0, SMALL_PRIME, count * bits, np.uint8).tobytes()
    ours, theirs = both(lambda: (masks.bit(data, count, bits), masks.bit_shares(data, count, bits, pad)))
    assert ours == theirs
    shares = rng.integers(0, 256, count * bits, np.uint8).tobytes()  # a foreign byte may be anything
    coins = rng.integers(0, 2, count, np.uint8).tobytes()
    factors = rng.integers(0, SMALL_PRIME - 1, count * (bits + 1), np.uint8).tobytes()
    zeros = rng.integers(0, SMALL_PRIME, count * (bits + 1), np.uint8).tobytes()
    places = rng.bytes(16 * count)
    for first in (False, True):
        ours, theirs = both(
            lambda first=first: masks.blinded(  # type: ignore[misc]
                shares, data, count, bits, coins, factors, zeros, places, first=first
            )
        )
        assert ours == theirs and len(ours) == count * (bits + 1)


def test_a_zero_among_sums_is_found_whatever_the_bytes() -> None:
    pairs = np.array([(a, b) for a in range(256) for b in range(256)], np.uint8)
    one, other = pairs[:, 0].tobytes(), pairs[:, 1].tobytes()
    expected = [a + b in (0, SMALL_PRIME) for a, b in pairs.tolist()]
    for found in both(lambda: masks.found(one, other, len(pairs), 1)):
        assert list(found) == expected
    for found in both(lambda: masks.found(one, other, 256, 256)):
        assert list(found) == [a <= SMALL_PRIME for a in range(256)]


@pytest.mark.parametrize("bound", [1, 2, 3, 5, 128, 250, 251, 255, 256])
@pytest.mark.parametrize("count", [0, 1, 5000])
def test_small_draws_are_the_same_by_either_way(bound: int, count: int) -> None:
    ours, theirs = both(lambda: Tape(FIELD_127, (0, 1), bytes(32)).small(bound, count))
    assert ours == theirs and len(ours) == count


# What must be refused

X = Residues.of_integers(FIELD_127, elements(FIELD_127, 3))
WORDS = bytes(24)


def mask_arguments(**changed: Any) -> list[Any]:
    named = {
        "limbs": X.limbs,
        "offset": WORDS,
        "x": 1,
        "shift": 5,
        "added": WORDS,
        "floors": np.empty((3, 3), np.uint64),
        "drawn": bytes(3 * (2 + 16 + 16)),
        "size": 16,
        "weight": 1,
        "outside": 3,
        "fractions": bytes(72),
        "in target": bytes(72),
    }
    assert not set(changed) - set(named)
    own = list({**named, **changed}.values())
    return [127, 1, 127, 1, *own, *own[6:]]


REFUSED: dict[str, tuple[str, list[Any]]] = {
    "another field": ("carried", [128, 1, X.limbs]),
    "the c of another field": ("carried", [127, 69, X.limbs]),
    "the limbs of another field": ("carried", [254, 245, X.limbs]),
    "floats": ("carried", [127, 1, X.limbs.astype(float)]),
    "narrow integers": ("to_bytes", [127, 1, X.limbs.astype(np.int32)]),
    "integers without a sign": ("to_bytes", [127, 1, X.limbs.astype(np.uint64)]),
    "integers of the other byte order": ("to_bytes", [127, 1, X.limbs.astype(">i8")]),
    "no axis": ("carried", [127, 1, np.int64(1)]),
    "too many axes": ("carried", [127, 1, X.limbs.reshape(6, 3, *(1,) * 8)]),
    "shapes that do not broadcast": ("multiply", [127, 1, X.limbs, X.limbs[:, :2]]),
    "no matrices": ("matmul", [127, 1, X.limbs, X.limbs]),
    "matrices that do not fit": ("matmul", [127, 1, X.limbs.reshape(6, 1, 3), X.limbs.reshape(6, 1, 3)]),
    "batches that do not broadcast": ("matmul", [127, 1, np.zeros((6, 2, 1, 1), int), np.zeros((6, 3, 1, 1), int)]),
    "inner axis too long": ("matmul", [127, 1, np.zeros((6, 0, 1 << 20), int), np.zeros((6, 1 << 20, 0), int)]),
    "too few bytes": ("of_bytes", [127, 1, bytes(31), 2, 16, 127]),
    "too many bytes": ("of_bytes", [127, 1, bytes(33), 2, 16, 127]),
    "wider than the limbs": ("of_bytes", [127, 1, bytes(19), 1, 19, 152]),
    "no bytes a number": ("of_bytes", [127, 1, b"", 2, 0, 0]),
    "a negative count": ("of_bytes", [127, 1, b"", -1, 16, 127]),
    "a count that overflows": ("of_bytes", [127, 1, b"", 1 << 60, 16, 127]),
    "more bits than bytes": ("of_bytes", [127, 1, bytes(2), 1, 2, 17]),
    "bits that leave out a byte": ("of_bytes", [127, 1, bytes(2), 1, 2, 8]),
    "elements of the wrong length": ("received", [127, 1, bytes(31), 2]),
    "a negative number of elements": ("received", [127, 1, b"", -1]),
    "mask of a matrix": ("mask", mask_arguments(limbs=X.limbs.reshape(6, 3, 1))),
    "offset of the wrong length": ("mask", mask_arguments(offset=bytes(16))),
    "party 0": ("mask", mask_arguments(x=0)),
    "shift beyond the field": ("mask", mask_arguments(shift=128)),
    "negative shift": ("mask", mask_arguments(shift=-1)),
    "added of the wrong length": ("mask", mask_arguments(added=bytes(8))),
    "floors too short": ("mask", mask_arguments(floors=np.empty((2, 3), np.uint64))),
    "floors at odd places": ("mask", mask_arguments(floors=memoryview(bytearray(73))[1:])),
    "fractions at odd places": ("mask", mask_arguments(fractions=memoryview(bytes(73))[1:])),
    "floors too long": ("mask", mask_arguments(floors=np.empty((4, 3), np.uint64))),
    "draws too short": ("mask", mask_arguments(drawn=bytes(101))),
    "draws too long": ("mask", mask_arguments(drawn=bytes(103))),
    "a mask beyond the field": ("mask", mask_arguments(size=128)),
    "a mask of no bits": ("mask", mask_arguments(size=0)),
    "a large weight": ("mask", mask_arguments(weight=5)),
    "a large divisor": ("mask", mask_arguments(outside=4)),
    "fractions too short": ("mask", mask_arguments(fractions=bytes(48))),
    "fractions in the target too short": ("mask", mask_arguments(**{"in target": bytes(48)})),
    "shares of different lengths": (
        "unmask",
        [127, 1, 127, 1, bytes(16), bytes(16), bytes(15), 1, 1, 1, 1, 0, bytes(24)],
    ),
    "parts of another length": (
        "unmask",
        [127, 1, 254, 245, bytes(16), bytes(16), bytes(16), 1, 1, 1, 1, 0, bytes(24)],
    ),
    "a large factor": ("unmask", [127, 1, 127, 1, bytes(16), bytes(16), bytes(16), 1, 9, 1, 1, 0, bytes(24)]),
    "a large shift": ("unmask", [127, 1, 127, 1, bytes(16), bytes(16), bytes(16), 1, 1, 1, 1, 128, bytes(24)]),
    "too few random bytes": ("small", [bytes([255] * 10), 251, 1]),
    "a bound beyond a byte": ("small", [bytes(10), 257, 1]),
    "a bound of 0": ("small", [bytes(10), 0, 1]),
    "a negative number of draws": ("small", [bytes(10), 2, -1]),
    "masks of a comparison too short": ("compare_mask", [127, 1, X.limbs, 3, bytes(5), 16, WORDS, bytes(48), True]),
    "blinds too short": ("compare_mask", [127, 1, X.limbs, 3, bytes(6), 16, WORDS, bytes(47), True]),
    "a mask of more words": ("compare_mask", [127, 1, X.limbs, 3, bytes(51), 136, WORDS, bytes(48), True]),
    "a third holder": ("compare_mask", [127, 1, X.limbs, 3, bytes(6), 16, WORDS, bytes(48), 2]),
    "offset of a comparison": ("compare_mask", [127, 1, X.limbs, 3, bytes(6), 16, bytes(16), bytes(48), True]),
    "a message too short": ("compare_open", [127, 1, X.limbs, 3, bytes(48), bytes(47)]),
    "messages for a matrix": ("compare_open", [127, 1, X.limbs.reshape(6, 1, 3), 3, bytes(48), bytes(48)]),
    "a bit beyond the number": ("bit", [bytes(4), 2, 2, 16]),
    "bits of too few bytes": ("bit", [bytes(3), 2, 2, 1]),
    "more bits than the numbers have": ("bit_shares", [bytes(4), 2, 2, 17, bytes(34)]),
    "a pad too short": ("bit_shares", [bytes(4), 2, 2, 9, bytes(17)]),
    "more bits than the prime counts": ("bit_shares", [bytes(64), 2, 32, SMALL_PRIME - 1, bytes(500)]),
    "shares too short": ("blinded", [bytes(5), bytes(2), 2, 1, 3, bytes(2), bytes(8), bytes(8), bytes(32), 1]),
    "masks too short": ("blinded", [bytes(6), bytes(1), 2, 1, 3, bytes(2), bytes(8), bytes(8), bytes(32), 1]),
    "coins too short": ("blinded", [bytes(6), bytes(2), 2, 1, 3, bytes(1), bytes(8), bytes(8), bytes(32), 1]),
    "factors too short": ("blinded", [bytes(6), bytes(2), 2, 1, 3, bytes(2), bytes(7), bytes(8), bytes(32), 1]),
    "zeros too short": ("blinded", [bytes(6), bytes(2), 2, 1, 3, bytes(2), bytes(8), bytes(7), bytes(32), 1]),
    "places too short": ("blinded", [bytes(6), bytes(2), 2, 1, 3, bytes(2), bytes(8), bytes(8), bytes(31), 1]),
    "rows too short": ("found", [bytes(6), bytes(5), 2, 3]),
    "no columns": ("found", [b"", b"", 2, 0]),
}


@pytest.mark.parametrize("what", REFUSED)
def test_arguments_that_do_not_fit_are_refused(what: str) -> None:
    name, arguments = REFUSED[what]
    with pytest.raises(ValueError, match=r"\w"):
        getattr(compiled, name)(*arguments)


def test_arguments_of_another_kind_or_number_are_refused() -> None:
    for name in (name for name in dir(compiled) if not name.startswith("_")):
        function = getattr(compiled, name)
        for arguments in ((), (127, 1), (127, 1, None, 4, 5, 6), ("a", "b", "c")):
            with pytest.raises((TypeError, ValueError)):
                function(*arguments)
    with pytest.raises((TypeError, BufferError)):
        compiled.mask(*mask_arguments(floors=bytes(72)))
    with pytest.raises((ValueError, BufferError)):
        compiled.to_bytes(127, 1, memoryview(bytes(48)))
    compiled.mask(*mask_arguments())


# Together


def test_parties_with_and_without_the_compiled_functions_work_together() -> None:
    """Each operation, in each mixture of parties: the same messages, and the same results."""

    async def operations(runtime: Runtime) -> list[Any]:
        mpc = Arithmetic(runtime, FIELD_254, 60)
        x = dealt([5, -7, 0, 2**60, -(2**60)] * 3, runtime.pid)
        narrow = dealt([5, -7, 2**60], runtime.pid, field=FIELD_127)
        bits, product = await mpc.together(mpc.nonnegative(x * x[::-1], 130), mpc.product(x, x, 20, 130))
        lifted = await mpc.over(FIELD_127).lift(narrow, mpc)
        exact = await mpc.convert(x, mpc.over(FIELD_127), 0, 63)
        return [bits.to_bytes(), product.to_bytes(), lifted.to_bytes(), exact.to_bytes()]

    async def party(runtime: Runtime, without: int) -> list[Any]:
        steps = operations(runtime)
        return await Switching(steps, without == runtime.pid)  # type: ignore[no-any-return]

    for without in range(3):
        results = play(lambda runtime, without=without: party(runtime, without))  # type: ignore[misc]
        assert all(len(result) == 4 for result in results)


class Switching:
    """Runs a computation with the compiled functions switched off while it is its turn."""

    def __init__(self, computation: Any, off: bool) -> None:
        self.computation, self.off = computation, off

    def __await__(self) -> Any:
        reply = None
        try:
            while True:
                kernels.compiled = None if self.off else compiled
                try:
                    wish = self.computation.send(reply)
                finally:
                    kernels.compiled = compiled
                reply = yield wish
        except StopIteration as stop:
            return stop.value


def test_the_environment_switches_the_compiled_functions_off() -> None:
    script = "from pipeline import kernels; print(kernels.compiled is None)"
    for value_, expected in (("numpy", "True"), ("", "False")):
        environment = {**os.environ, kernels.SWITCH: value_}
        ended = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
        )
        assert ended.stdout.strip() == expected


def test_a_field_without_compiled_functions_is_left_to_numpy() -> None:
    other = PrimeField("2^193-31", 193, 31)
    assert kernels.of(other) is None and OUTSIDE
    numbers = elements(other, 6)
    assert agrees(
        Residues.of_integers(other, numbers) * Residues.of_integers(other, numbers[::-1]), numbers * numbers[::-1]
    )
