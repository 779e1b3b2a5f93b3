"""The protocols on shares, played by three parties in one process.

Keys are drawn anew in each run. The statistical bounds are so far away that
chance exceeds any of them less than once in 10^9 runs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from memory_links import play
from sharing_numbers import dealt, opened

from pipeline.errors import LocalProtocolError, RemoteProtocolError
from pipeline.field import FIELD_127, FIELD_191, FIELD_254, PrimeField
from pipeline.masks import OUTSIDE, PAIRS, RECOMBINE, SMALL_PRIME, Tape, _bits, pieces
from pipeline.mpc_runtime import Runtime, Shares
from pipeline.primitives import HELPER, HOLDERS, Arithmetic, fixed, symmetric
from pipeline.residues import Residues, element_bytes

K = 60  # statistical bits
P = FIELD_254.p
NUMBERS = [0, 1, -1, 2, -2, 12345, -12345, 2**80, -(2**80), 2**100 - 1, -(2**100) + 1]
SMALLER = [0, 1, -1, 2, -2, 12345, -12345, 2**50, -(2**50), 2**62 - 1, -(2**62) + 1]
pytestmark = pytest.mark.usefixtures("either_arithmetic")
every_field = pytest.mark.parametrize("field", [FIELD_127, FIELD_191, FIELD_254], ids=lambda field: field.name)

Operation = Callable[[Arithmetic, Shares], Awaitable[Shares]]


def compute(
    function: Operation, values: Any, degree: int = 1, field: PrimeField = FIELD_254, to: PrimeField | None = None
) -> Any:
    """The numbers that come out where all three parties apply a function to shares of `values`."""

    async def party(runtime: Runtime) -> Any:
        mpc = Arithmetic(runtime, field, K)
        return (await function(mpc, dealt(values, runtime.pid, degree, field))).integers()

    return opened(play(party), to or field)


def uniform(numbers: Any, modulus: int) -> bool:
    """Whether residues look uniform: by Bernstein's inequality, a count is off by more once in 10^17 times."""
    counts = np.bincount([int(x) % modulus for x in numbers], minlength=modulus)
    expected, log_odds = len(numbers) / modulus, 40
    off = log_odds / 3 + ((log_odds / 3) ** 2 + 2 * log_odds * expected * (1 - 1 / modulus)) ** 0.5
    return bool(np.abs(counts - expected).max() < off)


