"""Arithmetic on arrays of field elements, against Python integers."""

from __future__ import annotations

import secrets

import gmpy2
import numpy as np
import pytest

from pipeline.errors import LocalProtocolError, RemoteProtocolError
from pipeline.field import (
    BLAS_LIMB_BITS,
    BLAS_ROWS,
    FIELD_127,
    FIELD_191,
    FIELD_254,
    FOLD_BLOCKS,
    GramAccumulator,
    PrimeField,
    PseudorandomElements,
)

FIELDS = pytest.mark.parametrize("field", [FIELD_127, FIELD_191, FIELD_254], ids=lambda field: field.name)


def edges(field: PrimeField) -> list[int]:
    """Residues at which a carry, a borrow or a fold could go wrong."""
    p, c = field.p, field.c
    words = [(1 << 64 * i) + e for i in range(1, field.words) for e in (-1, 0, 1)]
    limbs = [(1 << w * i) - 1 for w in (22, 29, 32) for i in (1, field.bits // w)]
    near = [0, 1, 2, c - 1, c, c + 1, p - 1, p - 2, p - c, p - c - 1, p // 2, p // 2 + 1, (1 << field.bits - 1)]
    return sorted({x % p for x in words + limbs + near + [-x for x in words + limbs]})


def pairs(field: PrimeField) -> tuple[list[int], list[int]]:
    some = edges(field)
    return [x for x in some for _ in some], [y for _ in some for y in some]


@FIELDS
def test_the_modulus_is_a_prime_that_is_three_modulo_four(field):
    assert gmpy2.is_prime(field.p, 50)
    assert field.p % 4 == 3
    assert (1 << field.bits) - field.c == field.p


def test_fields_take_two_three_and_four_words():
    assert [field.words for field in (FIELD_127, FIELD_191, FIELD_254)] == [2, 3, 4]


@pytest.mark.parametrize(("bits", "c"), [(127, 0), (128, 1), (192, 1), (119, 1), (260, 1), (191, 1 << 14)])
def test_a_field_the_arithmetic_does_not_fit_is_refused(bits, c):
    with pytest.raises(LocalProtocolError):
        PrimeField("unfit", bits, c)


@FIELDS
def test_arithmetic_of_all_pairs_of_edge_cases_is_that_of_the_integers(field):
    x, y = pairs(field)
    a, b, p = field.from_ints(x), field.from_ints(y), field.p
    assert list(field.to_ints(a)) == x
    assert list(field.to_ints(field.add(a, b))) == [(i + j) % p for i, j in zip(x, y, strict=True)]
    assert list(field.to_ints(field.sub(a, b))) == [(i - j) % p for i, j in zip(x, y, strict=True)]
    assert list(field.to_ints(field.mul(a, b))) == [i * j % p for i, j in zip(x, y, strict=True)]
    assert list(field.to_ints(field.neg(a))) == [-i % p for i in x]


@FIELDS
@pytest.mark.parametrize("constant", [0, 1, -1, 2, 3, 1 << 29, -(1 << 64), 1 << 300, "half", "random"])
def test_scaling_by_any_integer_is_multiplication_by_its_residue(field, constant):
    factor = {"half": field.p // 2, "random": secrets.randbelow(field.p)}.get(constant, constant)
    x = edges(field)
    assert list(field.to_ints(field.scale(field.from_ints(x), factor))) == [i * factor % field.p for i in x]


@FIELDS
@pytest.mark.parametrize("divisor", [1, 2, 3, 4, 7, (1 << 16) - 1])
def test_division_by_a_small_number_undoes_multiplication(field, divisor):
    x = edges(field)
    result = field.divide(field.from_ints(x), divisor)
    field.validate(result)
    assert [i * divisor % field.p for i in field.to_ints(result)] == x


@pytest.mark.parametrize("divisor", [0, -1, 1 << 16])
def test_a_divisor_out_of_bounds_is_refused(divisor):
    with pytest.raises(LocalProtocolError):
        FIELD_127.divide(FIELD_127.zeros(1), divisor)


@FIELDS
def test_the_sum_over_rows_is_exact_for_the_largest_elements(field):
    a = np.broadcast_to(field.from_ints(field.p - 1), (70_000, 2, field.words))
    assert list(field.to_ints(field.sum(a))) == [-70_000 % field.p] * 2
    assert list(field.to_ints(field.sum(field.zeros(0, 3)))) == [0] * 3


@FIELDS
def test_shapes_broadcast_and_arguments_stay_as_they_were(field):
    a, b = field.from_ints([[1, 2, 3], [4, 5, 6]]), field.from_ints([10, 20, 30])
    before = a.copy(), b.copy()
    assert field.to_ints(field.add(a, b)).tolist() == [[11, 22, 33], [14, 25, 36]]
    assert field.to_ints(field.sub(b, a), signed=True).tolist() == [[9, 18, 27], [6, 15, 24]]
    assert field.to_ints(field.mul(a, field.from_ints(2))).tolist() == [[2, 4, 6], [8, 10, 12]]
    assert (a == before[0]).all() and (b == before[1]).all()


@FIELDS
def test_an_array_longer_than_the_working_piece_is_treated_alike_throughout(field):
    x = PseudorandomElements(field, bytes(32)).elements(0, 40_000)
    assert (field.sub(field.add(x, x), x) == x).all()
    assert (field.add(x, field.neg(x)) == 0).all()


@FIELDS
def test_empty_arrays_are_allowed(field):
    empty = field.zeros(0, 3)
    assert field.add(empty, empty).shape == field.mul(empty, empty).shape == (0, 3, field.words)
    assert field.from_ints([]).shape == (0, field.words)
    assert field.from_slots(np.zeros((0, 3, 15), np.uint8)).shape == (0, 3, field.words)
    assert field.to_ints(field.matmul(field.zeros(2, 0), field.zeros(0, 2))).tolist() == [[0, 0], [0, 0]]


def test_elements_of_another_field_are_refused():
    with pytest.raises(LocalProtocolError):
        FIELD_127.add(FIELD_127.zeros(2), FIELD_191.zeros(2))
    with pytest.raises(LocalProtocolError):
        FIELD_127.matmul(FIELD_191.zeros(2, 2), FIELD_191.zeros(2, 2))


def test_fractions_do_not_become_elements():
    with pytest.raises(TypeError):
        FIELD_127.from_ints([1.5])


@FIELDS
def test_signed_integers_are_the_residues_nearest_to_zero(field):
    half = field.p // 2
    assert field.to_ints(field.from_ints([-1, 1, half, half + 1]), signed=True).tolist() == [-1, 1, half, -half]


@FIELDS
def test_bytes_are_little_endian_words_in_row_order(field):
    a = field.from_ints([[1, field.p - 1], [2, 0]])
    data = field.to_bytes(a)
    size = field.element_bytes
    assert [int.from_bytes(data[i : i + size], "little") for i in range(0, 4 * size, size)] == [1, field.p - 1, 2, 0]
    assert (field.from_bytes(data, (2, 2)) == a).all()


@FIELDS
def test_foreign_bytes_of_the_wrong_length_are_refused(field):
    data = field.to_bytes(field.zeros(4))
    for wrong in (data[:-1], data + b"\0", b""):
        with pytest.raises(RemoteProtocolError):
            field.from_bytes(wrong, (4,))


@FIELDS
@pytest.mark.parametrize("excess", [0, 1, "power", "all ones"])
def test_a_foreign_element_not_below_the_prime_is_refused_wherever_it_stands(field, excess):
    top = (1 << 64 * field.words) - 1
    number = {"power": 1 << field.bits, "all ones": top}.get(excess, field.p + (excess if excess in (0, 1) else 0))
    array = field.zeros(20_000)
    array[-2] = np.frombuffer(number.to_bytes(field.element_bytes, "little"), "<u8")
    with pytest.raises(RemoteProtocolError, match="party 1 sent a field element that is not below the prime"):
        field.validate(array, "party 1")
    with pytest.raises(RemoteProtocolError):
        field.from_bytes(array.astype("<u8").tobytes(), (20_000,))


@FIELDS
def test_every_element_below_the_prime_is_accepted(field):
    field.validate(field.from_ints(edges(field)))
    field.validate(field.zeros(0, 5))


@pytest.mark.parametrize(
    "array", [np.zeros((2, 3), np.uint64), np.zeros((2, 2), np.int64), np.zeros((), np.uint64)], ids=str
)
def test_foreign_arrays_of_the_wrong_type_are_refused(array):
    with pytest.raises(RemoteProtocolError):
        FIELD_127.validate(array)


@FIELDS
def test_slots_lose_their_offset_and_masks_change_sign(field):
    numbers = [0, 1, (1 << 43) - 1, 1 << 43, (1 << 43) + 1, 1 << 56, (1 << 64) - 1, 1 << 64, (1 << 120) - 1]
    slots = np.array([list(x.to_bytes(15, "little")) for x in numbers], np.uint8).reshape(3, 3, 15)
    assert field.to_ints(field.from_slots(slots), signed=True).ravel().tolist() == [x - (1 << 43) for x in numbers]
    assert field.to_ints(field.from_masks(slots)).ravel().tolist() == [-x % field.p for x in numbers]


@FIELDS
def test_slots_of_a_view_count_as_if_they_were_contiguous(field):
    slots = np.random.default_rng(1).integers(0, 256, (40, 6, 15), np.uint8)
    assert (field.from_slots(slots[::2, 1:4]) == field.from_slots(slots)[::2, 1:4]).all()
    assert (field.from_slots(slots[:, 2]) == field.from_slots(slots)[:, 2]).all()


def test_slots_of_the_wrong_type_are_refused():
    for wrong in (np.zeros((2, 16), np.uint8), np.zeros((2, 15), np.int8)):
        with pytest.raises(LocalProtocolError):
            FIELD_127.from_slots(wrong)


# Pseudorandom elements


@FIELDS
def test_elements_depend_on_key_and_position_alone(field):
    stream = PseudorandomElements(field, b"k" * 32)
    whole = stream.elements(0, 50)
    for first, count in ((0, 1), (1, 1), (7, 20), (49, 1), (3, 0)):
        assert (stream.elements(first, count) == whole[first : first + count]).all()
    assert (PseudorandomElements(field, b"k" * 32).elements(0, 50) == whole).all()
    assert not (PseudorandomElements(field, b"l" * 32).elements(0, 50) == whole).all(-1).any()


def test_elements_are_the_bytes_of_aes_256_in_counter_mode():
    """The zero block under the zero key: H of test case 13 of McGrew and Viega's GCM specification."""
    block = bytes.fromhex("dc95c078a2408989ad48a21492842087")
    expected = (int.from_bytes(block, "little") & ((1 << 127) - 1)) % FIELD_127.p
    assert FIELD_127.to_ints(PseudorandomElements(FIELD_127, bytes(32)).elements(0, 1))[0] == expected


@FIELDS
def test_elements_are_below_the_prime_and_fill_its_range(field):
    elements = PseudorandomElements(field, b"u" * 32).elements(1000, 20_000)
    field.validate(elements)
    top = (elements[:, -1] >> np.uint64(field.bits % 64 - 4)).astype(int)
    counts = np.bincount(top, minlength=16)
    assert len(counts) == 16
    assert ((counts - 1250.0) ** 2 / 1250).sum() < 50  # 15 degrees of freedom; the key is fixed, so is the outcome


@FIELDS
def test_a_draw_between_the_prime_and_the_power_of_two_wraps_around(field):
    """No key that draws one is known: the cut is tried on words."""
    stream = PseudorandomElements(field, bytes(32))
    raw = [field.p - 1, field.p, field.p + field.c - 1, (1 << 64 * field.words) - 1]
    words = np.array([np.frombuffer(x.to_bytes(field.element_bytes, "little"), "<u8") for x in raw])
    assert list(field.to_ints(field._map(stream._cut, words))) == [field.p - 1, 0, field.c - 1, field.c - 1]


def test_a_key_of_another_length_is_refused():
    with pytest.raises(LocalProtocolError):
        PseudorandomElements(FIELD_127, bytes(16))


# Sums of products


def test_the_bounds_of_exactness_hold():
    entry = (1 << BLAS_LIMB_BITS) - 1
    assert BLAS_ROWS * entry**2 < 1 << 53
    for field in (FIELD_127, FIELD_191, FIELD_254):
        limbs = field.limbs(BLAS_LIMB_BITS)
        assert FOLD_BLOCKS * limbs * BLAS_ROWS * entry**2 < 1 << 63
        assert limbs * (BLAS_ROWS // limbs) * entry**2 < 1 << 53


@FIELDS
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 2), (2, 100, 3), (4, 700, 1)])
def test_a_matrix_product_of_the_largest_elements_is_exact(field, shape):
    n, k, m = shape
    ones = (1 << field.bits - 1) - 1  # every limb but the last at its largest
    for x, y in ((field.p - 1, field.p - 1), (ones, ones), (field.p - 1, ones)):
        a, b = field.from_ints(np.full((n, k), x, object)), field.from_ints(np.full((k, m), y, object))
        assert (field.to_ints(field.matmul(a, b)) == k * x * y % field.p).all()


@FIELDS
def test_matrix_products_of_stacks_are_those_of_their_matrices(field):
    stream = PseudorandomElements(field, b"m" * 32)
    a = stream.elements(0, 2 * 3 * 4 * 5).reshape(2, 3, 4, 5, -1)
    b = stream.elements(1000, 3 * 5 * 2).reshape(3, 5, 2, -1)
    product = field.to_ints(field.matmul(a, b))
    assert product.shape == (2, 3, 4, 2)
    x, y = field.to_ints(a), field.to_ints(b)
    for i in range(2):
        for j in range(3):
            assert (product[i, j] == x[i, j].dot(y[j]) % field.p).all()


def test_matrices_that_do_not_fit_are_refused():
    with pytest.raises(LocalProtocolError):
        FIELD_127.matmul(FIELD_127.zeros(2, 3), FIELD_127.zeros(2, 3))


def test_sums_too_long_to_be_exact_are_refused():
    with pytest.raises(LocalProtocolError):
        FIELD_254.matmul(FIELD_254.zeros(0, 1 << 16), FIELD_254.zeros(1 << 16, 0))
    with pytest.raises(LocalProtocolError):
        FIELD_254.sum(FIELD_254.zeros(1 << 31, 0))


def gram_of(field, x):
    z = np.concatenate([np.ones((len(x), 1), object), field.to_ints(x)], axis=1)
    return z.T.dot(z) % field.p


@FIELDS
def test_the_gram_matrix_does_not_depend_on_how_rows_are_cut(field):
    x = PseudorandomElements(field, b"g" * 32).elements(0, 1100 * 3).reshape(1100, 3, -1)
    x[:600] = field.from_ints(field.p - 1)
    expected = gram_of(field, x)
    for cuts in ([], [1], [512, 513], [511, 1024], [600, 600, 1099]):
        accumulator = GramAccumulator(field, 3)
        for part in np.split(x, cuts):
            accumulator.add(part)
        assert (field.to_ints(accumulator.result()) == expected).all()


@FIELDS
def test_the_gram_matrix_stays_exact_over_many_folds(field):
    """Every limb at its largest, through more blocks than are added before a fold."""
    ones = (1 << field.bits - 1) - 1
    rows = np.broadcast_to(field.from_ints(ones), (150 * BLAS_ROWS + 3, 1, field.words))
    accumulator = GramAccumulator(field, 1)
    accumulator.add(rows)
    n, p = len(rows), field.p
    expected = [[n, n * ones % p], [n * ones % p, n * ones**2 % p]]
    assert field.to_ints(accumulator.result()).tolist() == expected


@FIELDS
def test_a_result_may_be_taken_between_rows(field):
    accumulator = GramAccumulator(field, 2)
    assert (accumulator.result() == 0).all()
    first, second = field.from_ints([[1, 2]]), field.from_ints([[3, -4]])
    accumulator.add(first)
    taken = accumulator.result()
    accumulator.add(second)
    assert field.to_ints(taken).tolist() == [[1, 1, 2], [1, 1, 2], [2, 2, 4]]
    assert field.to_ints(accumulator.result(), signed=True).tolist() == [[2, 4, -2], [4, 10, -10], [-2, -10, 20]]


def test_rows_of_the_wrong_shape_are_refused():
    with pytest.raises(LocalProtocolError):
        GramAccumulator(FIELD_127, 2).add(FIELD_127.zeros(5, 3))
    with pytest.raises(LocalProtocolError):
        GramAccumulator(FIELD_127, 2).add(FIELD_191.zeros(5, 2))
