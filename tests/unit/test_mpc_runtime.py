from __future__ import annotations

import asyncio
import logging
import os
import pickle
import struct
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from memory_links import MemoryLink, linked, play
from sharing_numbers import dealt, opened

from pipeline.errors import LocalProtocolError, PeerError, PipelineError, RemoteProtocolError
from pipeline.field import FIELD_254
from pipeline.mpc_runtime import ALL, CONTROLLERS, MAX_PAYLOAD, OPENED, Codec, Round, Runtime, object_array
from pipeline.primitives import Arithmetic

CODEC = Codec(FIELD_254.p)


class Malicious:
    """Runs a command where it is unpickled."""

    def __reduce__(self) -> Any:
        return os._exit, (7,)


@pytest.mark.parametrize("value", [None, True, False, 0, -1, 2**300, b"", b"abc", [], [1, [b"x", None]]])
def test_plain_values_come_back(value: object) -> None:
    assert CODEC.loads(CODEC.dumps(value)) == value


def test_arrays_of_field_elements_come_back() -> None:
    array = object_array([0, 1, FIELD_254.p - 1])
    assert np.array_equal(CODEC.loads(CODEC.dumps(array)), array)


def test_other_values_are_not_sent() -> None:
    with pytest.raises(LocalProtocolError, match="float"):
        CODEC.dumps(1.5)


def test_a_pickle_is_refused_and_not_run() -> None:
    with pytest.raises(RemoteProtocolError):
        CODEC.loads(pickle.dumps(Malicious()))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"A" + bytes(31),
        b"A" + FIELD_254.p.to_bytes(32, "little"),
        b"A" + b"\xff" * 32,
        b"V",
        b"Vx",
        b"Vnn",
        b"Vi\x01",
        b"Vi\x05\0\0\0\1",
        b"Vl\xff\xff\xff\xff",
        b"Vl\x01\0\0\0" * 2 + b"l\x01\0\0\0" * 10,
    ],
)
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        CODEC.loads(data)


def test_keys_are_shared_by_pairs_and_each_party_lacks_one() -> None:
    async def keys(runtime: Runtime) -> dict[tuple[int, int], bytes]:
        return dict(runtime._prss_keys)

    first, second, third = play(keys, piece=5)
    assert set(first) == {(0, 1), (0, 2)} and set(second) == {(0, 1), (1, 2)} and set(third) == {(0, 2), (1, 2)}
    assert first[0, 1] == second[0, 1] and first[0, 2] == third[0, 2] and second[1, 2] == third[1, 2]
    assert len({first[0, 1], first[0, 2], second[1, 2]}) == 3


def test_a_round_brings_everyone_what_the_others_sent() -> None:
    async def round_(runtime: Runtime) -> dict[int, bytes]:
        peers = [i for i in range(3) if i != runtime.pid]
        return await runtime.exchange("test", dict.fromkeys(peers, bytes([runtime.pid])), dict.fromkeys(peers, 1))

    assert play(round_) == [{1: b"\1", 2: b"\2"}, {0: b"\0", 2: b"\2"}, {0: b"\0", 1: b"\1"}]


def test_parties_that_do_different_things_notice() -> None:
    async def different(runtime: Runtime) -> None:
        peers = [i for i in range(3) if i != runtime.pid]
        name = "one" if runtime.pid else "two"
        await runtime.exchange(name, dict.fromkeys(peers, b"1"), dict.fromkeys(peers, 1))

    with pytest.raises(RemoteProtocolError, match="another step"):
        play(different)


def test_a_message_of_the_wrong_length_is_refused() -> None:
    async def short(runtime: Runtime) -> None:
        peers = [i for i in range(3) if i != runtime.pid]
        await runtime.exchange("test", dict.fromkeys(peers, b"1" * runtime.pid), dict.fromkeys(peers, 1))

    with pytest.raises(RemoteProtocolError):
        play(short)


