"""The demonstration: a whole study on one machine.

Makes the folder of a study as `docs/` describes it (agreement, local files,
keys, tables), runs the three parties as three processes that know nothing but
these files and speak TLS with one another, and holds the model against
scikit-learn on the plain join. Only this module ever sees both tables.
"""

from __future__ import annotations

import hashlib
import json
import os
import queue
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.certificates import keygen
from pipeline.config import Agreement, load_agreement
from pipeline.datasets import STUDIES, StudyData, agreement_text, plain_join, write_csv
from pipeline.errors import ConfigError, OwnInputError, PeerError, PipelineError, Refused
from pipeline.messages import HASH_BYTES
from pipeline.packing import ciphertexts_per_row
from pipeline.progress import print_table, standard_output
from pipeline.report import OUTPUT_FILES

PAILLIER_BITS = 2048  # the default of a real study, 3072, takes three times as long
THIRD_PARTY = "third-party"
COLOURS = ("cyan", "green", "magenta")
HEADING = "# Made for a demonstration: invented identifiers, all three parties on one machine."
MADE = "made.sha256"  # the sums of the files of a demonstration, as they were made
END_SECONDS = 15.0  # for the others to end by themselves when one party has failed
UNHEARD_SECONDS = 2.0  # the same when it failed before it had called them, so that they wait for it


@dataclass(frozen=True, eq=False)
class Reference:
    """scikit-learn's model of the plain join, on the original scale."""

    intercept: float
    coefficients: Mapping[str, float]
    feature_sd: Mapping[str, float]  # population standard deviations
    outcome_sd: float
    r2: float
    records: int


def demo(output: Path, data: str = "rand-hie", force: bool = False) -> int:
    """Make a study in `output`, run it, show the model; return 0. `force` as in `write_study`.

    Raises OwnInputError when the folder is in use or a package is missing, and
    the error of the party that failed first when the run fails.
    """
    console = standard_output(markup=True)
    _require_scikit_learn()
    study = STUDIES[data]()
    write_study(output, study, free_ports(len(study.tables) + 1), PAILLIER_BITS, force)
    agreement = load_agreement(output / "study.toml")
    _introduce(console, study, output)
    seconds = run_parties(output, [party.name for party in agreement.parties], console)
    results = {party.name: _read_result(output, party.name) for party in agreement.parties}
    reference = plain_lasso(study)
    _show_model(console, results, reference, seconds)
    _show_third_party(console, study, agreement, results[THIRD_PARTY], output)
    return 0


# --- the study's folder ---------------------------------------------------------------------------


