"""A whole run of one party: its own input, the connection, steps 1 to 7 in a process of their own, step 8, the result.

`fit` does step 8 alone, on shares that an earlier run has kept.

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
from contextlib import ExitStack, suppress
from datetime import UTC, date, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from pipeline import analyses, bounds, config, join_process, kept_shares
from pipeline.analyses import Statement
from pipeline.compute import no_core_dump, start_context
from pipeline.config import Agreement, Local
from pipeline.errors import ConfigError, DataError, OwnInputError, PeerError, PipelineError, Refused
from pipeline.fixed_point import encoded_columns
from pipeline.join_process import FailureReport, JoinResult
from pipeline.kept_shares import About, KeptShares, NewShares, UnnamedFile
from pipeline.messages import MAX_ROWS
from pipeline.progress import Reporter
from pipeline.report import write_outputs
from pipeline.results import OwnRows, result_document

if TYPE_CHECKING:
    from pipeline.mpc_runtime import Runtime
    from pipeline.secure_analysis import Analysis
    from pipeline.transport import Node

FINISH_SECONDS = 60.0  # for the slowest party to come to the end; a dead one is noticed sooner
TELL_SECONDS = 30.0  # for the others to come, so that they can be told that nothing can be analysed here
GRACE_SECONDS = 5.0  # between a peer's failure and a hard exit, if something does not let go

SUBGROUP_NOTE = (
    "The agreement chose subgroup keys: several times faster, on an assumption less studied than that of standard keys;"
    " docs/threat-model.md says what it costs if it fails"
)


def load(path: Path, party_id: int, local: Path | None) -> tuple[Agreement, Local]:
    """The agreement and the local file, checked; raises ConfigError with every fault."""
    agreement, settings = config.load(path, party_id, local, smallest_tolerance=bounds.smallest_tolerance)
    bounds.plan_of(agreement, MAX_ROWS)
    return agreement, settings


class Shares(Protocol):
    """Shares of the matched table, as new as the join or kept since an earlier one."""

    @property
    def statement(self) -> Statement: ...

    def count(self, statement: Statement) -> About: ...


def run(agreement: Agreement, local: Local, party_id: int, *, wait: float, show: Reporter) -> dict[str, Any]:
    """This party's part of steps 1 to 8; returns the document it wrote.

    wait: seconds until the other parties must have come.
    """
    no_core_dump()  # keys of the join pass through this process on their way between peer and join process
    show.note(f"Study {agreement.study.name}, agreement {agreement.digest}")
    if agreement.join.keys == "subgroup":
        show.note(SUBGROUP_NOTE)
    with ExitStack() as stack:
        content = _place_for_shares(agreement, local, stack)
        join = stack.enter_context(JoinProcess(agreement, local, party_id, show, content))
        # The join process reads its table meanwhile.
        from pipeline.transport import Node

        join.wait_until_ready()
        node = Node(agreement, local, party_id)
        with _Guard(node):
            session = _connect(node, wait, show)
            joined = join.play(node, session)
            join.close()
            shares = None
            if content is not None:
                shares = NewShares(local.output, content, _about(agreement, party_id, session, joined))
            return _fit_and_write(agreement, local, party_id, node, joined, show, shares)


def fit(agreement: Agreement, local: Local, party_id: int, *, wait: float, show: Reporter) -> dict[str, Any]:
    """This party's part of step 8 on kept shares; arguments and result as of `run`.

    Where there are no shares that could be analysed, the others are told, so that they do not wait.
    """
    no_core_dump()
    if not agreement.study.keep_shares:
        raise ConfigError(
            "the agreement has no `keep_shares = true` in [study], so there is nothing to fit; run the study"
        )
    show.note(f"Study {agreement.study.name}, agreement {agreement.digest}")
    from pipeline.transport import Command, Node

    fault: OwnInputError | None = None
    try:
        kept = kept_shares.find(local.output, agreement, party_id)
        joined = _joined_before(agreement, party_id, kept)
    except OwnInputError as error:
        fault = error
    node = Node(agreement, local, party_id, command=Command.FIT)
    with _Guard(node):
        if fault is not None:
            show.note(f"{fault}. The others are told when they come")
            with suppress(PeerError):
                _connect(node, min(wait, TELL_SECONDS), show)
            raise fault
        _connect(node, wait, show)
        return _fit_and_write(agreement, local, party_id, node, joined, show, kept)


def forget(agreement: Agreement, output: Path) -> str:
    """Destroy this party's kept shares of the study; returns a sentence that says what was destroyed."""
    return kept_shares.destroy(output, agreement.study.name)


def _connect(node: Node, wait: float, show: Reporter) -> bytes:
    node.start()
    show.step("waiting for the other parties")
    return node.connect(wait, lambda names: show.note(f"Waiting for {_list(names)}"))


# Kept shares


def _place_for_shares(agreement: Agreement, local: Local, stack: ExitStack) -> UnnamedFile | None:
    """Where the join writes shares, if they are to be kept."""
    if not agreement.study.keep_shares:
        return None
    if analyses.is_past(agreement, _today()):
        raise ConfigError("study.keep_until in the agreement is in the past, so kept shares would be refused at once")
    kept_shares.refuse_other_study(local.output, agreement.study.name)
    content = UnnamedFile.inside(local.output)
    stack.callback(content.close)
    return content


def _about(agreement: Agreement, party_id: int, session: bytes, joined: JoinResult) -> About:
    assert joined.kept is not None  # noqa: S101 (the join had a file to write to)
    until = agreement.study.keep_until
    return About(
        study=agreement.study.name,
        revision=agreement.study.revision,
        party=party_id,
        join=kept_shares.join_identifier(session).hex(),
        join_digest=agreement.join_digest,
        field=joined.gram.field.name,
        records=joined.gram.records,
        widths=tuple(party.width for party in agreement.controllers),
        exponents=joined.exponents,
        offsets=joined.offsets,
        two_valued=joined.two_valued,
        read=joined.read,
        dropped=joined.dropped,
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        keep_until=None if until is None else until.isoformat(),
        analyses=0,
        opened=0,
        sha256=joined.kept,
    )