def start_one(talk: Any) -> None:
    """Start party 1 alone; `talk(links)` plays the other two."""

    async def main() -> None:
        links = linked()
        runtime = Runtime(1, links[1])
        start = asyncio.ensure_future(runtime.start())
        await asyncio.sleep(0.01)
        talk(links, runtime)
        await asyncio.wait_for(start, 60)

        async def wait() -> None:
            await runtime.exchange("test", {}, {0: 1})

        await asyncio.wait_for(runtime.supervise(wait()), 60)

    asyncio.run(main())


def test_a_peer_that_gives_itself_another_number_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="another number"):
        start_one(lambda links, _: links[0][1].write(struct.pack("<H", 2) + bytes(16)))


def test_a_lost_link_ends_the_wait_with_its_reason() -> None:
    def talk(links: list[dict[int, MemoryLink]], _: Runtime) -> None:
        links[0][1].write(struct.pack("<H", 0) + bytes(16))
        assert links[1][2].lost is not None
        links[1][2].lost(PeerError("the third party is gone"))

    with pytest.raises(PeerError, match="gone"):
        start_one(talk)


def test_a_failure_from_elsewhere_ends_the_wait() -> None:
    def talk(links: list[dict[int, MemoryLink]], runtime: Runtime) -> None:
        links[0][1].write(struct.pack("<H", 0) + bytes(16))
        runtime.fail(PipelineError("enough"))
        runtime.fail(PipelineError("too late"))

    with pytest.raises(PipelineError, match="enough"):
        start_one(talk)


def test_an_announcement_of_too_much_is_refused_before_it_arrives() -> None:
    def talk(links: list[dict[int, MemoryLink]], _: Runtime) -> None:
        links[0][1].write(struct.pack("<H", 0) + bytes(16) + struct.pack("<qI", 1, MAX_PAYLOAD + 1))

    with pytest.raises(RemoteProtocolError, match="announces"):
        start_one(talk)


def test_a_second_message_under_the_same_label_is_refused() -> None:
    def talk(links: list[dict[int, MemoryLink]], _: Runtime) -> None:
        message = struct.pack("<qI", 77, 1) + b"x"
        links[0][1].write(struct.pack("<H", 0) + bytes(16) + message * 2)

    with pytest.raises(RemoteProtocolError, match="more than was asked"):
        start_one(talk)


def test_a_result_is_only_opened_to_those_it_is_listed_for() -> None:
    async def attempts(runtime: Runtime) -> None:
        for name in ("slopes", "something else"):
            with pytest.raises(LocalProtocolError, match="must not be opened"):
                runtime.note_opening(name, ALL)
        with pytest.raises(LocalProtocolError, match="must not be opened"):
            runtime.note_opening("conditions hold", CONTROLLERS)
        share = dealt([1], runtime.pid)
        for name in ("conditions hold", "something else"):
            with pytest.raises(LocalProtocolError, match="must not be opened"):
                await runtime.open_to_controllers({"slopes": share, name: share}, (0, 1))
        assert runtime.rounds == 0
        runtime.note_opening("conditions hold", ALL)

    play(attempts)
    assert "slopes" in OPENED


# Branches that run together


def peers(runtime: Runtime) -> list[int]:
    return [i for i in range(3) if i != runtime.pid]


async def speak(runtime: Runtime, name: str, count: int = 1) -> list[dict[int, bytes]]:
    """Some rounds in which every party sends its number and a name of the round."""
    arrived = []
    for i in range(count):
        payload = f"{name}{i} of {runtime.pid}".encode()
        arrived.append(
            await runtime.exchange(
                name, dict.fromkeys(peers(runtime), payload), dict.fromkeys(peers(runtime), len(payload))
            )
        )
    return arrived


def spoken(pid: int, name: str, count: int = 1) -> list[dict[int, bytes]]:
    return [{j: f"{name}{i} of {j}".encode() for j in range(3) if j != pid} for i in range(count)]


