"""Arguments in, exit state out.

Exit states: 0 done, 1 a bug, 2 own input wrong, 3 refused, 4 a peer failed,
130 interrupted. On every state but 0 the last line on standard error is one
sentence: what happened, at whose side, what to do.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from pipeline import __version__
from pipeline.errors import OwnInputError, PipelineError

INTERRUPTED = 130

# One BLAS thread a process: three parties and their workers share the machine.
for _variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit state."""
    options = _parser().parse_args(arguments)
    # Without --debug only our own sentences are written; libraries log what is handled where it is used.
    logging.basicConfig(level=logging.DEBUG if options.debug else logging.CRITICAL + 1)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        command: Callable[[argparse.Namespace], int] = options.command
        return command(options)
    except KeyboardInterrupt:
        return _fail(INTERRUPTED, ["Interrupted here; nothing was written, start again when ready."])
    except OwnInputError as error:
        _trace(options)
        return _fail(error.exit_state, [*error.faults, *_count(error)])
    except PipelineError as error:
        _trace(options)
        return _fail(error.exit_state, [str(error)])
    except BrokenPipeError:
        return 1
    except ModuleNotFoundError as error:
        _trace(options)
        return _fail(
            2, [f"The package {error.name} is not installed for this Python; activate the environment (.venv)."]
        )
    except Exception as error:  # the one place where a bug becomes a sentence
        _trace(options)
        return _fail(1, [f"A bug in the pipeline ({type(error).__name__}); run again with --debug and report it."])


def _count(error: OwnInputError) -> list[str]:
    if len(error.faults) < 2:
        return []
    return [f"{len(error.faults)} faults in this party's own input, each named above: mend them and start again."]


def _fail(state: int, lines: Sequence[str]) -> int:
    for line in lines:
        sys.stderr.write(" ".join(line.split()) + "\n")
    sys.stderr.flush()
    return state


def _trace(options: argparse.Namespace) -> None:
    if options.debug:
        traceback.print_exc()


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    signal.raise_signal(signal.SIGINT)  # whoever handles an interrupt now, asyncio among them, handles this


def _run(options: argparse.Namespace) -> int:
    from pipeline.run import run

    return _analyse(options, run)


def _fit(options: argparse.Namespace) -> int:
    from pipeline.run import fit

    return _analyse(options, fit)


def _analyse(options: argparse.Namespace, what: Callable[..., dict[str, Any]]) -> int:
    from pipeline.progress import print_table, reporter, standard_output
    from pipeline.results import model_table, summary_lines
    from pipeline.run import load

    show = reporter()
    try:
        agreement, local = load(options.config, options.party_id, options.local)
        document = what(agreement, local, options.party_id, wait=options.wait, show=show)
    except BaseException:
        show.stop()
        raise
    show.close()
    console = standard_output()
    if "coefficients" in document:
        print_table(model_table(document), console)
    for line in summary_lines(document):
        console.print(line)
    return 0


def _forget(options: argparse.Namespace) -> int:
    from pipeline.config import output_of
    from pipeline.run import forget

    agreement, output = output_of(options.config, options.party_id, options.local)
    sys.stdout.write(forget(agreement, output) + "\n")
    return 0


def _keygen(options: argparse.Namespace) -> int:
    from pipeline.certificates import keygen

    for line in keygen(options.config, options.party_id, local=options.local, force=options.force):
        sys.stdout.write(line + "\n")
    return 0


def _check(options: argparse.Namespace) -> int:
    from pipeline.check import check, print_report
    from pipeline.progress import standard_output

    report = check(options.config, options.party_id, options.local)
    print_report(report, standard_output())
    if report.faults:
        raise OwnInputError(report.faults)
    return 0


def _demo(options: argparse.Namespace) -> int:
    from pipeline.demo import demo

    return demo(options.output, options.data, options.force)


def _experiment(options: argparse.Namespace) -> int:
    from pipeline.experiment import experiment

    try:
        return experiment(options.file, options.output)
    except KeyboardInterrupt:
        return _fail(
            INTERRUPTED, ["Interrupted here; the points that are done are kept, give the same command to go on."]
        )


def _predict(options: argparse.Namespace) -> int:
    from pipeline.config import MISSING
    from pipeline.predict import predict

    report = predict(
        options.model,
        options.data,
        options.output,
        decimal=options.decimal,
        encoding=options.encoding,
        missing=tuple(options.missing) if options.missing is not None else MISSING,
    )
    sys.stdout.write(report.sentence + "\n")
    return 0


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or value <= 0:
        raise argparse.ArgumentTypeError("must be a positive number of seconds")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline",
        description="Lasso regression over two tables that never meet.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function: Callable[[argparse.Namespace], int], words: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=words, description=words, allow_abbrev=False)
        sub.set_defaults(command=function)
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        return sub

    def party_command(name: str, function: Callable[[argparse.Namespace], int], words: str) -> argparse.ArgumentParser:
        sub = command(name, function, words)
        sub.add_argument("--party-id", type=int, required=True, metavar="N", help="this party's id in the agreement")
        sub.add_argument("--config", type=Path, required=True, metavar="FILE", help="the agreement, study.toml")
        sub.add_argument("--local", type=Path, metavar="FILE", help="instead of party-N.toml beside the agreement")
        return sub

    sub = party_command("run", _run, "this party's part of the study: join, secret sharing, lasso")
    sub.add_argument("--wait", type=_seconds, default=3600.0, metavar="SECONDS", help="for the others (3600)")
    sub = party_command("fit", _fit, "another model on the shares that all parties have kept of a join")
    sub.add_argument("--wait", type=_seconds, default=3600.0, metavar="SECONDS", help="for the others (3600)")
    party_command("forget", _forget, "destroy the shares that this party has kept")
    sub = party_command("keygen", _keygen, "make this party's TLS key and certificate")
    sub.add_argument("--force", action="store_true", help="overwrite an existing key and certificate")
    party_command("check", _check, "read agreement, local file and table; talk to nobody; name every fault")
    sub = command("demo", _demo, "make a study on this machine and run it as three real processes")
    sub.add_argument("--output", type=Path, required=True, metavar="DIR", help="a folder for the study")
    sub.add_argument("--data", choices=("rand-hie", "heart-failure"), default="rand-hie")
    sub.add_argument("--force", action="store_true", help="replace an earlier demonstration that was changed, too")
    sub = command("experiment", _experiment, "run a grid of studies on this machine: a table and pictures")
    sub.add_argument("file", type=Path, metavar="FILE", help="the experiment, .toml")
    sub.add_argument(
        "--output", type=Path, metavar="DIR", help="a folder for the results (results/experiments/<name of FILE>)"
    )
    sub = command("predict", _predict, "apply a model to a table")
    sub.add_argument("--model", type=Path, required=True, metavar="FILE", help="result.json")
    sub.add_argument("--data", type=Path, required=True, metavar="FILE", help="the table, .csv or .parquet")
    sub.add_argument(
        "--output", type=Path, required=True, metavar="FILE", help="the table with predictions, .csv or .parquet"
    )
    sub.add_argument(
        "--decimal", choices=(".", ","), metavar="SIGN", default=".", help="the decimal sign of the table (.)"
    )
    sub.add_argument("--encoding", default="utf-8", help="the encoding of the table (utf-8)")
    sub.add_argument("--missing", action="append", metavar="CODE", help="a missing value; may be given again")
    return parser
