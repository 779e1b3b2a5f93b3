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
def test_addition_is_that_of_the_integers(field, data):
    x = data.draw(st.lists(residues(field), min_size=1, max_size=8))
    y = data.draw(st.lists(residues(field), min_size=len(x), max_size=len(x)))
    result = field.add(field.from_ints(x), field.from_ints(y))
    field.validate(result)
    assert list(field.to_ints(result)) == [(i + j) % field.p for i, j in zip(x, y, strict=True)]


@given(fields, st.data(), st.integers(1, 3))
def test_a_line_goes_through_its_points(field, data, x):
    s, e = data.draw(residues(field)), data.draw(residues(field))
    points = tuple({1, 2, 3} - {x})
    for point, result in zip(points, field.line(field.from_ints([s]), field.from_ints([e]), x, points), strict=True):
        field.validate(result)
        assert (x * (field.to_ints(result)[0] - s) - point * (e - s)) % field.p == 0


@given(fields, st.data(), st.sampled_from([2, 3]))
def test_halves_and_thirds_are_elements_and_undo_multiplication(field, data, divisor):
    x = data.draw(st.lists(residues(field), min_size=1, max_size=8))
    (result,) = field.line(field.zeros(len(x)), field.from_ints(x), divisor, (1,))
    field.validate(result)
    assert [i * divisor % field.p for i in field.to_ints(result)] == x


@given(fields, st.lists(st.binary(min_size=15, max_size=15), min_size=1, max_size=8))
def test_slots_and_masks_are_read_as_little_endian_numbers(field, rows):
    slots = np.frombuffer(b"".join(rows), np.uint8).reshape(-1, 15)
    numbers = [int.from_bytes(row, "little") for row in rows]
    assert field.to_ints(field.from_slots(slots), signed=True).tolist() == [x - (1 << 43) for x in numbers]
    assert field.to_ints(field.from_masks(slots), signed=True).tolist() == [-x for x in numbers]


@given(fields, st.data(), st.integers(0, 700), st.integers(1, 4))
@settings(deadline=None, max_examples=40)
def test_the_gram_matrix_is_that_of_the_integers_however_rows_are_cut(field, data, n, columns):
    stream = PseudorandomElements(field, bytes(32)).elements(0, 2 * n * columns)
    x, y = stream.reshape(2, n, columns, field.words)
    x[: n // 2] = y[: n // 3] = field.from_ints(data.draw(residues(field)))
    cuts = sorted(data.draw(st.lists(st.integers(0, n), max_size=4)))
    accumulator = GramAccumulator(field, columns)
    for rows, others in zip(np.split(x, cuts), np.split(y, cuts), strict=True):
        accumulator.add_sum(rows, others)
    z = np.concatenate([np.ones((n, 1), object), field.to_ints(x) + field.to_ints(y)], axis=1)
    assert (field.to_ints(accumulator.result()) == z.T.dot(z) % field.p).all()


@given(fields, st.binary(min_size=32, max_size=32), st.integers(0, 1 << 40), st.lists(st.integers(0, 20), max_size=5))
def test_parts_of_a_stream_in_any_order_make_the_whole(field, key, first, sizes):
    stream = PseudorandomElements(field, key)
    whole = stream.elements(first, sum(sizes))
    starts = np.cumsum([0, *sizes])
    for start, size in reversed(list(zip(starts[:-1], sizes, strict=True))):
        assert (stream.elements(first + int(start), size) == whole[start : start + size]).all()
