"""The fit in three real processes: against scikit-learn, against MPyC's own operations, and when something fails."""

from __future__ import annotations

import asyncio
import os
import pickle
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from lassos import deal, objective, reference, strongest_penalty, table
from mpc_processes import run_three
from sklearn.datasets import load_diabetes

from pipeline.bounds import plan
from pipeline.config import Model
from pipeline.errors import PeerError, PipelineError, Refused, RemoteProtocolError
from pipeline.field import FIELD_127, FIELD_254
from pipeline.mpc_runtime import OPENED, PARTIES, Runtime, object_array
from pipeline.primitives import Arithmetic
from pipeline.problem import Problem
from pipeline.residues import Residues
from pipeline.secure_analysis import Fit, fit, fit_path

CASES: dict[str, tuple[Any, Any, Model]] = {}


def case(name: str, x: Any, y: Any, strength: float, **settings: Any) -> None:
    ways = {key: settings[key] for key in ("standardize", "fit_intercept") if key in settings}
    CASES[name] = (x, y, Model(strongest_penalty(x, y, strength, **ways), **settings))


DIABETES = load_diabetes(return_X_y=True, scaled=False)
for strength in (0.9, 0.1, 0.01, 0.0):
    case(f"diabetes, {strength}", *DIABETES, strength)
case("diabetes, own units", *DIABETES, 0.05, standardize=False)
case("diabetes, no intercept", *DIABETES, 0.05, fit_intercept=False)
case("diabetes, own units, no intercept", *DIABETES, 0.05, standardize=False, fit_intercept=False)
for kind in ("pairs", "duplicates", "sums", "rare", "heavy tails"):
    case(kind, *table(kind, 300, 12), 0.05)
case("fewer records than features", *table("independent", 15, 24), 0.1)
case("a single feature", *table("independent", 60, 1), 0.1)
FAR_X, FAR_Y = table("independent", 200, 4)
case("far from zero", FAR_X * [1, 1, 1e3, 1] + [0, 2020, 1.6e9, 0], FAR_Y * 1e-6 + 3, 0.1)
CONSTANT_X = table("independent", 100, 5)[0]
CONSTANT_X[:, 3] = -2.5
case("a constant feature", CONSTANT_X, table("independent", 100, 5)[1], 0.1)
UNIQUE = {name for name in CASES if name not in ("duplicates", "sums")}
REFUSED = {
    "constant-outcome": (FAR_X, np.full(200, 4.0), Model(0.1)),
    "not-converged": (*table("pairs", 300, 12), Model(0.1, max_iterations=1)),
}


# Several penalties in the same rounds; one of them removes everything, one nothing.
STRENGTHS = (1.01, 0.5, 0.1, 0.01, 0.0)
PATHS: dict[str, tuple[Any, Any, Model, tuple[float, ...]]] = {}


def path(name: str, x: Any, y: Any, **ways: bool) -> None:
    alphas = tuple(strongest_penalty(x, y, strength, **ways) for strength in STRENGTHS)
    PATHS[name] = (x, y, Model(alphas[1], **ways), alphas)


path("path", *DIABETES)
path("path, own units, no intercept", *table("independent", 200, 6), standardize=False, fit_intercept=False)


async def fit_all(runtime: Runtime, cases: list[Any]) -> list[tuple[Fit | list[Fit] | str, list[str], int]]:
    """Fit one case after the other; return each result or refusal with what was opened and the rounds it took."""
    results: list[tuple[Fit | list[Fit] | str, list[str], int]] = []
    for gram, problem in cases:
        opened, rounds = len(runtime.opened), runtime.rounds
        try:
            result: Fit | list[Fit] | str = await (fit_path if problem.alphas else fit)(runtime, gram, problem)
        except Refused as refusal:
            result = refusal.rule
        results.append((result, runtime.opened[opened:], runtime.rounds - rounds))
    return results


