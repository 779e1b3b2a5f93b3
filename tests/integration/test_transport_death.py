"""A dead, frozen or unreachable party is noticed; a busy one is left alone."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import pytest
from network import QUICK, WAIT, PartyProcess, at_once, new_node, outcome, small_study, until, until_failure

from pipeline.dialling import LONGEST_DELAY
from pipeline.errors import PeerError
from pipeline.session import Finished

PATIENT = replace(QUICK, beat=0.2, silence=10)  # two seconds
LONG = replace(QUICK, silence=600)  # a minute


@contextmanager
def one_process(folder, party, act=until_failure, settings=PATIENT):
    """A party in a process of its own, and the nodes of the two others here; connected."""
    path = small_study(folder)
    nodes = {p: new_node(path, p, settings) for p in range(3) if p != party}
    with PartyProcess(path, party, act, settings) as process:
        try:
            for node in nodes.values():
                node.start()
            at_once([lambda node=node: node.connect(WAIT, lambda names: None) for node in nodes.values()])
            assert process.answer() == "connected"
            yield process, nodes
        finally:
            at_once([node.close for node in nodes.values()])


def failures(nodes, timeout):
    return at_once([lambda node=node: outcome(lambda: node.receive(timeout)) for node in nodes.values()])


@pytest.mark.parametrize("party, name", [(0, "hospital"), (1, "insurer"), (2, "third-party")])
def test_the_death_of_a_party_is_noticed_at_once_by_both_others(tmp_path, party, name):
    with one_process(tmp_path, party, settings=LONG) as (process, nodes):
        before = time.monotonic()
        process.signal(signal.SIGKILL)
        errors = failures(nodes, WAIT)
        assert time.monotonic() - before < 10  # by the end of its connections, not by its silence
        for error in errors:
            assert isinstance(error, PeerError)
            assert name in str(error)


def test_a_frozen_party_is_noticed_after_some_missing_signs_of_life(tmp_path):
    with one_process(tmp_path, 1) as (process, nodes):
        before = time.monotonic()
        process.signal(signal.SIGSTOP)
        errors = failures(nodes, WAIT)
        assert 1 < time.monotonic() - before < 20
        for error in errors:
            assert isinstance(error, PeerError)
            assert "insurer" in str(error)
        process.signal(signal.SIGCONT)
        error = process.answer()
        assert isinstance(error, PeerError)


def test_a_party_that_dies_before_all_are_there_may_come_again(tmp_path):
    path = small_study(tmp_path)
    node = new_node(path, 1, PATIENT)
    node.start()
    with ExitStack() as processes:
        try:
            result = processes.enter_context(ThreadPoolExecutor(1)).submit(node.connect, WAIT, lambda names: None)
            first = processes.enter_context(PartyProcess(path, 0, until_failure, PATIENT))
            until(lambda: node._shared.missing == (2,))
            first.signal(signal.SIGKILL)
            again = [processes.enter_context(PartyProcess(path, p, until_failure, PATIENT)) for p in (0, 2)]
            assert [process.answer() for process in again] == ["connected", "connected"]
            assert isinstance(result.result(WAIT), bytes)
        finally:
            node.close()


def finish(node, answers):
    node.finish(WAIT)


@pytest.mark.parametrize("party, wait", [(0, 0.5), (2, LONGEST_DELAY + 0.5)])  # it calls, and might be called
def test_a_party_that_was_done_and_comes_again_does_not_disturb_the_end_of_the_others(tmp_path, party, wait):
    with one_process(tmp_path, party, finish) as (process, nodes):
        for node in nodes.values():
            until(lambda node=node: isinstance(node._thread.carrier._session.states[party], Finished))
        process.signal(signal.SIGKILL)
        process.process.join()
        again = new_node(tmp_path / "study.toml", party, PATIENT)
        again.start()
        assert isinstance(outcome(lambda: again.connect(wait, lambda names: None)), PeerError)
        again.close()
        at_once([lambda node=node: node.finish(WAIT) for node in nodes.values()])


def hold_the_interpreter(node, answers):
    """Compute for three seconds without ever letting another thread of this process run."""
    ctypes.PyDLL(None).usleep(3_000_000)
    return node.receive(1.0)


def test_a_party_whose_interpreter_is_held_by_a_computation_is_not_taken_for_dead(tmp_path):
    settings = replace(QUICK, beat=0.5, silence=9)  # half of the usual time
    with one_process(tmp_path, 0, hold_the_interpreter, settings) as (process, nodes):
        assert failures(nodes, 3.5) == [None, None]
        assert process.answer() is None


def test_a_party_whose_interpreter_is_held_does_not_take_the_others_for_dead(tmp_path):
    """What came while its own network thread could not run counts."""
    settings = replace(QUICK, beat=0.1, silence=15)
    patient = replace(settings, silence=100)
    path = small_study(tmp_path)
    nodes = [new_node(path, p, patient) for p in (1, 2)]
    with PartyProcess(path, 0, hold_the_interpreter, settings) as process:
        try:
            for node in nodes:
                node.start()
            at_once([lambda node=node: node.connect(WAIT, lambda names: None) for node in nodes])
            assert process.answer() == "connected"
            assert process.answer() is None
            assert all(node.failure is None for node in nodes)
        finally:
            at_once([node.close for node in nodes])


def test_nobody_is_taken_for_dead_on_a_machine_that_is_fully_loaded(tmp_path):
    seconds = 2.5
    spin = f"import time\nend = time.monotonic() + {seconds}\nwhile time.monotonic() < end: sum(range(10_000))"
    with one_process(tmp_path, 2) as (_, nodes):
        workers = [subprocess.Popen([sys.executable, "-c", spin]) for _ in range(4)]
        exec(spin, {})  # noqa: S102 (this process too)
        assert failures(nodes, 0.5) == [None, None]
        for worker in workers:
            worker.wait()
