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

from pipeline.errors import LocalProtocolError, PeerError, PipelineError, RemoteProtocolError
from pipeline.field import FIELD_254
from pipeline.mpc_runtime import MAX_PAYLOAD, OPENED, Codec, Runtime, object_array

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
                await runtime.open_to_all(name, None)
        with pytest.raises(LocalProtocolError, match="must not be opened"):
            await runtime.open_to_controllers("conditions hold", None, (0, 1))

    play(attempts)
    assert "slopes" in OPENED


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