def write_study(folder: Path, study: StudyData, ports: Sequence[int], bits: int, force: bool = False) -> None:
    """Write agreement, local files, tables and keys of all three parties into `folder`.

    Writes over an earlier demonstration that nobody has changed since or, with
    `force`, over any; refuses (ConfigError) a folder with anything else in it.
    """
    _require_own_folder(folder, force)
    names = [*(table.party for table in study.tables), THIRD_PARTY]
    folder.mkdir(parents=True, exist_ok=True)
    urls = [f"https://127.0.0.1:{port}" for port in ports]
    (folder / "study.toml").write_text(agreement_text(study, urls, bits, HEADING), encoding="utf-8")
    for number, name in enumerate(names):
        lines = [f'private_key = "keys/{name}.key"', f'output = "results/{name}"']
        if name != THIRD_PARTY:
            lines.insert(0, f'data = "data/{name}.csv"')
        (folder / f"party-{number}.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
        for file in OUTPUT_FILES:
            (folder / "results" / name / file).unlink(missing_ok=True)
    write_csv(study, folder / "data")
    for number in range(len(names)):
        keygen(folder / "study.toml", number, local=None, force=True)
    (folder / MADE).write_text("\n".join(_sums(folder)) + "\n", encoding="utf-8")


def _require_own_folder(folder: Path, force: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; name a folder that is empty or does not exist")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    agreement, made = folder / "study.toml", folder / MADE
    known = made.read_text(encoding="utf-8", errors="replace").splitlines() if made.is_file() else []
    headed = agreement.is_file() and agreement.read_text(encoding="utf-8", errors="replace").startswith(HEADING)
    if not known and not headed:
        raise ConfigError(f"{folder} holds other files; name a folder that is empty or does not exist")
    changed = [line.split("  ", 1)[1] for line in _sums(folder) if line not in known]
    if changed and not force:
        raise ConfigError(
            f"{folder} is not as it was made ({', '.join(changed)}); name a folder that is empty or does not exist, or "
            "--force replaces all of it"
        )


def _sums(folder: Path) -> list[str]:
    """A line for each file of a demonstration that is there, as sha256sum writes it.

    Without results, and without keys: who has put another key there has put its certificate there as well.
    """
    patterns = ("study.toml", "party-*.toml", "data/*", "certificates/*")
    files = [path for pattern in patterns for path in sorted(folder.glob(pattern)) if path.is_file()]
    return [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(folder)}" for path in files]


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens on now.

    Below those from which systems take the near ends of their connections, or
    such a connection might take one before the party listens there.
    """
    sockets: list[socket.socket] = []
    while len(sockets) < count:
        with suppress(OSError):
            sockets.append(socket.create_server(("127.0.0.1", 10_000 + secrets.randbelow(20_000))))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


# --- three processes ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """A line on a party's standard error."""

    party: str
    text: str


@dataclass(frozen=True)
class Ended:
    """A party's process has ended; negative states are signals."""

    party: str
    state: int


def run_parties(folder: Path, names: Sequence[str], console: Console) -> float:
    """Run every party of the study in `folder`, show their progress, return the seconds it took.

    When one fails, the others get some seconds to end by themselves; raises
    the error of the one at fault. No process outlives this call.
    """
    begin = time.monotonic()
    events: queue.SimpleQueue[Line | Ended] = queue.SimpleQueue()
    processes: dict[str, subprocess.Popen[str]] = {}
    try:
        for number, name in enumerate(names):
            arguments = ["-m", "pipeline", "run", "--party-id", str(number), "--config", str(folder / "study.toml")]
            console.print(
                f"[{COLOURS[number]}]{escape(name):12}[/] $ python {escape(' '.join(arguments))}", soft_wrap=True
            )
            processes[name] = _start(arguments)
            threading.Thread(target=_listen, args=(name, processes[name], events), daemon=True).start()
        console.print()
        _follow(names, events, console, begin)
    finally:
        _stop(processes.values())
    return time.monotonic() - begin


def _start(arguments: Sequence[str]) -> subprocess.Popen[str]:
    """Start a party; its progress goes to a pipe, its own table of the model nowhere."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


def _listen(name: str, process: subprocess.Popen[str], events: queue.SimpleQueue[Line | Ended]) -> None:
    if process.stderr is not None:
        for text in process.stderr:
            events.put(Line(name, text.rstrip()))
    events.put(Ended(name, process.wait()))


def _follow(names: Sequence[str], events: queue.SimpleQueue[Line | Ended], console: Console, begin: float) -> None:
    """Show lines until all have ended well, or one has failed and the rest has ended or had its time."""
    last: dict[str, str] = dict.fromkeys(names, "")
    colours = dict(zip(names, COLOURS, strict=True))
    failures: list[Ended] = []
    running, deadline = set(names), float("inf")
    while running and time.monotonic() < deadline:
        match _next(events, deadline):
            case Line(party, text):
                last[party] = text or last[party]
                stamp = f"[dim]{time.monotonic() - begin:6.1f} s[/]"
                console.print(f"{stamp}  [{colours[party]}]{escape(party):12}[/] {escape(text)}", soft_wrap=True)
            case Ended(party, state) as ended:
                running.discard(party)
                if state != 0:
                    failures.append(ended)
                    grace = UNHEARD_SECONDS if state == OwnInputError.exit_state else END_SECONDS
                    deadline = min(deadline, time.monotonic() + grace)
    if failures:
        # A state of 4 is mostly the echo of what happened at another party.
        culprit = next((failure for failure in failures if failure.state != PeerError.exit_state), failures[0])
        raise party_error(culprit, last[culprit.party])


def _next(events: queue.SimpleQueue[Line | Ended], deadline: float) -> Line | Ended | None:
    try:
        return events.get(timeout=None if deadline == float("inf") else max(0.0, deadline - time.monotonic()))
    except queue.Empty:
        return None


def party_error(failure: Ended, sentence: str) -> PipelineError:
    """The failed party's last sentence as the error with its exit state."""
    if failure.state < 0:
        name = signal.Signals(-failure.state).name
        return PeerError(f"The process of {failure.party} was ended by {name}; run the demonstration again.")
    text = f"At {failure.party}: {sentence or 'it ended without a word; run the party by itself with --debug.'}"
    if failure.state == Refused.exit_state:
        return Refused("demo", text)
    for kind in (OwnInputError, PeerError):
        if failure.state == kind.exit_state:
            return kind(text)
    return PeerError(text) if failure.state == 130 else PipelineError(text)


def _stop(processes: Iterable[subprocess.Popen[str]]) -> None:
    """End what still runs: first with a request, so that a party can tell the others."""
    running = [process for process in processes if process.poll() is None]
    for process in running:
        process.terminate()
    for process in running:
        try:
            process.wait(timeout=END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


# --- what comes out -------------------------------------------------------------------------------


def _require_scikit_learn() -> None:
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        raise ConfigError("the demonstration compares with scikit-learn, install it: pip install '.[demo]'") from error


def plain_lasso(study: StudyData) -> Reference:
    """Fit scikit-learn's lasso on the plain join, coefficients on the original scale."""
    from sklearn.linear_model import Lasso
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features, outcome = plain_join(study)
    model = make_pipeline(StandardScaler(), Lasso(alpha=study.alpha, tol=1e-12, max_iter=1_000_000))
    model.fit(features.to_numpy(), outcome)
    scaler, lasso = model[0], model[-1]
    slopes = lasso.coef_ / scaler.scale_
    return Reference(
        intercept=float(lasso.intercept_ - slopes @ scaler.mean_),
        coefficients=dict(zip(features.columns, map(float, slopes), strict=True)),
        feature_sd=dict(zip(features.columns, map(float, scaler.scale_), strict=True)),
        outcome_sd=float(np.std(outcome)),
        r2=float(model.score(features.to_numpy(), outcome)),
        records=len(outcome),
    )


def standardised_difference(result: Mapping[str, Any], reference: Reference) -> float:
    """The largest difference of a coefficient, in standard deviations of the outcome per one of the feature."""
    opened: Mapping[str, float] = result["coefficients"]
    return max(
        abs(opened[name] - value) * reference.feature_sd[name] / reference.outcome_sd
        for name, value in reference.coefficients.items()
    )


def _read_result(folder: Path, name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "results" / name / "result.json").read_text(encoding="utf-8"))
    return document


def _introduce(console: Console, study: StudyData, folder: Path) -> None:
    left, right = study.tables
    console.print(f"[bold]{escape(study.about)}[/]")
    console.print(
        f"{left.party}: {len(left.frame)} rows, {right.party}: {len(right.frame)} rows, invented identifiers; "
        f"lasso with alpha = {study.alpha} for {left.party}.{left.outcome}. "
        f"Everything is in {escape(str(folder))}."
    )
    console.print(
        f"To end within two minutes this demonstration uses Paillier keys of {PAILLIER_BITS} bits; "
        "a study that says nothing gets 3072.\n"
    )


def _show_model(
    console: Console, results: Mapping[str, Mapping[str, Any]], reference: Reference, seconds: float
) -> None:
    first, second = (result for name, result in results.items() if name != THIRD_PARTY)
    table = Table(title=f"The model, as {' and '.join(n for n in results if n != THIRD_PARTY)} received it")
    table.add_column("term")
    for heading in ("this pipeline", "scikit-learn", "difference"):
        table.add_column(heading, justify="right")
    rows = {"(intercept)": (first["intercept"], reference.intercept)} | {
        name: (first["coefficients"][name], value) for name, value in reference.coefficients.items()
    }
    for name, (ours, plain) in rows.items():
        table.add_row(escape(name), _number(ours), _number(plain), f"{abs(ours - plain):.0e}")
    console.print()
    print_table(table, console)
    removed = sum(value == 0.0 for value in first["coefficients"].values())
    same = first["coefficients"] == second["coefficients"] and first["intercept"] == second["intercept"]
    console.print(
        f"{first['records']} matched records (plain join: {reference.records}), "
        f"{removed} of {len(first['coefficients'])} coefficients removed by the penalty, "
        f"R² {first['fit']['r2']:.6f} (scikit-learn {reference.r2:.6f}).\n"
        f"Largest difference from scikit-learn: {standardised_difference(first, reference):.1e} standard deviations. "
        f"Both controllers hold {'the same model' if same else 'DIFFERENT MODELS'}. {seconds:.0f} seconds in all."
    )


def _number(value: float) -> str:
    return "0" if value == 0.0 else f"{value:.8f}"


def _show_third_party(
    console: Console, study: StudyData, agreement: Agreement, result: Mapping[str, Any], folder: Path
) -> None:
    console.print("\n[bold]What the third party held[/]")
    for table, party in zip(study.tables, agreement.controllers, strict=True):
        rows = len(table.frame.dropna())
        bits = agreement.join.paillier_bits
        size = rows * (HASH_BYTES + ciphertexts_per_row(party.width, bits) * bits // 4)
        console.print(
            f"- from {table.party}: {rows} complete records, {size / 1e6:.1f} MB of keyed hashes and ciphertexts "
            "whose keys it has not; gone with the process that held them"
        )
    files = sorted(path.name for path in (folder / "results" / THIRD_PARTY).rglob("*") if path.is_file())
    console.print(f"- that {result['records']} of them match; {result['iterations']} iterations of the solver")
    console.print("- one of three shares of the sums and products of the columns, which by itself says nothing")
    console.print(f"- no table; in its folder now: {', '.join(files)}, with the entries {', '.join(result)}")