def with_penalties(parties: list[Any], alphas: tuple[float, ...]) -> list[tuple[Any, Problem]]:
    return [(gram, replace(problem, alphas=alphas)) for gram, problem in parties]


@pytest.fixture(scope="module")
def results() -> list[dict[str, tuple[Any, list[str], int]]]:
    """All cases in one set of three processes: by party, by name of the case."""
    dealt = [deal(*each) for each in (*CASES.values(), *REFUSED.values())]
    dealt += [with_penalties(deal(x, y, model), alphas) for x, y, model, alphas in PATHS.values()]
    parties = run_three(fit_all, [([parties[i] for parties in dealt],) for i in range(3)], timeout=600)
    for party in parties:
        if isinstance(party, BaseException):
            raise party
    return [dict(zip((*CASES, *REFUSED, *PATHS), party, strict=True)) for party in parties]


def close_to_scikit_learn(x: Any, y: Any, model: Model, found: Fit, unique: bool) -> None:
    expected = reference(x, y, model)
    ours = np.array(found.coefficients)
    assert objective(x, y, model, ours, found.intercept) == pytest.approx(
        objective(x, y, model, expected.coefficients, expected.intercept), rel=1e-9
    )
    assert found.r2 == pytest.approx(expected.r2, abs=1e-8) and found.mse == pytest.approx(expected.mse, rel=1e-7)
    if unique:
        assert np.abs((ours - expected.coefficients) * x.std(0)).max() < 1e-7 * y.std()
        centre = found.intercept + x.mean(0) @ ours - expected.intercept - x.mean(0) @ expected.coefficients
        assert abs(centre) < 1e-7 * y.std()
        assert np.array_equal(ours == 0, expected.coefficients == 0)


@pytest.mark.parametrize("name", CASES)
def test_the_model_is_that_of_scikit_learn(name: str, results: Any) -> None:
    close_to_scikit_learn(*CASES[name], results[0][name][0], name in UNIQUE)


@pytest.mark.parametrize("name", PATHS)
def test_the_models_of_several_penalties_are_those_of_scikit_learn(name: str, results: Any) -> None:
    x, y, model, alphas = PATHS[name]
    found = results[0][name][0]
    assert len(found) == len(alphas)
    for alpha, one in zip(alphas, found, strict=True):
        close_to_scikit_learn(x, y, replace(model, alpha=alpha), one, unique=True)
    assert not any(found[0].coefficients) and all(found[-1].coefficients)


@pytest.mark.parametrize("name", PATHS)
def test_several_penalties_open_no_more_than_one_and_take_as_many_rounds_as_the_hardest(
    name: str, results: Any
) -> None:
    """That the conditions hold is opened for all penalties at once, not for each."""
    found, opened, rounds = results[0][name]
    assert results[1][name][0] == found
    assert results[2][name][0] == [Fit(found[0].iterations, None, None, None, None, found[0].hiding_bits)] * len(found)
    assert len({one.iterations for one in found}) == 1
    once = [each for each in opened if each != "conditions hold"]
    assert len(once) == len(set(once)) and set(opened) <= set(OPENED)
    assert rounds < 600


@pytest.mark.parametrize("name", CASES)
def test_both_controllers_get_the_same_and_the_third_party_the_iterations_only(name: str, results: Any) -> None:
    first, second, third = (party[name][0] for party in results)
    assert first == second
    assert third == Fit(first.iterations, None, None, None, None, first.hiding_bits)
    assert 40 <= first.hiding_bits < 60


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_is_the_same_at_all_parties_and_opens_no_result(name: str, results: Any) -> None:
    for party in results:
        rule, opened, _ = party[name]
        assert rule == name
        assert not set(opened) & {"slopes", "intercept", "r2", "variance of the outcome"}