@pytest.mark.parametrize("piece", [1, 1 << 20])
def test_branches_of_any_lengths_run_together_and_give_their_results_in_order(piece: int) -> None:
    async def party(runtime: Runtime) -> tuple[Any, int, int]:
        async def nothing() -> str:
            return "nothing"

        before = len(runtime._exchanges[peers(runtime)[0]]._link.sent)  # type: ignore[attr-defined]
        found = await runtime.together(
            speak(runtime, "a", 2), nothing(), speak(runtime, "b", 5), speak(runtime, "c"), speak(runtime, "d", 0)
        )
        after = len(runtime._exchanges[peers(runtime)[0]]._link.sent)  # type: ignore[attr-defined]
        return found, runtime.rounds, after - before

    for pid, (found, rounds, messages) in enumerate(play(party, piece)):
        assert found == [spoken(pid, "a", 2), "nothing", spoken(pid, "b", 5), spoken(pid, "c"), []]
        assert rounds == 5  # those of the longest branch, each counted once
        assert messages == 5


def test_no_branches_at_all_take_no_round() -> None:
    async def party(runtime: Runtime) -> tuple[list[Any], int]:
        return await runtime.together(), runtime.rounds

    assert play(party) == [([], 0)] * 3


def test_branches_may_have_branches() -> None:
    async def party(runtime: Runtime) -> tuple[Any, int]:
        async def inner() -> Any:
            first = await speak(runtime, "x")
            both = await runtime.together(speak(runtime, "y", 3), runtime.together(speak(runtime, "z", 2)))
            return first, both, await speak(runtime, "w")

        found = await runtime.together(inner(), speak(runtime, "a", 2), inner())
        assert runtime.branch == ()
        return found, runtime.rounds

    for pid, (found, rounds) in enumerate(play(party)):
        inner = spoken(pid, "x"), [spoken(pid, "y", 3), [spoken(pid, "z", 2)]], spoken(pid, "w")
        assert found == [inner, spoken(pid, "a", 2), inner]
        assert rounds == 5


def test_messages_of_different_sizes_to_different_peers_are_told_apart() -> None:
    """Each branch sends only some peers something, as a comparison does."""

    async def party(runtime: Runtime) -> list[Any]:
        async def between(sender: int, receiver: int, size: int) -> bytes | None:
            outgoing = {receiver: bytes([size]) * size} if runtime.pid == sender else {}
            arrived = await runtime.exchange("test", outgoing, {sender: size} if runtime.pid == receiver else {})
            return arrived.get(sender)

        return await runtime.together(between(0, 1, 3), between(2, 1, 0), between(0, 1, 5), between(1, 0, 2))

    nothing = [None] * 4
    first, second, third = play(party)
    assert first == [*nothing[:3], b"\2\2"] and third == nothing
    assert second == [b"\3" * 3, b"", b"\5" * 5, None]


def test_a_branch_that_raises_ends_all_and_closes_the_others() -> None:
    closed: list[tuple[int, str]] = []

    async def party(runtime: Runtime) -> None:
        async def until_closed(name: str) -> None:
            try:
                await speak(runtime, name, 10)
            finally:
                closed.append((runtime.pid, name))

        async def fails() -> None:
            await speak(runtime, "b", 2)
            raise PipelineError("enough")

        with pytest.raises(PipelineError, match="enough"):
            await runtime.together(until_closed("a"), fails(), runtime.together(until_closed("c"), speak(runtime, "d")))
        assert runtime.branch == () and runtime.rounds == 2
        assert await speak(runtime, "goes on") == spoken(runtime.pid, "goes on")

    play(party)
    assert sorted(closed) == [(pid, name) for pid in range(3) for name in "ac"]


def test_a_branch_that_fails_before_its_first_round_leaves_none_behind() -> None:
    async def party(runtime: Runtime) -> None:
        async def fails() -> None:
            raise PipelineError("enough")

        with pytest.raises(PipelineError, match="enough"):
            await runtime.together(fails(), speak(runtime, "never"))
        assert runtime.rounds == 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "unraisablehook", lambda unraisable: pytest.fail(str(unraisable)))
        play(party)