def uniform_below(numbers: Any, bound: int) -> bool:
    """Whether numbers look uniform below a large bound, by their highest and their lowest bits."""
    assert all(0 <= x < bound for x in numbers)
    return uniform([x * 16 // bound for x in numbers], 16) and uniform(numbers, 16) and uniform(numbers, 3)


def watch(runtime: Runtime, views: dict[str, dict[int, bytes]]) -> None:
    """Keep what arrives at this party, by operation and sender."""
    exchange = runtime.exchange

    async def watched(operation: str, *arguments: Any) -> dict[int, bytes]:
        arrived = await exchange(operation, *arguments)
        views.setdefault(operation, {}).update(arrived)
        return arrived

    runtime.exchange = watched  # type: ignore[method-assign]


def views_of(function: Operation, values: Any, field: PrimeField = FIELD_254) -> list[dict[str, dict[int, bytes]]]:
    """What each party receives in an operation."""
    views: list[dict[str, dict[int, bytes]]] = [{}, {}, {}]

    async def party(runtime: Runtime) -> None:
        watch(runtime, views[runtime.pid])
        await function(Arithmetic(runtime, field, K), dealt(values, runtime.pid, 1, field))

    play(party)
    return views


# Multiplication and truncation


@every_field
@pytest.mark.parametrize("degree", [1, 2])
def test_reduction_changes_the_shares_and_not_the_numbers(field: PrimeField, degree: int) -> None:
    changed = []

    async def reduce(mpc: Arithmetic, x: Shares) -> Shares:
        result = await mpc.reduce(x)
        changed.append(bool((result.integers() != x.integers()).all()))
        return result

    assert compute(reduce, NUMBERS, degree, field).tolist() == NUMBERS
    assert changed == [True] * 3


def test_reduction_keeps_the_shape() -> None:
    numbers = np.array(NUMBERS[:6], dtype=object).reshape(1, 2, 3)
    assert np.array_equal(compute(lambda mpc, x: mpc.reduce(x), numbers, 2), numbers)


@pytest.mark.parametrize("degree", [1, 2])
@pytest.mark.parametrize("shift", [1, 2, 13, 24, 48, 60])
@pytest.mark.parametrize(("field", "numbers", "bits"), [(FIELD_254, NUMBERS, 102), (FIELD_127, SMALLER, 64)])
def test_truncation_is_wrong_by_less_than_four_units_and_by_none_on_average(
    field: PrimeField, numbers: list[int], bits: int, shift: int, degree: int
) -> None:
    found = compute(lambda mpc, x: mpc.truncate(x, shift, bits), numbers * 100, degree, field)
    errors = [((int(a) << shift) - b) / 2**shift for a, b in zip(found, numbers * 100, strict=True)]
    assert all(-4 < e < 4 for e in errors)
    assert abs(np.mean(errors) + 2.0**-shift) < 0.3  # its standard deviation is 0.04


def test_a_product_is_truncated_in_one_go() -> None:
    async def square(mpc: Arithmetic, x: Shares) -> Shares:
        return await mpc.product(x, x, 40, 102)

    numbers = [0, 1 << 50, -(1 << 50), 3 << 48]
    found = compute(square, numbers)
    assert all(abs(int(a) - b * b / 2**40) < 4 for a, b in zip(found, numbers, strict=True))


CONVERSIONS = [
    (FIELD_127, FIELD_254, SMALLER, 64),
    (FIELD_127, FIELD_191, SMALLER, 64),
    (FIELD_254, FIELD_127, SMALLER, 64),
    (FIELD_191, FIELD_254, NUMBERS, 102),
    (FIELD_254, FIELD_191, NUMBERS, 102),
]


@pytest.mark.parametrize("degree", [1, 2])
@pytest.mark.parametrize(("source", "target", "numbers", "bits"), CONVERSIONS)
def test_numbers_move_exactly_to_another_field(
    source: PrimeField, target: PrimeField, numbers: list[int], bits: int, degree: int
) -> None:
    found = compute(lambda mpc, x: mpc.convert(x, mpc.over(target), 0, bits), numbers * 10, degree, source, target)
    assert found.tolist() == numbers * 10


@pytest.mark.parametrize("shift", [1, 10, 31])
@pytest.mark.parametrize(("source", "target", "numbers", "bits"), CONVERSIONS)
def test_numbers_may_be_truncated_on_their_way_to_another_field(
    source: PrimeField, target: PrimeField, numbers: list[int], bits: int, shift: int
) -> None:
    def convert(mpc: Arithmetic, x: Shares) -> Awaitable[Shares]:
        return mpc.convert(x.reshape(len(numbers), 100), mpc.over(target), shift, bits)

    found = compute(convert, np.repeat(numbers, 100), 1, source, target)
    assert found.shape == (len(numbers), 100)
    errors = [((int(a) << shift) - b) / 2**shift for a, b in zip(found.ravel(), np.repeat(numbers, 100), strict=True)]
    assert all(-4 < e < 4 for e in errors) and abs(np.mean(errors) + 2.0**-shift) < 0.3


@pytest.mark.parametrize("target", [FIELD_191, FIELD_254], ids=lambda field: field.name)
def test_lifting_is_exact_up_to_half_the_prime(target: PrimeField) -> None:
    """Which also means for either order of the mask and the masked number, and for either coin."""
    half = FIELD_127.p // 2
    numbers = [0, 1, -1, half, -half, half - 1, 1 - half, half // 2, -half // 2, 2**86, -(2**86)] * 20
    for degree in (1, 2):
        found = compute(lambda mpc, x: mpc.lift(x, mpc.over(target)), numbers, degree, FIELD_127, target)
        assert found.tolist() == numbers


def test_lifting_keeps_the_shape_and_goes_from_the_middle_field_too() -> None:
    half = FIELD_191.p // 2
    numbers = np.array([[half, -half, 0], [1, -1, 2**180]], dtype=object)
    found = compute(lambda mpc, x: mpc.lift(x, mpc.over(FIELD_254)), numbers, 1, FIELD_191, FIELD_254)
    assert np.array_equal(found, numbers)


# Comparison

COMPARISONS = [(FIELD_254, 103), (FIELD_254, 130), (FIELD_254, 180), (FIELD_127, 64), (FIELD_191, 103)]


@pytest.mark.parametrize("degree", [1, 2])
@pytest.mark.parametrize(("field", "bits"), COMPARISONS)
def test_comparison_with_zero_is_exact_up_to_the_bounds(field: PrimeField, bits: int, degree: int) -> None:
    edge = 2 ** (bits - 1)
    numbers = [*(x for x in NUMBERS if abs(x) < edge), edge - 1, -edge, -edge + 1, edge // 2, 1 - edge // 2] * 20
    found = compute(lambda mpc, x: mpc.nonnegative(x, bits), numbers, degree, field)
    assert found.tolist() == [int(v >= 0) for v in numbers]


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_all_numbers_of_few_bits_are_compared_rightly(bits: int) -> None:
    numbers = list(range(-(2 ** (bits - 1)), 2 ** (bits - 1))) * 10
    found = compute(lambda mpc, x: mpc.nonnegative(x, bits), numbers)
    assert found.tolist() == [int(v >= 0) for v in numbers]


def test_products_are_compared_without_bringing_them_to_degree_one() -> None:
    async def both_signs(mpc: Arithmetic, x: Shares) -> Shares:
        return await mpc.nonnegative(x * x[::-1], 100)

    numbers = [3, -(2**40), 0, 2**48, -1, 5]
    expected = [int(a * b >= 0) for a, b in zip(numbers, numbers[::-1], strict=True)]
    assert compute(both_signs, numbers).tolist() == expected


def test_comparison_keeps_the_shape() -> None:
    numbers = [[1, -1, 0], [-5, 5, -7]]
    assert compute(lambda mpc, x: mpc.nonnegative(x, 40), numbers).tolist() == [[1, 0, 1], [0, 1, 0]]


def test_a_product_with_the_bit_may_be_prepared_while_it_is_compared() -> None:
    """The holders' bit is there from the first round on."""
    rounds = []

    async def relu(mpc: Arithmetic, x: Shares) -> Shares:
        comparison = mpc.comparison(x.size, 60)

        async def known() -> Shares:
            doubled = await mpc.truncate(x << 11, 10, 80)  # the bit is waited for by nothing
            return await mpc.reduce(comparison.holders_bit * doubled), doubled

        _, (product, doubled) = await mpc.together(comparison.run(x), known())
        result = await mpc.reduce(comparison.times(doubled, product))
        rounds.append(mpc.runtime.rounds)
        return result

    numbers = [5000, -5000, 2**40, -(2**40)] * 30
    found = compute(relu, numbers)
    assert all(abs(int(a) - 2 * max(b, 0)) < 4 for a, b in zip(found, numbers, strict=True))
    assert all(a == 0 for a, b in zip(found, numbers, strict=True) if b < 0)
    assert rounds == [5] * 3


def test_messages_may_arrive_byte_by_byte() -> None:
    async def party(runtime: Runtime) -> Any:
        mpc = Arithmetic(runtime, FIELD_254, K)
        x = dealt([5, -5], runtime.pid)
        bits, product = await mpc.together(mpc.nonnegative(x, 20), mpc.reduce(x * x))
        return mpc.concatenate(bits, product).integers()

    assert opened(play(party, piece=1)).tolist() == [1, 0, 25, 25]


# Openings


@pytest.mark.parametrize(("number", "expected"), [(0, True), (1, False), (-1, False), (2**200, False)])
def test_only_zero_is_zero(number: int, expected: bool) -> None:
    async def party(runtime: Runtime) -> tuple[bool, list[str]]:
        mpc = Arithmetic(runtime, FIELD_254, K)
        return await mpc.is_zero("conditions hold", dealt([number], runtime.pid)), runtime.opened

    assert play(party) == [(expected, ["conditions hold"])] * 3


def test_a_test_for_zero_that_is_not_listed_is_refused() -> None:
    async def party(runtime: Runtime) -> None:
        await Arithmetic(runtime, FIELD_254, K).is_zero("slopes", dealt([0], runtime.pid))

    with pytest.raises(LocalProtocolError, match="must not be opened"):
        play(party)


@pytest.mark.parametrize("number", [1, 2**100])
def test_a_test_for_zero_opens_a_uniform_number(number: int) -> None:
    seen: list[int] = []

    class Watching(Arithmetic):
        async def _open(self, operation: str, x: Shares) -> Shares:
            result = await super()._open(operation, x)
            if self.runtime.pid == 0:
                seen.append(int(result.integers()[0]))
            return result

    async def party(runtime: Runtime) -> None:
        mpc = Watching(runtime, FIELD_254, K)
        for _ in range(1000):
            assert not await mpc.is_zero("conditions hold", dealt([number], runtime.pid))

    play(party)
    assert uniform_below(seen, P)


def test_a_number_without_room_for_its_mask_is_refused() -> None:
    async def party(runtime: Runtime) -> None:
        mpc = Arithmetic(runtime, FIELD_254, K)
        x = dealt([1], runtime.pid)
        bits = 254 - 1 - 2 - K
        await mpc.truncate(x, 3, bits)
        await mpc.nonnegative(x, bits)
        narrow = mpc.over(FIELD_127)
        y = dealt([1], runtime.pid, field=FIELD_127)
        await narrow.convert(y, mpc, 0, 64)
        attempts = mpc.truncate(x, 3, bits + 1), mpc.nonnegative(x, bits + 1), narrow.convert(y, mpc, 0, 65)
        for operation in attempts:
            with pytest.raises(LocalProtocolError, match="mask"):
                await operation
        with pytest.raises(LocalProtocolError, match="mask"):
            narrow.comparison(1, 65)

    play(party)


def test_a_number_that_does_not_fit_the_other_field_is_refused() -> None:
    async def party(runtime: Runtime) -> None:
        mpc = Arithmetic(runtime, FIELD_254, K)
        x = dealt([1], runtime.pid)
        await mpc.convert(x, mpc.over(FIELD_127), 79, 160)
        with pytest.raises(LocalProtocolError, match="fit"):
            await mpc.convert(x, mpc.over(FIELD_127), 78, 160)

    play(party)


def test_a_field_of_more_bits_than_the_small_prime_can_count_is_not_lifted() -> None:
    async def party(runtime: Runtime) -> None:
        mpc = Arithmetic(runtime, FIELD_254, K)
        with pytest.raises(LocalProtocolError, match="too many bits"):
            await mpc.lift(dealt([1], runtime.pid), mpc)

    play(party)


def test_masked_openings_and_rounds_are_counted_over_all_fields() -> None:
    async def party(runtime: Runtime) -> tuple[int, list[int]]:
        mpc = Arithmetic(runtime, FIELD_254, K)
        narrow = mpc.over(FIELD_127)
        x, y = dealt([1] * 7, runtime.pid), dealt([1] * 5, runtime.pid, field=FIELD_127)
        rounds = []
        for operation in (
            mpc.reduce(x),
            mpc.truncate(x, 3, 20),
            mpc.nonnegative(x, 20),
            narrow.convert(y, mpc, 0, 20),
            narrow.lift(y, mpc),
        ):
            before = runtime.rounds
            await operation
            rounds.append(runtime.rounds - before)
        return mpc.opened.masked, rounds

    assert play(party) == [(7 + 7 + 5, [1, 1, 5, 1, 5])] * 3


@pytest.mark.parametrize("wrong", ["not below p", "too long"])
def test_a_share_that_is_no_field_element_ends_the_operation(wrong: str) -> None:
    class Cheating(Arithmetic):
        async def _send_all(self, operation: str, payload: bytes) -> dict[int, bytes]:
            wrong_one = self.field.p.to_bytes(32, "little") + bytes(0 if wrong == "not below p" else 1)
            sizes = dict.fromkeys(self._peers, element_bytes(self.field))
            return await self.runtime.exchange(operation, dict.fromkeys(self._peers, wrong_one), sizes)

    async def party(runtime: Runtime) -> None:
        kind = Cheating if runtime.pid == 0 else Arithmetic
        await kind(runtime, FIELD_254, K).reduce(dealt([3], runtime.pid))

    with pytest.raises(RemoteProtocolError):
        play(party)


# What parties see


class Noting(Arithmetic):
    """Keeps the numbers that are opened, and a copy of each tape of the pairs this party is in."""

    opened_numbers: list[int]
    copies: dict[tuple[int, int], Tape]

    async def _send_all(self, operation: str, payload: bytes) -> dict[int, bytes]:
        arrived = await super()._send_all(operation, payload)
        shares = {self._me: payload, **arrived}
        rows = [
            [RECOMBINE[i] * int.from_bytes(data[k : k + 32], "little") for k in range(0, len(data), 32)]
            for i, data in shares.items()
        ]
        self.opened_numbers = [sum(parts) % P for parts in zip(*rows, strict=True)]
        return arrived

    def _tape(self, operation: str, pair: tuple[int, int]) -> Tape:
        self.copies = {} if not hasattr(self, "copies") else self.copies
        key = self.runtime.key_of(operation, self.field.name, pair)
        self.copies[pair] = Tape(self.field, pair, key)
        return Tape(self.field, pair, key)

    def own_parts(self, count: int, bits: int, *, elements: bool) -> Any:
        """The sum of what the pairs have drawn for masks, as integers."""
        total: Any = 0
        for pair, tape in self.copies.items():
            parts = []
            for piece in pieces(count) if elements else [slice(0, count)]:
                parts.append((tape.integers(piece.stop - piece.start, bits)[0] * OUTSIDE[pair]).integers())
                if elements:
                    tape.elements(piece.stop - piece.start)
            total = total + np.concatenate(parts)
        return total


@pytest.mark.parametrize("number", [0, 1, 5, 2**39, -(2**39)])
def test_what_is_opened_under_a_mask_has_nothing_to_do_with_the_number(number: int) -> None:
    """With the own parts taken off, the rest is a uniform number; also its last bits, and modulo 3: a mask that is a
    multiple of 2 or of 3 would tell the number's.
    """
    count, bits, shift = 6000, 42, 5

    async def party(runtime: Runtime) -> tuple[list[int], list[int]]:
        mpc = Noting(runtime, FIELD_254, K)
        await mpc.truncate(dealt([number] * count, runtime.pid), shift, bits)
        assert set(mpc.copies) == {pair for pair in PAIRS if runtime.pid in pair}
        own = mpc.own_parts(count, bits + K, elements=True)
        return mpc.opened_numbers, [int(c) for c in mpc.opened_numbers - own]

    for pid, (numbers, left) in enumerate(play(party)):
        total = np.array([x / 2.0 ** (bits + K) for x in numbers])
        assert 0 < total.min() and total.max() < 3.5 + 2.0**-50
        assert abs(total.mean() - 1.75) < 0.06  # its standard deviation is 0.008
        centre = number + (1 << bits - 1) + (1 << shift - 1)
        size = (3 if pid == 2 else 2) << bits + K - 1
        assert size >= 1 << bits + K
        assert uniform_below([x - centre for x in left], size)
        for modulus in (2, 3, 6, 32):
            assert uniform(left, modulus)


def test_the_parts_of_a_noise_are_uniform_in_their_last_bits_and_modulo_three() -> None:
    async def party(runtime: Runtime) -> tuple[Any, Any]:
        mpc = Noting(runtime, FIELD_254, K)
        shares = mpc.noise(6000, 30, "test").integers()
        return shares, mpc.own_parts(6000, 30, elements=False)

    found = play(party)
    noise = opened([shares for shares, _ in found])
    for pid, (_, own) in enumerate(found):
        left = [int(x) + (7 << 28) - int(y) for x, y in zip(noise, own, strict=True)]
        assert uniform_below(left, (3 if pid == 2 else 2) << 29)
        assert uniform(left, 2) and uniform(left, 3)


def test_a_shared_zero_of_degree_two_hides_the_factors_of_a_product() -> None:
    """Without it, the highest coefficient of what is opened would be the product of the factors' own, each time."""

    async def sent_shares(runtime: Runtime) -> list[int]:
        mpc = Arithmetic(runtime, FIELD_254, K)
        x = dealt([3], runtime.pid)
        shares = []
        for operation in ("reduce", "truncate") * 2:
            await (mpc.reduce(x * x) if operation == "reduce" else mpc.truncate(x * x, 1, 20))
            message = runtime._exchanges[(runtime.pid + 1) % 3]._link.sent[-1]  # type: ignore[attr-defined]
            shares.append(int.from_bytes(message[-32:], "little"))
        return shares

    by_party = play(sent_shares)
    highest = [(a - 2 * b + c) * pow(2, -1, P) % P for a, b, c in zip(*by_party, strict=True)]
    slope = int(dealt([0], 0).integers()[0])
    assert len(set(highest)) == 4 and not {0, slope**2 % P} & set(highest)


def test_a_shared_zero_of_degree_two_hides_the_sharing_of_what_is_tested_for_zero() -> None:
    """Without it, what is opened would be 0 wherever the line of x is: its root would tell x divided by its slope."""

    async def sent_share(runtime: Runtime) -> int:
        mpc = Arithmetic(runtime, FIELD_254, K)
        await mpc.is_zero("conditions hold", dealt([3], runtime.pid))
        message = runtime._exchanges[(runtime.pid + 1) % 3]._link.sent[-1]  # type: ignore[attr-defined]
        return int.from_bytes(message[-32:], "little")

    first, second, third = play(sent_share)
    root = -3 * pow(int(dealt([0], 0).integers()[0]), -1, P)
    square = (first - 2 * second + third) * pow(2, -1, P)
    at_root = first + (second - first) * (root - 1) + square * (root - 1) * (root - 2)
    assert at_root % P != 0


def masked_numbers(views: dict[str, dict[int, bytes]], x: Residues, constant: int = 0) -> list[int]:
    """c, as the helper computes it from what the holders send and its own share of x."""
    parts = [Residues.received(x.field, data, x.shape) for data in views["compare"].values()]
    return [int(c) for c in (parts[0] + parts[1] + x + constant).integers()]


def places_of_zeros(views: dict[str, dict[int, bytes]], count: int, columns: int) -> Any:
    first, second = (
        np.frombuffer(data, np.uint8).reshape(count, columns).astype(int) for data in views["compare found"].values()
    )
    return (first + second) % SMALL_PRIME


def looks_like_coins_and_noise(numbers: Any) -> bool:
    """Whether a zero is in half of the rows, in a uniform place, among uniform numbers that are not zero."""
    zeros = numbers == 0
    rows = zeros.any(axis=1)
    assert zeros.sum(axis=1).max() == 1
    places = zeros.argmax(axis=1)[rows]
    return (
        uniform(rows.astype(int), 2)
        and uniform(places, numbers.shape[1])
        and uniform(numbers[~zeros] - 1, SMALL_PRIME - 1)
    )


@pytest.mark.parametrize("number", [0, 5, -5, 2**18, -(2**19)])
def test_the_helper_of_a_comparison_sees_a_coin_a_random_place_and_random_numbers(number: int) -> None:
    bits, count = 20, 10_000
    views = views_of(lambda mpc, x: mpc.nonnegative(x, bits), [number] * count)[HELPER]
    assert looks_like_coins_and_noise(places_of_zeros(views, count, bits))
    masked = masked_numbers(views, dealt([number] * count, HELPER))
    assert uniform_below([c - number - (1 << bits - 1) for c in masked], 1 << bits + K)
    assert set(views) == {"compare", "compare bits", "compare found", "compare deal", "reduce"}
    assert not views["compare bits"] and not views["compare deal"]


@pytest.mark.parametrize("number", [0, 1, -1, FIELD_127.p // 2, -(FIELD_127.p // 2)])
def test_the_helper_of_a_lift_sees_a_uniform_number_modulo_p(number: int) -> None:
    count = 10_000
    views = views_of(lambda mpc, x: mpc.lift(x, mpc.over(FIELD_254)), [number] * count, FIELD_127)[HELPER]
    masked = masked_numbers(views, dealt([number] * count, HELPER, field=FIELD_127), FIELD_127.p // 2)
    assert uniform_below(masked, FIELD_127.p)
    for bits in (30, 63, 90):  # all bits of the mask take part
        assert uniform([c >> bits for c in masked], 16)
    assert looks_like_coins_and_noise(places_of_zeros(views, count, 128))


@pytest.mark.parametrize("operation", ["nonnegative", "lift"])
@pytest.mark.parametrize("number", [7, -7])
def test_the_holders_of_a_comparison_see_uniform_numbers(operation: str, number: int) -> None:
    count, bits = 6000, 20

    def compare(mpc: Arithmetic, x: Shares) -> Awaitable[Shares]:
        return mpc.nonnegative(x, bits) if operation == "nonnegative" else mpc.lift(x, mpc.over(FIELD_254))

    field, low = (FIELD_254, bits - 1) if operation == "nonnegative" else (FIELD_127, 127)
    first, second = (views_of(compare, [number] * count, field)[i] for i in HOLDERS)
    assert not any(first[step] for step in first if step.startswith("compare"))
    small = np.frombuffer(second["compare bits"][HELPER], np.uint8).reshape(count, low)
    assert all(uniform(column, SMALL_PRIME) for column in small.T)
    dealt_numbers = np.frombuffer(second["compare deal"][HELPER], np.uint8).reshape(-1, 32)
    numbers = [int.from_bytes(row.tobytes(), "little") for row in dealt_numbers]
    assert len(numbers) == count * (1 if operation == "nonnegative" else 2)
    assert uniform_below(numbers[:count], P) and uniform_below(numbers[-count:], P)


@pytest.mark.parametrize("operation", ["nonnegative", "lift"])
def test_what_the_helper_gets_of_each_holder_alone_is_uniform(operation: str) -> None:
    """Also where their shares are not, as those of a public number."""
    count = 6000

    def compare(mpc: Arithmetic, _: Shares) -> Awaitable[Shares]:
        x = mpc.public([7] * count)
        return mpc.nonnegative(x, 20) if operation == "nonnegative" else mpc.lift(x, mpc.over(FIELD_254))

    views = views_of(compare, [7] * count, FIELD_127)[HELPER]
    for holder in HOLDERS:
        parts = Residues.received(FIELD_127, views["compare"][holder], (count,)).integers().tolist()
        assert uniform_below(parts, FIELD_127.p)
        assert uniform(np.frombuffer(views["compare found"][holder], np.uint8), SMALL_PRIME)


# Draws


def test_noise_is_of_the_size_asked_for_and_differs_from_draw_to_draw() -> None:
    async def party(runtime: Runtime) -> Any:
        mpc = Arithmetic(runtime, FIELD_254, K)
        first, second = mpc.noise(500, 40, "one"), mpc.noise(500, 40, "another")
        await mpc.reduce(first)
        return mpc.concatenate(first, second, mpc.noise(500, 40, "one")).integers()

    found = [int(x) for x in opened(play(party))]
    edge = 7 << 38
    assert -edge <= min(found) < -edge // 3 and edge // 3 < max(found) < edge
    assert abs(np.mean(found)) < 0.13 * 2.0**40  # its standard deviation is 0.0154
    assert len(set(found)) > 1490


@pytest.mark.parametrize("bits", [2, 8, 9, 16, 17, 100])
def test_noise_may_have_few_bits_or_many(bits: int) -> None:
    async def party(runtime: Runtime) -> Any:
        return Arithmetic(runtime, FIELD_254, K).noise(200, bits, "test").integers()

    found = opened(play(party))
    assert all(-(7 << bits) // 4 <= x <= (7 << bits) // 4 for x in found) and len(set(found.tolist())) > 2


def test_the_same_numbers_are_never_drawn_twice() -> None:
    async def party(runtime: Runtime) -> None:
        mpc = Arithmetic(runtime, FIELD_254, K)
        mpc.noise(1, 20, "one")
        mpc.noise(1, 20, "another")
        mpc.over(FIELD_127).noise(1, 20, "one")
        with pytest.raises(LocalProtocolError, match="twice"):
            mpc.noise(1, 20, "one")
        await mpc.reduce(dealt([1], runtime.pid))
        mpc.noise(1, 20, "one")

    play(party)


def test_a_pair_draws_the_same_and_another_pair_operation_round_or_field_something_else() -> None:
    async def party(runtime: Runtime) -> Any:
        mpc = Arithmetic(runtime, FIELD_254, K)
        draws = {}
        for round_ in range(2):
            for pair in mpc._pairs:
                for operation in ("a", "b"):
                    for field in (FIELD_254, FIELD_191):
                        tape = mpc.over(field)._tape(operation, pair)
                        draws[pair, operation, field.name, round_] = tape.raw(32)
            await mpc.reduce(dealt([1], runtime.pid))
        return draws

    by_party = play(party)
    together: dict[Any, set[bytes]] = {}
    for draws in by_party:
        for use, drawn in draws.items():
            together.setdefault(use, set()).add(drawn)
    assert len(together) == 24 and all(len(drawn) == 1 for drawn in together.values())
    assert len(set.union(*together.values())) == 24


def tape(field: PrimeField = FIELD_254, pair: tuple[int, int] = HOLDERS, key: bytes = bytes(32)) -> Tape:
    return Tape(field, pair, key)


def test_a_tape_goes_on_where_it_was() -> None:
    parts = tape()
    whole = tape().raw(3200)
    assert b"".join(parts.raw(n) for n in (1, 15, 16, 17, 3151)) == whole
    assert len({whole[i : i + 16] for i in range(0, 3200, 16)}) == 200


@every_field
def test_drawn_elements_and_bits_are_uniform(field: PrimeField) -> None:
    elements = tape(field).elements(20, 300)
    assert elements.shape == (20, 300)
    assert uniform_below(elements.integers().ravel().tolist(), field.p)
    for size in (1, 7, 8, 9, 24, 25, 63, 100):
        numbers = tape(field).bits(6000, size).integers().tolist()
        assert max(numbers) < 1 << size
        assert uniform(numbers, 2) and uniform([x >> max(0, size - 4) for x in numbers], 1 << min(4, size))


@pytest.mark.parametrize("pair", PAIRS)
def test_drawn_integers_cover_at_least_the_range_asked_for(pair: tuple[int, int]) -> None:
    """The quotient and the rest make the number, of which the field has it divided by the pair's factor."""
    outside, bits = OUTSIDE[pair], 80
    mask, digits, rests = tape(pair=pair).integers(6000, bits)
    numbers = (mask * outside).integers().tolist()
    size = (outside if outside > 1 else 2) << bits - 1
    assert size >= 1 << bits and uniform_below(numbers, size)
    quotients = [sum(int(d) << 24 * t for t, d in enumerate(column)) for column in digits.T]
    assert numbers == [outside * q + r for q, r in zip(quotients, rests.tolist(), strict=True)]
    assert set(rests.tolist()) == set(range(outside))


def test_small_draws_are_uniform_and_below_their_bound() -> None:
    async def party(runtime: Runtime) -> Any:
        mpc = Arithmetic(runtime, FIELD_254, K)
        pair = (0, 1) if runtime.pid < 2 else (0, 2)
        return [mpc._tape(f"test {b}", pair).small(b, 40_000) for b in (2, SMALL_PRIME - 1, SMALL_PRIME)]

    first, second, third = play(party)
    for a, b, c, bound in zip(first, second, third, (2, SMALL_PRIME - 1, SMALL_PRIME), strict=True):
        assert a == b != c and len(a) == 40_000
        assert min(a) == 0 and max(a) == bound - 1  # either is missing once in 10^60 runs
        assert uniform(a, bound)


@pytest.mark.parametrize("bound", [2, 3, 20, 128, 255])
def test_integers_below_a_bound_are_uniform(bound: int) -> None:
    drawn = tape().below(bound, 20_000)
    assert drawn.min() >= 0 and drawn.max() < bound and uniform(drawn, bound)


# Smaller things


@pytest.mark.parametrize("count", [1, 7, 8, 9, 71, 127, 254])
def test_bits_come_highest_first(count: int) -> None:
    numbers = [0, 1, 5, 2**70 + 2, ((1 << count) - 1) % P, P - 1]
    rows = Residues.of_integers(FIELD_254, numbers).byte_rows()
    expected = [[x >> i & 1 for i in reversed(range(count))] for x in numbers]
    assert _bits(rows, count).tolist() == expected


def test_arrays_are_put_into_one_and_taken_apart_again() -> None:
    async def party(runtime: Runtime) -> None:
        mpc = Arithmetic(runtime, FIELD_254, K)
        arrays = [
            mpc.public(np.arange(n).reshape(shape)) for n, shape in ((6, (2, 3)), (1, ()), (4, (4,)), (0, (0, 2)))
        ]
        flat = mpc.concatenate(*arrays)
        assert flat.shape == (11,)
        for part, array in zip(mpc.split(flat, (2, 3), (), (4,), (0, 2)), arrays, strict=True):
            assert np.array_equal(part.integers(), array.integers()) and part.shape == array.shape

    play(party)


def test_a_symmetric_matrix_is_made_of_its_upper_triangle() -> None:
    rng = np.random.default_rng(0)
    full = rng.integers(-9, 9, (2, 4, 4))
    full += full.swapaxes(-1, -2)
    i, j = np.triu_indices(4)
    entries = Residues.of_integers(FIELD_254, full[:, i, j])
    assert symmetric(entries, (i, j), 4).integers(signed=True).tolist() == full.tolist()
    i, j = np.triu_indices(4, 1)
    diagonal = Residues.of_integers(FIELD_254, [1, 2, 3, 2**100])
    found = symmetric(Residues.of_integers(FIELD_254, full[:, i, j]), (i, j), 4, diagonal).integers(signed=True)
    expected = full.astype(object)
    expected[:, range(4), range(4)] = [1, 2, 3, 2**100]
    assert found.tolist() == expected.tolist()


def test_fixed_point_numbers_are_rounded_to_the_nearest() -> None:
    assert fixed(0.5, 4) == 8 and fixed(-1.75, 2) == -7 and fixed(1 / 3, 2) == 1
