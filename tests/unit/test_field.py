"""Arithmetic on arrays of field elements, against Python integers."""

from __future__ import annotations

from collections import Counter

import gmpy2
import numpy as np
import pytest

from pipeline import field as field_module
from pipeline.errors import LocalProtocolError, RemoteProtocolError
from pipeline.field import (
    BLAS_ROWS,
    FIELD_127,
    FIELD_191,
    FIELD_254,
    FOLD_BLOCKS,
    LIMB_BITS,
    WORD_LIMBS,
    FoldAccumulator,
    GramAccumulator,
    PrimeField,
    PseudorandomElements,
)

FIELDS = pytest.mark.parametrize("field", [FIELD_127, FIELD_191, FIELD_254], ids=lambda field: field.name)


def edges(field: PrimeField) -> list[int]:
    """Residues at which a carry, a borrow or a fold could go wrong."""
    p, c = field.p, field.c
    words = [(1 << 64 * i) + e for i in range(1, field.words) for e in (-1, 0, 1)]
    limbs = [(1 << w * i) - 1 for w in (22, 32) for i in (1, field.bits // w)]
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
def test_sums_of_all_pairs_of_edge_cases_are_those_of_the_integers(field):
    x, y = pairs(field)
    a, b = field.from_ints(x), field.from_ints(y)
    assert list(field.to_ints(a)) == x
    assert list(field.to_ints(field.add(a, b))) == [(i + j) % field.p for i, j in zip(x, y, strict=True)]


@FIELDS
@pytest.mark.parametrize(("x", "points"), [(1, (2, 3)), (2, (1, 3)), (3, (1, 2)), (2, (3,)), (3, (1,))])
def test_points_of_a_line_are_those_through_its_value_at_zero_and_another(field, x, points):
    starts, ends = pairs(field)
    results = field.line(field.from_ints(starts), field.from_ints(ends), x, points)
    for point, result in zip(points, results, strict=True):
        field.validate(result)
        found = field.to_ints(result)
        assert all((x * (f - s) - point * (e - s)) % field.p == 0 for s, e, f in zip(starts, ends, found, strict=True))


@pytest.mark.parametrize(("x", "points"), [(0, (1, 2)), (4, (1, 2)), (1, (1, 2)), (1, (3, 3)), (2, (0, 1))])
def test_a_line_has_no_other_points_than_one_two_and_three(x, points):
    with pytest.raises(LocalProtocolError):
        FIELD_127.line(FIELD_127.zeros(2), FIELD_127.zeros(2), x, points)


@FIELDS
def test_a_planar_array_counts_as_any_other(field):
    a = PseudorandomElements(field, bytes(32)).elements(0, 20_000).reshape(5000, 4, -1)
    plain = np.ascontiguousarray(a)
    assert a.strides != plain.strides and field.planar(5, 3).shape == (5, 3, field.words)
    assert (field.add(a, a) == field.add(plain, plain)).all()
    assert (field.line(a, plain[::-1], 3, (1, 2))[1] == field.line(plain, a[::-1], 3, (1, 2))[1]).all()
    assert (field.to_ints(a) == field.to_ints(plain)).all()
    field.validate(a)


@FIELDS
def test_arguments_stay_as_they_were(field):
    a, b = field.from_ints([[1, 2, 3], [4, 5, 6]]), field.from_ints([[field.p - 1] * 3, [0, 1, 2]])
    before = a.copy(), b.copy()
    field.add(a, b)
    for x in (1, 2, 3):
        field.line(a, b, x, sorted({1, 2, 3} - {x}))
    assert (a == before[0]).all() and (b == before[1]).all()


@FIELDS
def test_an_array_longer_than_the_working_piece_is_treated_alike_throughout(field):
    x = PseudorandomElements(field, bytes(32)).elements(0, 40_000)
    (twice,) = field.line(field.zeros(40_000), x, 1, (2,))
    total = field.add(x, x)
    assert (total == twice).all()
    for part in (slice(97), slice(16_300, 16_400), slice(39_999, None)):
        assert (field.add(x[part], x[part]) == total[part]).all()


@FIELDS
def test_empty_arrays_are_allowed(field):
    empty = field.zeros(0, 3)
    assert field.add(empty, empty).shape == (0, 3, field.words)
    assert [part.shape for part in field.line(empty, empty, 1, (2, 3))] == [(0, 3, field.words)] * 2
    assert field.from_ints([]).shape == (0, field.words)
    assert field.from_slots(np.zeros((0, 3, 15), np.uint8)).shape == (0, 3, field.words)


def test_elements_of_another_field_or_in_another_shape_are_refused():
    own = FIELD_127.zeros(2)
    for a, b in ((own, FIELD_191.zeros(2)), (FIELD_191.zeros(2), FIELD_191.zeros(2)), (own, FIELD_127.zeros(1))):
        with pytest.raises(LocalProtocolError):
            FIELD_127.add(a, b)
        with pytest.raises(LocalProtocolError):
            FIELD_127.line(a, b, 1, (2, 3))


def test_fractions_do_not_become_elements():
    with pytest.raises(TypeError):
        FIELD_127.from_ints([1.5])


@FIELDS
def test_signed_integers_are_the_residues_nearest_to_zero(field):
    half = field.p // 2
    assert field.to_ints(field.from_ints([-1, 1, half, half + 1]), signed=True).tolist() == [-1, 1, half, -half]


@FIELDS
def test_the_lowest_word_comes_first(field):
    numbers = [1, field.p - 1, 1 << 64, 0]
    words = field.from_ints(numbers).tolist()
    assert [sum(word << 64 * i for i, word in enumerate(row)) for row in words] == numbers


@FIELDS
@pytest.mark.parametrize("excess", [0, 1, "power", "all ones"])
def test_a_foreign_element_not_below_the_prime_is_refused_wherever_it_stands(field, excess):
    top = (1 << 64 * field.words) - 1
    number = {"power": 1 << field.bits, "all ones": top}.get(excess, field.p + (excess if excess in (0, 1) else 0))
    array = field.zeros(20_000)
    array[-2] = np.frombuffer(number.to_bytes(field.element_bytes, "little"), "<u8")
    with pytest.raises(RemoteProtocolError, match="party 1 sent a field element that is not below the prime"):
        field.validate(array, "party 1")


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


@FIELDS
@pytest.mark.parametrize("first", [0, 1])
def test_a_long_run_of_elements_is_made_of_its_parts(field, first):
    stream = PseudorandomElements(field, b"k" * 32)
    whole = stream.elements(first, 40_000)
    assert all((stream.elements(first + i, 97) == whole[i : i + 97]).all() for i in range(0, 39_900, 1_330))


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
    stream._cut([words[:, i] for i in range(field.words)])
    assert list(field.to_ints(words)) == [field.p - 1, 0, field.c - 1, field.c - 1]


def test_a_key_of_another_length_is_refused():
    with pytest.raises(LocalProtocolError):
        PseudorandomElements(FIELD_127, bytes(16))


# Sums of products


def test_the_bounds_of_exactness_hold():
    entry = (1 << LIMB_BITS) - 1
    assert BLAS_ROWS * entry**2 < 1 << 53
    assert max(bits for _, bits in WORD_LIMBS) == LIMB_BITS
    assert [shift for shift, _ in WORD_LIMBS] == [0, *np.cumsum([bits for _, bits in WORD_LIMBS])[:-1]]
    assert sum(bits for _, bits in WORD_LIMBS) == 64
    assert FOLD_BLOCKS * BLAS_ROWS * entry**2 < 1 << 59 < 1 << 3 * LIMB_BITS
    for words in (2, 3, 4):  # of those sums, as many as have one place are added up before they are cut into digits
        lefts = [64 * word + shift for shift, _ in WORD_LIMBS for word in range(words)]
        assert max(Counter(k + m for k in lefts for m in lefts).values()) * (1 << 59) < 1 << 63
    for field in (FIELD_127, FIELD_191, FIELD_254):
        assert (len(WORD_LIMBS) * field.words) ** 2 * entry << LIMB_BITS < 1 << 63  # digits added up in a column


def gram_of(field, x, y):
    total = field.to_ints(x) + field.to_ints(y)
    z = np.concatenate([np.ones((len(x), 1), object), total], axis=1)
    return z.T.dot(z) % field.p


@FIELDS
def test_the_gram_matrix_does_not_depend_on_how_rows_are_cut(field):
    x, y = PseudorandomElements(field, b"g" * 32).elements(0, 2 * 1100 * 3).reshape(2, 1100, 3, -1)
    x[:600] = y[:400] = field.from_ints(field.p - 1)
    expected = gram_of(field, x, y)
    for cuts in ([], [1], [512, 513], [511, 1024], [600, 600, 1099]):
        accumulator = GramAccumulator(field, 3)
        for rows, others in zip(np.split(x, cuts), np.split(y, cuts), strict=True):
            accumulator.add_sum(rows, others)
        assert (field.to_ints(accumulator.result()) == expected).all()


@FIELDS
@pytest.mark.parametrize("twice", [False, True])
def test_the_gram_matrix_stays_exact_over_many_folds(field, twice):
    """Limbs at their largest, or next to it in sums, through more blocks than are added before a fold."""
    ones = (1 << field.bits - 1) - 1
    rows = np.broadcast_to(field.from_ints(ones), (150 * BLAS_ROWS + 3, 1, field.words))
    accumulator = GramAccumulator(field, 1)
    accumulator.add_sum(rows, rows if twice else np.zeros_like(rows))
    n, p, entry = len(rows), field.p, 2 * ones if twice else ones
    expected = [[n, n * entry % p], [n * entry % p, n * entry**2 % p]]
    assert field.to_ints(accumulator.result()).tolist() == expected


@FIELDS
def test_the_gram_matrix_of_sums_is_exact_where_they_exceed_the_prime(field):
    """From 0 to 2p - 2, with carries from word to word, over parts that do not fill blocks."""
    some = [field.p - 1, *edges(field)]
    count = 3 * BLAS_ROWS + 5
    x, y = (field.from_ints([[some[(i * k + j) % len(some)] for j in (0, 1)] for i in range(count)]) for k in (1, 3))
    x[:BLAS_ROWS], y[:BLAS_ROWS] = field.from_ints(field.p - 1), field.from_ints(field.p - 1)
    accumulator = GramAccumulator(field, 2)
    for piece in (slice(0, 700), slice(700, 701), slice(701, count)):
        accumulator.add_sum(x[piece], y[piece])
    assert (field.to_ints(accumulator.result()) == gram_of(field, x, y)).all()


@FIELDS
def test_entries_of_the_gram_matrix_next_to_the_prime_and_the_power_of_two_are_reduced(field):
    x = field.from_ints([[field.p - 1] * 7])
    y = field.from_ints([[0, 1, 2, field.c, field.c + 1, field.c + 2, field.p - 1]])
    accumulator, none = GramAccumulator(field, 7), field.zeros(1, 7)
    accumulator.add_sum(x, none)
    before = accumulator.result()  # p - 1 beside the ones, to which the next result is added
    accumulator.add_sum(x, y)
    field.validate(accumulator.result())
    expected = (gram_of(field, x, none) + gram_of(field, x, y)) % field.p
    assert (field.to_ints(before) == gram_of(field, x, none)).all()
    assert (field.to_ints(accumulator.result()) == expected).all()


@FIELDS
def test_a_result_may_be_taken_between_rows(field):
    accumulator, none = GramAccumulator(field, 2), field.zeros(1, 2)
    assert (accumulator.result() == 0).all()
    first, second = field.from_ints([[1, 2]]), field.from_ints([[3, -4]])
    accumulator.add_sum(first, none)
    taken = accumulator.result()
    accumulator.add_sum(none, second)
    assert field.to_ints(taken).tolist() == [[1, 1, 2], [1, 1, 2], [2, 2, 4]]
    assert field.to_ints(accumulator.result(), signed=True).tolist() == [[2, 4, -2], [4, 10, -10], [-2, -10, 20]]


@FIELDS
@pytest.mark.parametrize("folds", [1, 2, 3, 10])
@pytest.mark.parametrize("together", [1, 2, 10], ids="{} at once".format)
def test_every_fold_has_the_gram_matrix_of_its_own_rows(monkeypatch, field, folds, together):
    """Row i in fold i modulo K, over blocks, parts that do not fill them, and sums of fewer folds than there are."""
    monkeypatch.setattr(field_module, "BLAS_ROWS", 16)
    monkeypatch.setattr(field_module, "FOLD_SUMS", together * (1 + 3 * 2 * field.words) ** 2)
    x, y = PseudorandomElements(field, b"f" * 32).elements(0, 2 * 371 * 2).reshape(2, 371, 2, -1)
    x[:90] = y[:60] = field.from_ints(field.p - 1)
    expected = [gram_of(field, x[fold::folds], y[fold::folds]) for fold in range(folds)]
    for cuts in ([], [1], [folds * 16, 2 * folds * 16], [100, 107, 370]):
        accumulator = FoldAccumulator(field, 2, folds)
        for rows, others in zip(np.split(x, cuts), np.split(y, cuts), strict=True):
            accumulator.add_sum(rows, others)
        assert (field.to_ints(accumulator.result()) == expected).all()


@FIELDS
def test_gram_matrices_of_folds_stay_exact_over_more_blocks_than_are_added_before_they_are_reduced(field):
    largest = (1 << field.bits - 1) - 1
    rows = np.broadcast_to(field.from_ints(largest), (2 * BLAS_ROWS * (2 * FOLD_BLOCKS + 3) + 1, 1, field.words))
    accumulator = FoldAccumulator(field, 1, 2)
    accumulator.add_sum(rows, np.zeros_like(rows))
    p, sizes = field.p, (len(rows) // 2 + 1, len(rows) // 2)
    expected = [[[n, n * largest % p], [n * largest % p, n * largest**2 % p]] for n in sizes]
    assert field.to_ints(accumulator.result()).tolist() == expected


def test_a_result_of_folds_taken_between_rows_leaves_every_row_in_its_fold():
    x, none = FIELD_127.from_ints([[value] for value in range(1, 8)]), FIELD_127.zeros(7, 1)
    accumulator = FoldAccumulator(FIELD_127, 1, 3)
    accumulator.add_sum(x[:4], none[:4])
    taken = accumulator.result()
    accumulator.add_sum(x[4:], none[4:])
    assert FIELD_127.to_ints(taken)[:, 0, 1].tolist() == [1 + 4, 2, 3]
    assert FIELD_127.to_ints(accumulator.result())[:, 0, 1].tolist() == [1 + 4 + 7, 2 + 5, 3 + 6]
    assert FIELD_127.to_ints(taken)[:, 0, 1].tolist() == [1 + 4, 2, 3]


def test_rows_of_the_wrong_shape_are_refused():
    rows = FIELD_127.zeros(5, 2)
    for wrong in (FIELD_127.zeros(4, 2), FIELD_127.zeros(5, 3), FIELD_191.zeros(5, 2)):
        for pair in ((rows, wrong), (wrong, rows)):
            with pytest.raises(LocalProtocolError):
                GramAccumulator(FIELD_127, 2).add_sum(*pair)
            with pytest.raises(LocalProtocolError):
                FoldAccumulator(FIELD_127, 2, 2).add_sum(*pair)
    for wrong in (FIELD_127.zeros(5, 3), FIELD_191.zeros(5, 2)):
        with pytest.raises(LocalProtocolError):
            GramAccumulator(FIELD_127, 2).add_sum(wrong, wrong)