def test_a_lost_peer_closes_the_branches() -> None:
    closed: list[str] = []

    async def main() -> None:
        links = linked()
        runtimes = [Runtime(i, links[i]) for i in range(3)]
        await asyncio.gather(*(runtime.start() for runtime in runtimes))

        async def until_closed(name: str) -> None:
            try:
                await speak(runtimes[0], name)
            finally:
                closed.append(name)

        computation = runtimes[0].together(until_closed("a"), until_closed("b"))
        task = asyncio.ensure_future(runtimes[0].supervise(computation))
        await asyncio.sleep(0)
        runtimes[0].fail(PeerError("gone"))
        with pytest.raises(PeerError, match="gone"):
            await task

    asyncio.run(main())
    assert sorted(closed) == ["a", "b"]


@pytest.mark.parametrize("different", ["order", "length", "number"])
def test_parties_whose_branches_differ_notice(different: str) -> None:
    async def party(runtime: Runtime) -> None:
        odd = runtime.pid == 1
        branches = {
            "order": ["b", "a"] if odd else ["a", "b"],
            "length": ["a", "b"],
            "number": ["a"] if odd else ["a", "b"],
        }[different]
        lengths = [2 if odd and different == "length" else 1] * len(branches)
        await runtime.together(*(speak(runtime, name, n) for name, n in zip(branches, lengths, strict=True)))
        await speak(runtime, "end")

    with pytest.raises(RemoteProtocolError, match="another step"):
        play(party)


def test_parties_of_any_speed_stay_in_step() -> None:
    """A branch that waits for something of its own holds up the others of its party, whatever arrives meanwhile."""

    async def party(runtime: Runtime) -> tuple[Any, int]:
        async def hesitant(name: str, waits: int) -> list[dict[int, bytes]]:
            arrived = []
            for i in range(4):
                for _ in range(waits):
                    await asyncio.sleep(0.001)
                arrived += await speak(runtime, f"{name}{i} ")
            return arrived

        mpc = Arithmetic(runtime, FIELD_254, 60)
        x = dealt([5, -5], runtime.pid)
        a, b, bits = await runtime.together(
            hesitant("a", runtime.pid), hesitant("b", 2 - runtime.pid), mpc.nonnegative(x, 20)
        )
        assert [len(each) for each in (a, b)] == [4, 4]
        return bits.integers(), runtime.rounds

    found = play(party)
    assert opened([shares for shares, _ in found]).tolist() == [1, 0]
    assert [rounds for _, rounds in found] == [5] * 3


def test_what_a_branch_waits_for_comes_with_its_result_or_its_error() -> None:
    async def party(runtime: Runtime) -> int:
        loop = asyncio.get_running_loop()

        async def waits(error: bool) -> int:
            future: asyncio.Future[int] = loop.create_future()
            loop.call_later(
                0.001, future.set_exception if error else future.set_result, PipelineError("no") if error else 7
            )
            return await future

        assert await runtime.together(waits(False), speak(runtime, "a")) == [7, spoken(runtime.pid, "a")]
        await runtime.together(speak(runtime, "b"), waits(True))
        return 0

    with pytest.raises(PipelineError, match="no"):
        play(party)


# Keys of operations


def test_a_key_is_asked_for_once() -> None:
    async def party(runtime: Runtime) -> None:
        pair = (0, 1) if runtime.pid < 2 else (1, 2)
        runtime.key_of("a", "field", pair)
        runtime.key_of("b", "field", pair)
        runtime.key_of("a", "another", pair)
        with pytest.raises(LocalProtocolError, match="twice"):
            runtime.key_of("a", "field", pair)
        await speak(runtime, "x")
        runtime.key_of("a", "field", pair)
        with pytest.raises(LocalProtocolError, match="twice"):
            runtime.key_of("a", "field", pair)

    play(party)


def test_a_key_of_a_round_that_is_over_is_refused() -> None:
    async def party(runtime: Runtime) -> None:
        pair = (0, 1) if runtime.pid < 2 else (1, 2)
        await speak(runtime, "x", 2)
        runtime.key_of("a", "field", pair)
        runtime._program_counter[0] -= 1
        with pytest.raises(LocalProtocolError, match="twice"):
            runtime.key_of("b", "field", pair)
        runtime._program_counter[0] += 1

    play(party)


