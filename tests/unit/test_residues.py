"""Every operation on limbs against Python's integers, with limbs as large as they may be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from limbs import BOUNDS, agrees, elements, extremes, forms, value, with_limbs_at

from pipeline.errors import LocalProtocolError, RemoteProtocolError
from pipeline.field import FIELD_127, FIELD_191, FIELD_254, PrimeField
from pipeline.residues import (
    CARRIED,
    EXACT,
    LIMB_BITS,
    LIMB_MASK,
    LIMIT,
    SMALL,
    Residues,
    concatenate,
    element_bytes,
    from_digits,
    limbs_of,
    placed,
    stack,
    top_bits,
)

FIELDS = (FIELD_127, FIELD_191, FIELD_254)
pytestmark = pytest.mark.usefixtures("either_arithmetic")
every_field = pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)

BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "sum": lambda a, b: a + b,
    "difference": lambda a, b: a - b,
    "product": lambda a, b: a * b,
}
CONSTANTS = (
    0,
    1,
    -1,
    2,
    3,
    -3,
    8,
    245,
    2**21 - 1,
    -(2**29),
    2**30 + 1,
    2**31,
    2**62,
    2**100,
    -(2**100),
    3**190,
    2**300,
)


# Making and reading


@every_field
def test_integers_of_any_size_and_sign_are_taken_modulo_p(field: PrimeField) -> None:
    numbers = [0, 1, -1, field.p - 1, field.p, field.p + 1, -field.p, 2**300, -(2**300), *extremes(field)]
    x = Residues.of_integers(field, numbers)
    assert agrees(x, numbers)
    assert x.integers().tolist() == [n % field.p for n in numbers]


@every_field
def test_numbers_with_a_sign_lie_around_zero(field: PrimeField) -> None:
    half = field.p // 2
    numbers = [0, 1, -1, half, -half, 2**60, -(2**60)]
    assert Residues.of_integers(field, numbers).integers(signed=True).tolist() == numbers
    assert Residues.of_integers(field, [half + 1]).integers(signed=True).tolist() == [-half]


@every_field
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 0), (2, 3, 4)])
def test_arrays_of_any_shape_come_back(field: PrimeField, shape: tuple[int, ...]) -> None:
    numbers = elements(field, *shape)
    x = Residues.of_integers(field, numbers)
    assert x.shape == shape and x.ndim == len(shape) and x.size == numbers.size
    assert agrees(x, numbers)
    assert agrees(Residues.received(field, x.to_bytes(), shape), numbers)
    assert x.byte_rows().shape == (*shape, element_bytes(field))


@every_field
def test_rows_of_bytes_may_hold_any_value_and_be_narrow(field: PrimeField) -> None:
    rng = np.random.default_rng(0)
    for width in (1, 2, 3, 4, 5, 13, element_bytes(field), 3 * limbs_of(field)):
        rows = np.concatenate((rng.integers(0, 256, (5, width), np.uint8), np.full((1, width), 255, np.uint8)))
        expected = [int.from_bytes(row.tobytes(), "little") for row in rows]
        assert agrees(Residues.of_bytes(field, rows), expected)
        assert agrees(Residues.of_bytes(field, rows.reshape(2, 3, width)), np.array(expected, object).reshape(2, 3))


@every_field
def test_elements_of_the_other_arithmetic_are_read(field: PrimeField) -> None:
    numbers = elements(field, 5, 8)
    assert agrees(Residues.of_words(field, field.from_ints(numbers)), numbers)
    assert agrees(Residues.of_words(field, field.from_ints(numbers)[::2, ::-1]), numbers[::2, ::-1])


@every_field
def test_zeros_are_zero(field: PrimeField) -> None:
    assert agrees(Residues.zeros(field, 2, 3), np.zeros((2, 3), object))
    assert Residues.zeros(field, 2).to_bytes() == bytes(2 * element_bytes(field))


@every_field
@pytest.mark.parametrize("bound", [0, *BOUNDS])
def test_canonical_digits_are_those_of_the_number_whatever_the_limbs(field: PrimeField, bound: int) -> None:
    x = with_limbs_at(field, bound)
    digits = x.canonical()
    assert digits.min() >= 0 and digits.max() <= LIMB_MASK and digits[-1].max() < 1 << top_bits(field)
    again = from_digits(field, digits)
    total = value(again)
    assert np.array_equal(total, value(x))
    assert [sum(int(d) << LIMB_BITS * t for t, d in enumerate(column)) for column in digits.T] == total.tolist()


@every_field
@pytest.mark.parametrize("times", [0, 1, 2, 3, 1 << 20])
def test_numbers_next_to_a_multiple_of_p_are_brought_below_it(field: PrimeField, times: int) -> None:
    """Limbs that sum to times p + i: what a carry of the last bit decides."""
    offsets = (-2, -1, 0, 1, 2, field.c - 1, field.c, field.c + 1, -field.c)
    for i in offsets:
        number = times * field.p + i
        digits = [number >> LIMB_BITS * t & LIMB_MASK for t in range(limbs_of(field) - 1)]
        digits.append(number >> LIMB_BITS * (limbs_of(field) - 1))
        limbs = np.array(digits, dtype=np.int64)
        x = Residues(field, limbs, max(map(abs, digits)))
        assert int(x.integers()) == i % field.p


@every_field
def test_bytes_are_little_endian_and_in_row_order(field: PrimeField) -> None:
    numbers = elements(field, 3, 20)
    expected = b"".join(x.to_bytes(element_bytes(field), "little") for x in numbers.ravel().tolist())
    x = Residues.of_integers(field, numbers)
    assert x.to_bytes() == expected
    assert x[::-1].transpose().to_bytes() == Residues.of_integers(field, numbers[::-1].T).to_bytes()


@every_field
def test_what_is_sent_is_the_same_whatever_the_form(field: PrimeField) -> None:
    """Otherwise the bytes would tell how a number came about."""
    numbers = np.array(extremes(field) + elements(field, 20).tolist(), dtype=object)
    sent = [x.to_bytes() for x in forms(field, numbers)]
    assert len({x.limbs.tobytes() for x in forms(field, numbers)}) > 1
    assert set(sent) == {b"".join(int(x).to_bytes(element_bytes(field), "little") for x in numbers)}


@every_field
def test_what_a_peer_sends_is_read_as_it_was(field: PrimeField) -> None:
    numbers = elements(field, 4, 15)
    x = Residues.received(field, Residues.of_integers(field, numbers).to_bytes(), (4, 15))
    assert agrees(x, numbers)


@every_field
def test_an_element_that_is_not_below_p_is_refused_at_any_place(field: PrimeField) -> None:
    width = element_bytes(field)
    good = [(field.p - 1).to_bytes(width, "little"), bytes(width), (field.p - 2).to_bytes(width, "little")]
    Residues.received(field, b"".join(good), (3,))
    for wrong in (field.p, field.p + 1, 1 << field.bits, (1 << field.bits) - 1, (1 << 8 * width) - 1):
        if wrong >> 8 * width:
            continue
        for place in range(3):
            data = [wrong.to_bytes(width, "little") if i == place else each for i, each in enumerate(good)]
            with pytest.raises(RemoteProtocolError, match="no field element"):
                Residues.received(field, b"".join(data), (3,))


@every_field
def test_data_of_another_length_is_refused(field: PrimeField) -> None:
    width = element_bytes(field)
    for size in (0, 1, 2 * width - 1, 2 * width + 1, 3 * width):
        with pytest.raises(RemoteProtocolError, match="length"):
            Residues.received(field, bytes(size), (2,))


# Operators


@every_field
@pytest.mark.parametrize("operation", BINARY)
def test_operators_are_those_of_the_integers(field: PrimeField, operation: str) -> None:
    one = elements(field, 30)
    for left, right in ((one, one[::-1]), (one, one), (np.array(extremes(field)), np.array(extremes(field)[::-1]))):
        for a in forms(field, left):
            for b in forms(field, right)[::2]:
                assert agrees(BINARY[operation](a, b), BINARY[operation](left, right))


@every_field
@pytest.mark.parametrize("operation", BINARY)
@pytest.mark.parametrize("count", [1, SMALL, SMALL + 1])
def test_operators_broadcast_as_those_of_numpy_on_either_way_of_multiplying(
    field: PrimeField, operation: str, count: int
) -> None:
    function = BINARY[operation]
    for left, right in (((count,), ()), ((1, count), (3, 1)), ((2, 1, count), (3, 1)), ((count, 1), (1,)), ((), ())):
        x, y = elements(field, *left, seed=2), elements(field, *right, seed=3)
        a, b = Residues.of_integers(field, x), Residues.of_integers(field, y)
        assert agrees(function(a, b), function(x, y))
        assert agrees(function(b, a), function(y, x))


@every_field
@pytest.mark.parametrize("constant", CONSTANTS)
def test_public_numbers_take_part_from_either_side(field: PrimeField, constant: int) -> None:
    numbers = elements(field, 40)
    for x in forms(field, numbers):
        assert agrees(x + constant, numbers + constant)
        assert agrees(constant + x, numbers + constant)
        assert agrees(x - constant, numbers - constant)
        assert agrees(constant - x, constant - numbers)
        assert agrees(x * constant, numbers * constant)
        assert agrees(constant * x, numbers * constant)
    assert agrees(Residues.of_integers(field, 5) * constant, 5 * constant)


@every_field
@pytest.mark.parametrize("kind", ["bool", "int8", "uint8", "int32", "uint32", "int64", "uint64", "object"])
def test_public_arrays_of_any_kind_of_integer_take_part_from_either_side(field: PrimeField, kind: str) -> None:
    numbers = elements(field, 4)
    if kind == "object":
        array = np.array([0, -1, 2**200, -(2**300)], dtype=object)
    elif kind == "bool":
        array = np.array([True, False, True, True])
    else:
        array = np.array([np.iinfo(kind).min, np.iinfo(kind).max, 0, 1], dtype=kind)
    public = array.astype(object) * 1
    x = Residues.of_integers(field, numbers)
    assert agrees(x + array, numbers + public) and agrees(array + x, numbers + public)
    assert agrees(x - array, numbers - public) and agrees(array - x, public - numbers)
    assert agrees(x * array, numbers * public) and agrees(array * x, numbers * public)
    assert agrees(x * array[1], numbers * int(array[1])) and agrees(array[1] * x, numbers * int(array[1]))


@every_field
@pytest.mark.parametrize("bound", BOUNDS)
def test_no_operation_overflows_or_leaves_its_bound(field: PrimeField, bound: int) -> None:
    """Limbs at the bound, of any sign: `agrees` looks at each of them."""
    x = with_limbs_at(field, bound)
    n = value(x)
    count = len(x)
    assert agrees(x, n) and agrees(x.carried(), n) and x.carried().bound <= CARRIED
    assert agrees(-x, -n)
    for other in BOUNDS:
        y = with_limbs_at(field, other)[::-1]
        for function in BINARY.values():
            assert agrees(function(x, y), function(n, value(y)))
            assert agrees(
                function(x.reshape(-1, 1), y[:SMALL]), function(n.reshape(-1, 1), value(y)[:SMALL])
            )  # more than SMALL entries
        assert agrees((x.reshape(1, -1) @ y.reshape(-1, 1)).reshape(1), [(n * value(y)).sum()])
        assert agrees(concatenate([x, y]), np.concatenate((n, value(y))))
        assert agrees(stack([x, y]), np.stack((n, value(y))))
    for constant in CONSTANTS:
        assert agrees(x * constant, n * constant)
    assert agrees(x.sum(), n.sum())
    assert agrees(x.broadcast(200, count).sum(axis=0), 200 * n)


@every_field
def test_shifts_are_multiplications_by_powers_of_two(field: PrimeField) -> None:
    cases = [with_limbs_at(field, bound) for bound in (0, 1, LIMB_MASK, CARRIED, 1 << 33, LIMIT)]
    numbers = [value(x) for x in cases]
    for bits in [*range(300), 400, 623, 1000]:
        for x, n in zip(cases, numbers, strict=True):
            assert np.array_equal(value(x << bits), (n << bits) % field.p), bits


@every_field
def test_shifts_one_after_the_other_stay_within_bounds(field: PrimeField) -> None:
    x = with_limbs_at(field, CARRIED)
    n = value(x)
    for bits in (23, 47, 71, 95, 22, 119, 64, 36):
        x, n = x << bits, n << bits
        assert agrees(x, n) and x.bound <= LIMIT


@every_field
def test_thousands_of_additions_are_carried_in_time(field: PrimeField) -> None:
    numbers = elements(field, 10)
    x, n = Residues.of_integers(field, numbers), numbers
    for _ in range(100):  # doubles, so it must be carried several times
        x, n = x + x, (n + n) % field.p
        assert x.bound <= LIMIT
    assert agrees(x, n)
    step, total, expected = Residues.of_integers(field, numbers) * (2**29 - 1), Residues.zeros(field, 10), 0 * numbers
    for i in range(3000):
        total = total - step if i % 3 else total + step
        expected = expected + numbers * (2**29 - 1) * (-1 if i % 3 else 1)
    assert agrees(total, expected)


@every_field
def test_products_of_products_stay_exact(field: PrimeField) -> None:
    numbers = elements(field, 40)
    x, n = Residues.of_integers(field, numbers), numbers
    for _ in range(20):
        x, n = (x * x - x * 3) * 5 + 7, ((n * n - n * 3) * 5 + 7) % field.p
    assert agrees(x, n)


# Matrix products


@every_field
@pytest.mark.parametrize("inner", [0, 1, 2, 7, 127, 128, 129, 300])
def test_matrix_products_are_those_of_the_integers(field: PrimeField, inner: int) -> None:
    a, b = elements(field, 3, inner, seed=4), elements(field, inner, 2, seed=5)
    expected = a.dot(b) if inner else np.zeros((3, 2), object)
    x, y = Residues.of_integers(field, a), Residues.of_integers(field, b)
    assert agrees(x @ y, expected)
    assert agrees(x.carried() @ y, expected) and agrees((x - y.transpose()[:1] * 0) @ (y * 2), 2 * expected)


@every_field
@pytest.mark.parametrize("bound", [CARRIED, LIMB_MASK, 1 << 40, LIMIT])
@pytest.mark.parametrize("inner", [1, 5, 127, 128, 1500])
def test_sums_of_the_largest_products_are_exact_in_floating_point(field: PrimeField, bound: int, inner: int) -> None:
    """All limbs at the bound and of one sign: each sum is as large as it can be."""
    limbs = np.full((limbs_of(field), 2, inner), bound - 1, np.int64)
    limbs[:, :, ::3] += 1
    limbs[:, 1] *= -1
    x = Residues(field, limbs, bound)
    n = value(x)
    assert agrees(x @ x.transpose(), n.dot(n.T))


def test_a_bound_that_fills_floating_point_exactly_is_not_carried_in_vain() -> None:
    """Just below 2^53 the numbers are multiplied as they are, and that is exact."""
    inner, a = 1, 1 << 26
    b = EXACT // a - 1
    x, y = with_limbs_at(FIELD_254, a), with_limbs_at(FIELD_254, b)
    for i in range(4):
        product = x[i : i + 1].reshape(1, inner) @ y[i : i + 1].reshape(inner, 1)
        assert agrees(product, [[value(x)[i] * value(y)[i]]])


@every_field
def test_matrix_products_broadcast_over_the_other_axes(field: PrimeField) -> None:
    for left, right in (((4, 2, 3), (3, 5)), ((2, 3), (4, 3, 5)), ((4, 1, 2, 3), (6, 3, 5)), ((4, 2, 3), (4, 3, 1))):
        a, b = elements(field, *left, seed=6), elements(field, *right, seed=7)
        shape = np.broadcast_shapes(left[:-2], right[:-2])
        full = [np.broadcast_to(m, (*shape, *m.shape[-2:])) for m in (a, b)]
        expected = np.empty((*shape, left[-2], right[-1]), object)
        for place in np.ndindex(shape):
            expected[place] = full[0][place].dot(full[1][place])
        assert agrees(Residues.of_integers(field, a) @ Residues.of_integers(field, b), expected)


@every_field
def test_public_matrices_may_be_multiplied(field: PrimeField) -> None:
    a = elements(field, 4, 4)
    assert agrees(Residues.of_integers(field, a) @ np.eye(4, dtype=np.int8), a)
    assert agrees(Residues.of_integers(field, a) @ a, a.dot(a))


# Shape


@every_field
def test_parts_and_shapes_are_those_of_numpy(field: PrimeField) -> None:
    n = elements(field, 4, 3, 5)
    x = Residues.of_integers(field, n)
    indices: list[Any] = [0, -1, slice(1, 3), (slice(None), 2), (..., 0), ([0, 2],), (..., [0, 1], [1, 4])]
    indices += [np.array([3, 0]), (1, 2, 3), (slice(None), None), n[:, 0, 0] % 2 == 0]
    for index in indices:
        assert agrees(x[index], n[index])
    assert len(x) == 4
    assert agrees(x.reshape(6, 10), n.reshape(6, 10)) and agrees(x.reshape(2, -1), n.reshape(2, 30))
    assert agrees(x.ravel(), n.ravel()) and agrees(x.transpose(), n.swapaxes(-1, -2))
    assert agrees(x.broadcast(2, 4, 3, 5), np.broadcast_to(n, (2, 4, 3, 5)))
    assert agrees(x[:, :1].broadcast(4, 6, 5), np.broadcast_to(n[:, :1], (4, 6, 5)))
    for axis in (0, 1, 2, -1, -2, -3):
        assert agrees(x.sum(axis), n.sum(axis))
        assert agrees(concatenate([x, x * 2, -x], axis), np.concatenate((n, n * 2, -n), axis))
    assert agrees(x.sum(), n.sum(-1))
    assert agrees(x[:0].sum(0), np.zeros((3, 5), object))
    assert agrees(stack([x, x * 3]), np.stack((n, n * 3)))


@every_field
@pytest.mark.parametrize("number", [0, 1, -1, 2**64, -(2**300)])
def test_a_public_number_is_placed_where_an_array_is_one(field: PrimeField, number: int) -> None:
    for where in (np.eye(3), np.ones(4, np.int64), np.array([True, False]), np.zeros((2, 2)), np.array(1)):
        assert agrees(placed(field, number, where), where.astype(object).astype(int) * np.array(number, object))


# What is refused


def test_elements_of_two_fields_do_not_mix() -> None:
    x, y = Residues.zeros(FIELD_127, 2, 2), Residues.zeros(FIELD_254, 2, 2)
    for function in (*BINARY.values(), lambda a, b: a @ b):
        with pytest.raises(LocalProtocolError, match="another field"):
            function(x, y)
    same = PrimeField("another name for it", 127, 1)
    assert agrees(x + Residues.zeros(PrimeField(FIELD_127.name, 127, 1), 2, 2), np.zeros((2, 2), object))
    assert same.p == FIELD_127.p
