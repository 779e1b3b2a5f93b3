"""The protocols on shares, played by three parties in one process."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from memory_links import play

from pipeline.errors import LocalProtocolError
from pipeline.field import FIELD_191, FIELD_254
from pipeline.mpc_runtime import Runtime, Shares, unpack_integers
from pipeline.primitives import HELPER, RECOMBINE_ALL, SMALL_PRIME, Arithmetic, binary, fixed

K = 60  # statistical bits
P = FIELD_254.p


def dealt(values: Any, party: int, degree: int = 1, p: int = P) -> Any:
    """This party's share of `values`; all parties call it with the same arguments."""
    rng = np.random.default_rng(5)
    numbers = np.array(values, dtype=object)
    result = numbers.copy()
    for power in range(1, degree + 1):
        slope = np.array([int.from_bytes(rng.bytes(40), "little") for _ in range(numbers.size)], dtype=object)
        result = result + slope.reshape(numbers.shape) * (party + 1) ** power
    return result % p


def opened(shares: list[Any]) -> Any:
    """Signed numbers from three shares; those of degree 1 must lie on a line."""
    total = sum(x * weight for x, weight in zip(shares, RECOMBINE_ALL, strict=True)) % P
    line = (2 * shares[0] - shares[1]) % P
    assert np.array_equal(total, line), "not a sharing of degree 1"
    return np.where(total > P // 2, total - P, total)


def compute(function: Callable[[Arithmetic, Shares], Awaitable[Shares]], values: Any, degree: int = 1) -> Any:
    async def party(runtime: Runtime) -> Any:
        mpc = Arithmetic(runtime, FIELD_254, K)
        return (await function(mpc, mpc.field.array(dealt(values, runtime.pid, degree)))).value

    return opened(play(party))


NUMBERS = [0, 1, -1, 2, -2, 12345, -12345, 2**80, -(2**80), 2**100 - 1, -(2**100) + 1]


@pytest.mark.parametrize("degree", [1, 2])
def test_reduction_changes_the_shares_and_not_the_numbers(degree: int) -> None:
    assert compute(lambda mpc, x: mpc.reduce(x), NUMBERS, degree).tolist() == NUMBERS


@pytest.mark.parametrize("degree", [1, 2])
@pytest.mark.parametrize("shift", [1, 13, 64])
def test_truncation_is_wrong_by_less_than_two_units_and_by_none_on_average(degree: int, shift: int) -> None:
    found = compute(lambda mpc, x: mpc.truncate(x, shift, 102), NUMBERS * 100, degree)
    errors = [int(a) - b / 2**shift for a, b in zip(found, NUMBERS * 100, strict=True)]
    assert all(-2 < e < 2 for e in errors) and abs(np.mean(errors)) < (0.2 if shift > 1 else 0.6)


def test_lifting_to_a_larger_field_keeps_the_numbers() -> None:
    async def party(runtime: Runtime) -> Any:
        mpc = Arithmetic(runtime, FIELD_254, K)
        shares = dealt(NUMBERS, runtime.pid, 2, FIELD_191.p)
        return (await mpc.lift(shares, FIELD_191, 102)).value

    assert opened(play(party)).tolist() == NUMBERS


def test_products_of_matrices_agree_with_and_without_limbs() -> None:
    rng = np.random.default_rng(0)
    for size in (5, 40):
        a, b = (rng.integers(-(2**40), 2**40, (size, size)).astype(object) for _ in range(2))

        async def party(runtime: Runtime, a: Any = a, b: Any = b) -> Any:
            mpc = Arithmetic(runtime, FIELD_254, K)
            shares = (mpc.field.array(dealt(x, runtime.pid)) for x in (a, b))
            return (await mpc.reduce(mpc.matmul(*shares))).value

        assert np.array_equal(opened(play(party)), a @ b)


@pytest.mark.parametrize("bits", [103, 130, 180])
def test_comparison_with_zero_is_exact_up_to_the_bounds(bits: int) -> None:
    edge = 2 ** (bits - 1)
    numbers = [*NUMBERS, edge - 1, -edge, -edge + 1, edge // 2] * 20
    found = compute(lambda mpc, x: mpc.nonnegative(x, bits), numbers)
    assert found.tolist() == [int(v >= 0) for v in numbers]


def test_comparison_keeps_the_shape() -> None:
    numbers = [[1, -1, 0], [-5, 5, -7]]
    assert compute(lambda mpc, x: mpc.nonnegative(x, 40), numbers).tolist() == [[1, 0, 1], [0, 1, 0]]


def test_messages_may_arrive_byte_by_byte() -> None:
    async def party(runtime: Runtime) -> Any:
        mpc = Arithmetic(runtime, FIELD_254, K)
        return (await mpc.nonnegative(mpc.field.array(dealt([5, -5], runtime.pid)), 20)).value

    assert opened(play(party, piece=1)).tolist() == [1, 0]


def test_noise_is_of_the_size_asked_for_and_differs_from_draw_to_draw() -> None:
    async def party(runtime: Runtime) -> Any:
        mpc = Arithmetic(runtime, FIELD_254, K)
        first = mpc.noise(50, 20)
        await mpc.reduce(first)
        return np.concatenate((first.value, mpc.noise(50, 20).value))

    found = opened(play(party))
    signed = [int(x) if x < FIELD_254.p // 2 else int(x) - FIELD_254.p for x in found]
    assert -(3 << 19) <= min(signed) < 0 < max(signed) < 3 << 19 and len(set(signed)) > 90


def test_the_same_numbers_are_never_drawn_twice() -> None:
    async def party(runtime: Runtime) -> None:
        mpc = Arithmetic(runtime, FIELD_254, K)
        mpc.noise(1, 20)
        with pytest.raises(LocalProtocolError, match="twice"):
            mpc.noise(1, 20)

    play(party)


def test_a_number_without_room_for_its_mask_is_refused() -> None:
    async def party(runtime: Runtime) -> None:
        mpc = Arithmetic(runtime, FIELD_254, K)
        x = mpc.field.array(dealt([1], runtime.pid))
        bits = 254 - 1 - 2 - K
        await mpc.truncate(x, 3, bits)
        attempts = mpc.truncate(x, 3, bits + 1), mpc.nonnegative(x, bits + 1), mpc.lift(x.value, FIELD_191, 129)
        for operation in attempts:
            with pytest.raises(LocalProtocolError, match="mask"):
                await operation

    play(party)


def test_masked_openings_and_rounds_are_counted() -> None:
    async def party(runtime: Runtime) -> tuple[int, int]:
        mpc = Arithmetic(runtime, FIELD_254, K)
        x = mpc.field.array(dealt([1] * 7, runtime.pid))
        await mpc.reduce(x)
        await mpc.truncate(x, 3, 20)
        await mpc.nonnegative(x, 20)
        return mpc.masked_openings, runtime.rounds

    assert play(party) == [(14, 7)] * 3


def test_what_is_opened_under_a_mask_has_nothing_to_do_with_the_number() -> None:
    """The top bits of what all parties see are those of the mask: for 0 and for the largest number alike."""
    seen: dict[int, list[int]] = {}
    for number in (0, 2**40 - 1):

        class Watching(Arithmetic):
            async def _open_masked(self, *arguments: Any) -> Any:
                result = await super()._open_masked(*arguments)
                seen.setdefault(number, []).extend(result)  # noqa: B023
                return result

        async def party(runtime: Runtime, number: int = number, kind: type[Arithmetic] = Watching) -> None:
            mpc = kind(runtime, FIELD_254, K)
            await mpc.truncate(mpc.field.array(dealt([number] * 2000, runtime.pid)), 5, 42)

        play(party)
    for values in seen.values():
        fractions = np.array([v / 2.0 ** (42 + K) for v in values])
        assert 0 < fractions.min() and fractions.max() < 3
        assert abs(fractions.mean() - 1.5) < 0.1  # nine standard deviations


def test_a_shared_zero_of_degree_two_hides_the_factors_of_a_product() -> None:
    """Without it, the highest coefficient of what is opened would be the product of the factors' own, each time."""

    async def sent_shares(runtime: Runtime) -> list[int]:
        mpc = Arithmetic(runtime, FIELD_254, K)
        x = mpc.field.array(dealt([3], runtime.pid))
        shares = []
        for _ in range(2):
            await mpc.reduce(x * x)
            message = runtime._exchanges[(runtime.pid + 1) % 3]._link.sent[-1]  # type: ignore[attr-defined]
            shares.append(int.from_bytes(message[-32:], "little"))
        return shares

    first, second, third = play(sent_shares)
    highest = [(a - 2 * b + c) % P for a, b, c in zip(first, second, third, strict=True)]
    assert highest[0] != highest[1]


@pytest.mark.parametrize("number", [0, 5, -5, 2**18, -(2**18)])
def test_the_helper_of_a_comparison_sees_a_coin_a_random_place_and_random_numbers(number: int) -> None:
    bits, count = 20, 10_000  # so many that each bound below is seven standard deviations away or more
    views: dict[str, list[bytes]] = {}

    async def party(runtime: Runtime) -> None:
        exchange = runtime.exchange

        async def watched(operation: str, *arguments: Any) -> dict[int, bytes]:
            arrived = await exchange(operation, *arguments)
            if runtime.pid == HELPER:
                views[operation] = list(arrived.values())
            return arrived

        runtime.exchange = watched  # type: ignore[method-assign]
        mpc = Arithmetic(runtime, FIELD_254, K)
        await mpc.nonnegative(mpc.field.array(dealt([number] * count, runtime.pid)), bits)

    play(party)
    first, second = (np.frombuffer(x, np.uint8).reshape(count, bits).astype(int) for x in views["compare found"])
    numbers = (first + second) % SMALL_PRIME
    zeros = numbers == 0
    assert zeros.sum(axis=1).max() == 1
    assert abs(zeros.sum() / count - 0.5) < 0.05
    assert zeros.sum(axis=0).min() > 0.5 * zeros.sum() / bits
    counts = np.bincount(numbers[~zeros], minlength=SMALL_PRIME)[1:]
    assert counts.min() > 0.6 * counts.mean() and counts.max() < 1.5 * counts.mean()
    masked = [sum(parts) % P for parts in zip(*(unpack_integers(x, 32) for x in views["compare"]), strict=True)]
    fractions = np.array([c / 2.0 ** (bits + K) for c in masked])
    assert 0 < fractions.min() and fractions.max() < 1 + 2.0**-40 and abs(fractions.mean() - 0.5) < 0.05


def test_bits_come_highest_first() -> None:
    assert binary(np.array([5, 2**70], dtype=object), 71)[0, -3:].tolist() == [1, 0, 1]
    assert binary(np.array([5, 2**70], dtype=object), 71)[1, 0] == 1


def test_small_draws_are_uniform_and_below_their_bound() -> None:
    async def party(runtime: Runtime) -> Any:
        mpc = Arithmetic(runtime, FIELD_254, K)
        pair = (0, 1) if runtime.pid < 2 else (0, 2)
        return [mpc.small(f"test {bound}", pair, (10_000, 1), bound) for bound in (2, SMALL_PRIME - 1, SMALL_PRIME)]

    first, second, _ = play(party)
    for a, b, bound in zip(first, second, (2, SMALL_PRIME - 1, SMALL_PRIME), strict=True):
        assert np.array_equal(a, b) and a.min() == 0 and a.max() == bound - 1  # either is missing once in 10^17 runs
        assert abs(a.mean() - (bound - 1) / 2) < bound / 20


def test_fixed_point_numbers_are_rounded_to_the_nearest() -> None:
    assert fixed(0.5, 4) == 8 and fixed(-1.75, 2) == -7 and fixed(1 / 3, 2) == 1
