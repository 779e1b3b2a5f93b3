"""The two ends of the pipe between the main process and that of steps 1 to 7."""

from __future__ import annotations

import multiprocessing
import threading
from typing import Any

import numpy as np
import pytest

from pipeline import wire
from pipeline.errors import (
    ConfigError,
    DataError,
    LocalProtocolError,
    OwnInputError,
    PeerError,
    PipelineError,
    Refused,
    RemoteProtocolError,
)
from pipeline.join_process import FailureReport, PipeChannel
from pipeline.messages import IntersectionSize, RandomShare, TooFewRecords
from pipeline.progress import Silent
from pipeline.run import JoinProcess

SESSION = bytes(range(32))


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (DataError(["a.csv: one", "a.csv: two"]), OwnInputError, "a.csv: one; a.csv: two"),
        (ConfigError("x"), OwnInputError, "x"),
        (Refused("too-few-records", "too few"), Refused, "too few"),
        (RemoteProtocolError("not now"), RemoteProtocolError, "not now"),
        (PeerError("gone"), PeerError, "gone"),
    ],
)
def test_an_error_crosses_the_pipe_with_its_exit_state_and_sentence(
    error: PipelineError, kind: type[PipelineError], text: str
) -> None:
    back = FailureReport.of(error).error()
    assert type(back) is kind and str(back) == text and back.exit_state == error.exit_state
    if isinstance(error, Refused) and isinstance(back, Refused):
        assert back.rule == error.rule
    if isinstance(error, OwnInputError) and isinstance(back, OwnInputError):
        assert back.faults == error.faults


def test_a_bug_crosses_the_pipe_without_its_text() -> None:
    back = FailureReport.of(KeyError("the patient's name")).error()
    assert isinstance(back, LocalProtocolError) and back.exit_state == 1
    assert "patient" not in str(back) and "KeyError" in str(back)


def test_the_channel_is_busy_until_the_main_process_has_taken_the_message() -> None:
    ours, theirs = multiprocessing.Pipe()
    channel = PipeChannel(theirs, SESSION)
    assert channel.free()
    channel.send(2, TooFewRecords())
    assert not channel.free()
    assert ours.recv() == ("send", 2, wire.encode(TooFewRecords(), SESSION))
    ours.send(("message", 1, wire.encode(IntersectionSize(5), SESSION)))
    ours.send(("sent",))
    channel.wait()
    assert channel.free()
    assert channel.receive(block=True) == (1, IntersectionSize(5))
    assert channel.receive(block=False) is None


def test_two_threads_do_not_mix_what_they_tell_the_process() -> None:
    ours, theirs = multiprocessing.Pipe()
    join = JoinProcess(None, None, 0, Silent())  # type: ignore[arg-type]
    join._connection = ours
    large = wire.encode(RandomShare(0, 4000, np.zeros((4000, 1, 512), np.uint8)), SESSION)

    def tell(*event: Any) -> None:
        for _ in range(30):
            join._tell(*event)

    threads = [threading.Thread(target=tell, args=event) for event in (("message", 2, large), ("sent",))]
    for thread in threads:
        thread.start()
    events = [theirs.recv() for _ in range(60)]
    for thread in threads:
        thread.join()
    assert events.count(("sent",)) == 30
    assert sum(event == ("message", 2, large) for event in events) == 30