def _joined_before(agreement: Agreement, party_id: int, kept: KeptShares) -> JoinResult:
    """What the join left, from the shares kept of it. Raises SharesMissing; DataError if they do not fit the model."""
    started, about = time.monotonic(), kept.about
    if about.offsets is not None:
        limit = 1 << bounds.offset_bits(agreement.model.fit_intercept)
        names = encoded_columns(agreement.party(party_id))
        far = [name for (name, _), offset in zip(names, about.offsets, strict=False) if abs(offset) > limit]
        if far:
            raise DataError(f"column {name}: too far from zero for a model without an intercept" for name in far)
    gram = kept.gram(max(1, agreement.model.folds))
    seconds = {"load": time.monotonic() - started}
    return JoinResult(
        gram, about.exponents, about.offsets, about.read, about.dropped, seconds, about.two_valued, about.sha256
    )


async def _count(
    runtime: Runtime, agreement: Agreement, records: int, shares: Shares, show: Reporter
) -> dict[str, int | str | None]:
    """Compare with the others what is kept and what has been counted; count this analysis before it begins.

    Returns what the result says of it. Refused, at all parties alike, if it is not allowed.
    """
    own = shares.statement
    peers = [party.id for party in agreement.parties if party.id != runtime.pid]
    outgoing, sizes = dict.fromkeys(peers, own.pack()), dict.fromkeys(peers, Statement.SIZE)
    arrived = await runtime.supervise(runtime.exchange("kept shares", outgoing, sizes))
    if own.digest.hex() != agreement.join_digest:
        show.note("The shares kept here are of an agreement that differs from this one in more than [model]")
    so_far = analyses.compared(agreement, own, map(Statement.unpack, arrived.values()))
    if so_far != own:
        shares.count(so_far)
    allowed, limit = agreement.study.max_analyses, analyses.opened_limit(agreement, records)
    words = analyses.count_in_words(agreement, records, so_far)
    try:
        counted = analyses.admitted(agreement, records, so_far, _today())
    except Refused:
        show.note(words)
        raise
    shares.count(counted)
    show.note(words)
    return {
        "join": counted.join.hex(),
        "analyses": counted.analyses,
        "max_analyses": allowed,
        "opened_numbers": counted.opened,
        "max_opened_numbers": limit,
    }


def _today() -> date:
    return datetime.now(UTC).date()


# Step 8


def _fit_and_write(
    agreement: Agreement,
    local: Local,
    party_id: int,
    node: Node,
    joined: JoinResult,
    show: Reporter,
    shares: Shares | None,
) -> dict[str, Any]:
    started = time.monotonic()
    show.step("lasso on the shares")
    from pipeline.opened_model import notes, opened_model

    analysis, rounds, opened, counts = asyncio.run(_fit(agreement, party_id, node, joined, show, shares))
    seconds = dict(joined.seconds) | {"lasso": time.monotonic() - started}
    own_rows = OwnRows(joined.read, joined.dropped) if joined.offsets is not None else None
    records = joined.gram.records
    document = result_document(
        agreement,
        records=records,
        iterations=analysis.iterations,
        rounds=rounds,
        hiding_bits=analysis.hiding_bits,
        sent_bytes=node.sent_bytes,
        seconds=seconds,
        model=opened_model(agreement, analysis, records),
        own_rows=own_rows,
        opened=opened,
        notes=notes(agreement, analysis),
    )
    if counts is not None:
        document["kept_shares"] = counts
    path = write_outputs(local.output, document)
    show.note(f"Result written to {path}")
    show.step("waiting for the others to finish")
    try:
        node.finish(FINISH_SECONDS)
    except PipelineError as error:  # they have sent all that the result needs
        show.note(f"The result is complete, but not all parties came to a good end: {error}")
    show.close()
    return document


async def _fit(
    agreement: Agreement, party_id: int, node: Node, joined: JoinResult, show: Reporter, shares: Shares | None
) -> tuple[Analysis, int, list[str], dict[str, int | str | None] | None]:
    """Step 8; what was learnt, the number of rounds, the names of what was opened, and what is said of kept shares."""
    from pipeline import secure_analysis, study_problem
    from pipeline.mpc_runtime import make_runtime

    peers = [party.id for party in agreement.parties if party.id != party_id]
    runtime = make_runtime(party_id, {peer: node.link(peer) for peer in peers})
    loop = asyncio.get_running_loop()

    def fail(error: PipelineError) -> None:
        loop.call_soon_threadsafe(runtime.fail, error)

    node.on_failure(fail)
    await runtime.start()
    counts = None if shares is None else await _count(runtime, agreement, joined.gram.records, shares, show)
    joined = study_problem.analysed(agreement, party_id, joined)
    problem = study_problem.problem_of(agreement, party_id, joined)
    limit = agreement.model.max_iterations
    analysis = await secure_analysis.analyse(
        runtime, joined.gram, problem, lambda iteration: show.advance(iteration, limit)
    )
    return analysis, runtime.rounds, runtime.opened, counts


class JoinProcess:
    """The main process's side of the pipe of `join_process.py`."""

    def __init__(
        self, agreement: Agreement, local: Local, party_id: int, show: Reporter, shares: UnnamedFile | None = None
    ) -> None:
        self._arguments = (agreement, local, party_id, shares)
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
        from pipeline import mpc_runtime, secure_analysis, study_problem  # noqa: F401 (for step 8, now that there is time)

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