def test_what_is_opened_follows_from_the_number_of_iterations(results: Any) -> None:
    for name, (_, _, model) in CASES.items():
        _, opened, _ = results[0][name]
        asked = {"outcome is constant", "spread is too small", "conditions hold", "slopes", "r2"}
        asked |= {"variance of the outcome"} | ({"intercept"} if model.fit_intercept else set())
        assert set(opened) == asked <= set(OPENED)
        once = [each for each in opened if each != "conditions hold"]
        assert len(once) == len(set(once))
    by_iterations: dict[tuple[int, bool], set[int]] = {}
    for name, (_, _, model) in CASES.items():
        key = results[0][name][0].iterations, model.fit_intercept
        by_iterations.setdefault(key, set()).add(results[0][name][1].count("conditions hold"))
    assert all(len(counts) == 1 for counts in by_iterations.values())


def test_a_usual_fit_takes_a_few_hundred_rounds(results: Any) -> None:
    assert results[0]["diabetes, 0.1"][2] < 300


async def supervised(runtime: Runtime, function: Any, *arguments: Any) -> Any:
    return await runtime.supervise(function(runtime, *arguments))


async def own_and_stock(runtime: Runtime, numbers: list[int]) -> dict[str, list[int]]:
    """The same shares through the operations of `primitives` and through MPyC's own."""
    mpc = Arithmetic(runtime, FIELD_254, plan(100, 5, fit_intercept=True, max_iterations=10).statistical_bits)
    narrow = mpc.over(FIELD_127)
    secure = runtime.SecInt(100, p=FIELD_254.p)
    own = {0: numbers} if runtime.pid == 0 else {}
    (shares,) = await runtime.secret_inputs(mpc.field, own, {0: (len(numbers),)})
    (small,) = await runtime.secret_inputs(narrow.field, own, {0: (len(numbers),)})
    stock = secure.array(secure.field.array(shares.integers()))

    async def opened(x: Any) -> list[int]:
        if isinstance(x, Residues):
            x = secure.field.array(x.integers())
        values = [int(v) for v in await runtime.output(secure.array(x))]
        return [v - FIELD_254.p if v > FIELD_254.p // 2 else v for v in values]

    return {
        "input": await opened(shares),
        "own truncation": await opened(await mpc.truncate(shares, 20, 100)),
        "stock truncation": await opened(await runtime.gather(runtime.np_trunc(stock, f=20, l=100))),
        "own comparison": await opened(await mpc.nonnegative(shares, 100)),
        "stock comparison": await opened(await runtime.gather(stock >= 0)),
        "own product": await opened(await mpc.reduce(shares * shares)),
        "stock product": await opened(await runtime.gather(stock * stock)),
        "own test": [int(await mpc.is_zero("conditions hold", shares[i : i + 1])) for i in range(3)],
        "stock test": [
            int(await runtime.is_zero_public(secure(secure.field(int(shares[i].integers()))))) for i in range(3)
        ],
        "lifted": await opened(await narrow.lift(small, mpc)),
        "converted": await opened(await mpc.convert(await narrow.lift(small, mpc), mpc, 0, 100)),
    }


def test_the_operations_agree_with_those_of_mpyc() -> None:
    numbers = [0, 1, -1, 2**60, -(2**60), 2**98, -(2**98), 2**20, -(2**20), 12345678901]
    found = run_three(supervised, [(own_and_stock, numbers)] * 3)
    assert found[0] == found[1] == found[2]
    assert found[0]["input"] == found[0]["lifted"] == found[0]["converted"] == numbers
    for operation in ("comparison", "product", "test"):
        assert found[0][f"own {operation}"] == found[0][f"stock {operation}"]
    for own, stock, number in zip(found[0]["own truncation"], found[0]["stock truncation"], numbers, strict=True):
        assert abs(own - number / 2**20) < 4 and abs(stock - number / 2**20) < 2


async def inputs_and_comparisons(runtime: Runtime) -> dict[str, Any]:
    """Branches of which some wait for MPyC's own operations, in an order of their own at each party."""
    mpc = Arithmetic(runtime, FIELD_254, 60)

    async def entered(owner: int, numbers: list[int]) -> Any:
        own = {owner: numbers} if runtime.pid == owner else {}
        (x,) = await runtime.secret_inputs(mpc.field, own, {owner: (len(numbers),)})
        return await mpc.nonnegative(x, 40)

    async def late(x: Any) -> Any:
        for _ in range(50 * runtime.pid):
            await asyncio.sleep(0)
        return await mpc.reduce(x * x)

    numbers = [[5, -5], [-1, 0, 1], [-(2**38)]]
    public = mpc.public([3, 4])
    results = await runtime.together(
        late(public), *(entered(i, numbers[i]) for i in range(PARTIES)), runtime.together(late(public))
    )
    squares, *bits, (again,) = results
    shares = {"slopes": mpc.concatenate(squares, again), "intercept": mpc.concatenate(*bits)}
    opened = await runtime.open_to_controllers(shares, (0, 1))
    return {} if opened is None else {name: [int(x) for x in values] for name, values in opened.items()}


def test_branches_may_wait_for_operations_of_mpyc() -> None:
    first, second, third = run_three(supervised, [(inputs_and_comparisons,)] * 3)
    assert first == second == {"slopes": [9, 16, 9, 16], "intercept": [1, 0, 0, 1, 1, 0]}
    assert third == {}


class Malicious:
    """Makes a file where it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


async def send_instead_of_a_share(runtime: Runtime, payload: bytes | None) -> Any:
    """Party 0 sends `payload` where MPyC expects its share of an input."""
    if runtime.pid == 0 and payload is not None:
        send = runtime._send_message
        runtime._send_message = lambda peer, data: send(peer, payload)
    secure = runtime.SecFld(modulus=FIELD_254.p)

    async def share() -> Any:
        shares = runtime.input(secure.array(object_array([1, 2])), senders=0)
        return [int(v) for v in await runtime.output(shares)]

    return await runtime.supervise(share())


def test_a_pickle_instead_of_a_share_is_refused_and_not_run(tmp_path: Any) -> None:
    trap = tmp_path / "trap"
    found = run_three(send_instead_of_a_share, [(pickle.dumps(Malicious(str(trap))),)] * 3)
    assert isinstance(found[1], RemoteProtocolError) and isinstance(found[2], RemoteProtocolError)
    assert not trap.exists()


def test_a_share_that_is_no_field_element_is_refused() -> None:
    too_large = b"A" + (1).to_bytes(32, "little") + FIELD_254.p.to_bytes(32, "little")
    found = run_three(send_instead_of_a_share, [(too_large,)] * 3)
    assert isinstance(found[1], RemoteProtocolError) and isinstance(found[2], RemoteProtocolError)


def test_a_share_of_the_wrong_length_ends_the_computation() -> None:
    found = run_three(send_instead_of_a_share, [(b"A" + bytes(32),)] * 3, timeout=60)
    assert all(isinstance(each, Exception) and not isinstance(each, TimeoutError) for each in found[1:])


async def die_in_the_middle(runtime: Runtime, who: int, parties: Any) -> tuple[str, float]:
    """Fit; party `who` ends its process after some rounds. Return the error and how long after that it came."""
    died = 0.0

    async def stop() -> None:
        nonlocal died
        while runtime.rounds < 40:
            await asyncio.sleep(0)
        died = time.monotonic()
        if runtime.pid == who:
            os._exit(1)

    watch = asyncio.ensure_future(stop())
    try:
        await fit(runtime, *parties)
    except PipelineError as error:
        await watch
        return type(error).__name__, time.monotonic() - died
    raise AssertionError("the fit came to an end without one party")


@pytest.mark.parametrize("who", [0, 2])
def test_the_death_of_a_party_ends_the_fit_within_seconds(who: int) -> None:
    dealt = deal(*CASES["diabetes, 0.1"])
    found = run_three(die_in_the_middle, [(who, dealt[i]) for i in range(3)], timeout=120)
    for party, result in enumerate(found):
        if party != who:
            assert result[0] == PeerError.__name__ and result[1] < 20
