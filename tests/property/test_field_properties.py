"""Properties of the field arithmetic for any elements, shapes and constants."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.field import FIELD_127, FIELD_191, FIELD_254, GramAccumulator, PrimeField, PseudorandomElements

fields = st.sampled_from([FIELD_127, FIELD_191, FIELD_254])


def residues(field: PrimeField) -> st.SearchStrategy[int]:
    """Residues, often next to a power of two or to the prime."""
    powers = st.integers(0, field.bits - 1).flatmap(lambda k: st.sampled_from([1 << k, (1 << k) - 1, -(1 << k)]))
    return (st.integers(0, field.p - 1) | powers).map(lambda x: x % field.p)


@given(fields, st.data())
def test_ring_operations_are_those_of_the_integers(field, data):
    x = data.draw(st.lists(residues(field), min_size=1, max_size=8))
    y = data.draw(st.lists(residues(field), min_size=len(x), max_size=len(x)))
    a, b = field.from_ints(x), field.from_ints(y)
    for operation, expected in (
        (field.add, [i + j for i, j in zip(x, y, strict=True)]),
        (field.sub, [i - j for i, j in zip(x, y, strict=True)]),
        (field.mul, [i * j for i, j in zip(x, y, strict=True)]),
    ):
        result = operation(a, b)
        field.validate(result)
        assert list(field.to_ints(result)) == [i % field.p for i in expected]


@given(fields, st.data(), st.integers(-(1 << 260), 1 << 260), st.integers(1, (1 << 16) - 1))
def test_scaling_and_division_are_those_of_the_field(field, data, constant, divisor):
    x = data.draw(st.lists(residues(field), min_size=1, max_size=8))
    a = field.from_ints(x)
    assert list(field.to_ints(field.scale(a, constant))) == [i * constant % field.p for i in x]
    assert (field.divide(field.scale(a, divisor), divisor) == a).all()


@given(fields, st.lists(st.binary(min_size=15, max_size=15), min_size=1, max_size=8))
def test_slots_and_masks_are_read_as_little_endian_numbers(field, rows):
    slots = np.frombuffer(b"".join(rows), np.uint8).reshape(-1, 15)
    numbers = [int.from_bytes(row, "little") for row in rows]
    assert field.to_ints(field.from_slots(slots), signed=True).tolist() == [x - (1 << 43) for x in numbers]
    assert field.to_ints(field.from_masks(slots), signed=True).tolist() == [-x for x in numbers]


@given(fields, st.data())
@settings(deadline=None)
def test_matrix_products_are_those_of_the_integers(field, data):
    n, k, m = (data.draw(st.integers(1, 6)) for _ in range(3))
    k *= data.draw(st.sampled_from([1, 30]))
    x, y = data.draw(residues(field)), data.draw(residues(field))
    stream = PseudorandomElements(field, bytes(32))
    a, b = stream.elements(0, n * k).reshape(n, k, -1), stream.elements(n * k, k * m).reshape(k, m, -1)
    a[0], b[:, 0] = field.from_ints(x), field.from_ints(y)
    expected = field.to_ints(a).dot(field.to_ints(b)) % field.p
    assert (field.to_ints(field.matmul(a, b)) == expected).all()


@given(fields, st.data(), st.integers(0, 700), st.integers(1, 4))
@settings(deadline=None, max_examples=40)
def test_the_gram_matrix_is_that_of_the_integers_however_rows_are_cut(field, data, n, columns):
    x = PseudorandomElements(field, bytes(32)).elements(0, n * columns).reshape(n, columns, field.words)
    x[: n // 2] = field.from_ints(data.draw(residues(field)))
    cuts = sorted(data.draw(st.lists(st.integers(0, n), max_size=4)))
    accumulator = GramAccumulator(field, columns)
    for part in np.split(x, cuts):
        accumulator.add(part)
    z = np.concatenate([np.ones((n, 1), object), field.to_ints(x)], axis=1)
    assert (field.to_ints(accumulator.result()) == z.T.dot(z) % field.p).all()


@given(fields, st.binary(min_size=32, max_size=32), st.integers(0, 1 << 40), st.lists(st.integers(0, 20), max_size=5))
def test_parts_of_a_stream_in_any_order_make_the_whole(field, key, first, sizes):
    stream = PseudorandomElements(field, key)
    whole = stream.elements(first, sum(sizes))
    starts = np.cumsum([0, *sizes])
    for start, size in reversed(list(zip(starts[:-1], sizes, strict=True))):
        assert (stream.elements(first + int(start), size) == whole[start : start + size]).all()