def test_both_parties_of_a_pair_have_the_key_and_each_use_has_its_own() -> None:
    async def party(runtime: Runtime) -> dict[Any, bytes]:
        keys = {}

        async def ask(branch: Any) -> None:
            for round_ in range(2):
                for pair in ((0, 1), (0, 2), (1, 2)):
                    if runtime.pid in pair:
                        for operation in ("a", "b"):
                            for field in ("2^127-1", "2^254-245"):
                                use = branch, round_, pair, operation, field
                                keys[use] = runtime.key_of(operation, field, pair)
                await speak(runtime, "next")

        async def twice(branch: Any) -> None:
            await runtime.together(ask((branch, 0)), ask((branch, 1)))

        await runtime.together(ask(0), ask(1), twice(2))
        await ask(None)
        return keys

    by_party = play(party)
    for use in set().union(*by_party):
        pair = use[2]
        assert [use in keys for keys in by_party] == [i in pair for i in range(3)]
        assert by_party[pair[0]][use] == by_party[pair[1]][use]
    different = {key for keys in by_party for key in keys.values()}
    assert len(different) == 5 * 2 * 3 * 2 * 2 and all(len(key) == 32 for key in different)


def test_the_same_operation_in_two_branches_draws_different_numbers() -> None:
    async def party(runtime: Runtime) -> Any:
        mpc = Arithmetic(runtime, FIELD_254, 60)

        async def noise() -> Any:
            return mpc.noise(20, 80, "test")

        first, second = await runtime.together(noise(), noise())
        return mpc.concatenate(first, second).integers()

    found = opened(play(party)).tolist()
    assert len(set(found)) == 40


def test_the_same_operation_in_two_branches_is_the_same_as_one_after_the_other() -> None:
    async def party(runtime: Runtime) -> Any:
        mpc = Arithmetic(runtime, FIELD_254, 60)
        x = dealt([5, -5, 0], runtime.pid)
        bits = await mpc.together(*(mpc.nonnegative(x - i, 20) for i in range(-2, 3)))
        return mpc.concatenate(*bits).integers(), runtime.rounds

    found = play(party)
    bits = opened([shares for shares, _ in found]).reshape(5, 3)
    assert bits.tolist() == [[1, 0, int(i <= 0)] for i in range(-2, 3)]
    assert [rounds for _, rounds in found] == [5] * 3


def test_a_round_awaited_elsewhere_is_only_a_wish() -> None:
    """Nothing is sent until whoever drives the computation performs it."""
    wish = Round("test", {1: b"x"}, {1: 1})
    steps = wish.__await__()
    assert next(steps) is wish
    with pytest.raises(StopIteration) as stop:
        steps.send({1: b"y"})
    assert stop.value.value == {1: b"y"}


def test_links_to_both_peers_are_needed() -> None:
    async def main() -> None:
        links = linked()[0]
        for wrong in ({1: links[1]}, {1: links[1], 2: links[1]}, {0: links[1], 1: links[2]}):
            with pytest.raises(LocalProtocolError):
                Runtime(0, wrong)

    asyncio.run(main())


def test_importing_mpyc_leaves_arguments_logging_and_loop_policy_alone() -> None:
    code = """
import asyncio, logging, sys
sys.argv[1:] = ["run", "-M5", "--party-id", "1", "-V", "-h"]
before = list(sys.argv), logging.root.handlers[:], logging.root.level, asyncio.get_event_loop_policy()
import pipeline.mpc_runtime
assert before == (sys.argv, logging.root.handlers, logging.root.level, asyncio.get_event_loop_policy())
async def main():
    loop = asyncio.get_running_loop()
    assert loop.get_exception_handler() is None
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout == "" and done.stderr == "", done.stderr


def test_the_root_logger_is_as_it_was() -> None:
    assert not logging.root.disabled and logging.root.manager.disable == logging.NOTSET
