"""A whole run of one party: its own input, the connection, steps 1 to 7 in a process of their own, step 8, the result.

The order makes the promises of the exit states true: own input is read and
checked before anything is sent (2); the agreements are compared before any
protocol message (3); from then on the first failure of any party ends the run
at all of them (3 or 4), and the result is written only when all is computed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pipeline import bounds, config, join_process
from pipeline.compute import no_core_dump, start_context
from pipeline.config import Agreement, Local
from pipeline.errors import PipelineError
from pipeline.join_process import FailureReport, JoinResult
from pipeline.messages import MAX_ROWS
from pipeline.progress import Reporter
from pipeline.results import OpenedModel, OwnRows, result_document, write_result

if TYPE_CHECKING:
    from pipeline.secure_lasso import Fit, Problem
    from pipeline.transport import Node

FINISH_SECONDS = 60.0  # for the slowest party to come to the end; a dead one is noticed sooner
GRACE_SECONDS = 5.0  # between a peer's failure and a hard exit, if something does not let go

SUBGROUP_NOTE = (
    "The agreement chose subgroup keys: several times faster, on an assumption less studied than that of standard keys;"
    " docs/threat-model.md says what it costs if it fails"
)


def load(path: Path, party_id: int, local: Path | None) -> tuple[Agreement, Local]:
    """The agreement and the local file, checked; raises ConfigError with every fault."""
    agreement, settings = config.load(path, party_id, local, smallest_tolerance=bounds.smallest_tolerance)
    model = agreement.model
    bounds.plan(MAX_ROWS, len(agreement.names), fit_intercept=model.fit_intercept, max_iterations=model.max_iterations)
    return agreement, settings


def run(agreement: Agreement, local: Local, party_id: int, *, wait: float, show: Reporter) -> dict[str, Any]:
    """This party's part of steps 1 to 8; returns the document it wrote.

    wait: seconds until the other parties must have come.
    """
    no_core_dump()  # keys of the join pass through this process on their way between peer and join process
    show.note(f"Study {agreement.study.name}, agreement {agreement.digest}")
    if agreement.join.keys == "subgroup":
        show.note(SUBGROUP_NOTE)
    with JoinProcess(agreement, local, party_id, show) as join:
        # The join process reads its table meanwhile.
        from pipeline.transport import Node

        join.wait_until_ready()
        node = Node(agreement, local, party_id)
        with _Guard(node):
            node.start()
            show.step("waiting for the other parties")
            session = node.connect(wait, lambda names: show.note(f"Waiting for {_list(names)}"))
            joined = join.play(node, session)
            join.close()
            return _fit_and_write(agreement, local, party_id, node, joined, show)


def _fit_and_write(
    agreement: Agreement, local: Local, party_id: int, node: Node, joined: JoinResult, show: Reporter
) -> dict[str, Any]:
    started = time.monotonic()
    show.step("lasso on the shares")
    fit, rounds = asyncio.run(_fit(agreement, party_id, node, joined, show))
    seconds = dict(joined.seconds) | {"lasso": time.monotonic() - started}
    own_rows = OwnRows(joined.read, joined.dropped) if joined.offsets is not None else None
    model = None
    if fit.coefficients is not None:
        assert fit.intercept is not None and fit.r2 is not None and fit.mse is not None  # noqa: S101 (opened together)
        model = OpenedModel(fit.intercept, fit.coefficients, fit.r2, fit.mse)
    document = result_document(
        agreement,
        records=joined.gram.records,
        iterations=fit.iterations,
        rounds=rounds,
        hiding_bits=fit.hiding_bits,
        sent_bytes=node.sent_bytes,
        seconds=seconds,
        model=model,
        own_rows=own_rows,
    )
    path = write_result(local.output, document)
    show.note(f"Result written to {path}")
    show.step("waiting for the others to finish")
    try:
        node.finish(FINISH_SECONDS)
    except PipelineError as error:  # they have sent all that the result needs
        show.note(f"The result is complete, but not all parties came to a good end: {error}")
    show.close()
    return document


async def _fit(agreement: Agreement, party_id: int, node: Node, joined: JoinResult, show: Reporter) -> tuple[Fit, int]:
    """Step 8; the model and the number of rounds."""
    from pipeline import secure_lasso
    from pipeline.mpc_runtime import make_runtime

    peers = [party.id for party in agreement.parties if party.id != party_id]
    runtime = make_runtime(party_id, {peer: node.link(peer) for peer in peers})
    loop = asyncio.get_running_loop()

    def fail(error: PipelineError) -> None:
        loop.call_soon_threadsafe(runtime.fail, error)

    node.on_failure(fail)
    await runtime.start()
    problem = _problem(agreement, joined)
    limit = agreement.model.max_iterations
    fit = await runtime.supervise(
        secure_lasso.fit(runtime, joined.gram, problem, lambda iteration: show.advance(iteration, limit))
    )
    return fit, runtime.rounds


def _problem(agreement: Agreement, joined: JoinResult) -> Problem:
    from pipeline.secure_lasso import Problem

    owners = tuple(party.id for party in agreement.controllers for _ in range(party.width))
    outcome_party = agreement.outcome_party
    outcome = len(owners) - 1 - owners[::-1].index(outcome_party.id)  # the last of its owner's columns
    factors = agreement.model.factors(agreement.names)
    return Problem(agreement.model, owners, outcome, joined.exponents, joined.offsets or (), factors=factors)


class JoinProcess:
    """The main process's side of the pipe of `join_process.py`."""

    def __init__(self, agreement: Agreement, local: Local, party_id: int, show: Reporter) -> None:
        self._arguments = (agreement, local, party_id)
        self._show = show
        self._events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._ended = threading.Event()
        self._writing = threading.Lock()  # both pumps write to the pipe

    def __enter__(self) -> JoinProcess:
        # Python's resource tracker, a process that inherits these options, removes what a killed process has left
        # behind and then warns of it, after our own last line.
        sys.warnoptions.append("ignore:resource_tracker:UserWarning")
        context = start_context()
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=join_process.main, args=(theirs, *self._arguments, logging.getLogger().isEnabledFor(logging.DEBUG))
        )
        self._process.start()
        theirs.close()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._ended.set()
        self._process.kill()
        self._process.join()

    def wait_until_ready(self) -> None:
        """Until the process has read and prepared its own table; raises its fault."""
        while True:
            match self._read():
                case ("ready",):
                    return
                case ("step", str(words)):
                    self._show.step(words)
                case ("failed", FailureReport() as report):
                    raise report.error()

    def play(self, node: Node, session: bytes) -> JoinResult:
        """Forward messages between the process and the others until it has its result.

        Raises what went wrong first: here, in the process or at a peer.
        """
        node.on_failure(self._events.put)
        self._tell("session", session)
        for pump in (self._outgoing, self._incoming):
            threading.Thread(target=pump, args=(node,), daemon=True).start()
        from pipeline import mpc_runtime, secure_lasso  # noqa: F401 (for step 8, now that there is time)

        while True:
            match self._events.get():
                case ("step", str(words)):
                    self._show.step(words)
                case ("advance", int(done), int(total)):
                    self._show.advance(done, total)
                case ("result", JoinResult() as result):
                    return result
                case ("failed", FailureReport() as report):
                    raise report.error()
                case BaseException() as error:
                    raise error

    def _read(self) -> Any:
        try:
            return self._connection.recv()
        except (EOFError, OSError):
            self._process.join()
            return ("failed", FailureReport(1, ("the process of steps 1 to 7 ended unexpectedly",)))

    def _tell(self, *event: object) -> None:
        with self._writing:
            self._connection.send(event)

    def _outgoing(self, node: Node) -> None:
        while True:
            event = self._read()
            if event[0] != "send":
                self._events.put(event)
                if event[0] in ("result", "failed"):
                    return
                continue
            try:
                node.send(event[1], event[2])
                self._tell("sent")
            except (PipelineError, OSError) as error:
                self._events.put(error)
                return

    def _incoming(self, node: Node) -> None:
        while not self._ended.is_set():
            try:
                arrived = node.receive(timeout=0.5)
                if arrived is not None:
                    self._tell("message", *arrived)
            except (PipelineError, OSError) as error:
                self._events.put(error)
                return


class _Guard:
    """Tells the others why this party stops, and lets nothing outlive a failure.

    When a peer fails, the main thread may be deep in a computation; it has
    `GRACE_SECONDS` to notice, then the process ends with the same sentence.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._over = threading.Event()

    def __enter__(self) -> None:
        self._node.on_failure(self._watch)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if error is not None and self._node.failure is None:
            from pipeline.transport import abort_code

            self._node.abort(abort_code(error))
        self._node.close()

    def _watch(self, error: PipelineError) -> None:
        timer = threading.Timer(GRACE_SECONDS, self._end, (error,))
        timer.daemon = True
        timer.start()

    def _end(self, error: PipelineError) -> None:
        if not self._over.is_set():
            sys.stderr.write(f"{error}\n")
            sys.stderr.flush()
            os._exit(error.exit_state)


def _list(names: tuple[str, ...]) -> str:
    return " and ".join(names)
