"""The demonstration: a whole study on one machine.

Makes the folder of a study, runs the three parties as three processes, and
holds the model against scikit-learn on the plain join.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.config import Agreement, Model, load_agreement
from pipeline.datasets import STUDIES, StudyData
from pipeline.errors import ConfigError
from pipeline.local_study import THIRD_PARTY, free_ports, read_result, run_parties, write_study
from pipeline.messages import HASH_BYTES
from pipeline.packing import ciphertexts_per_row
from pipeline.progress import print_table, standard_output
from pipeline.reference import Reference, plain_fit, standardised_difference

PAILLIER_BITS = 2048  # the default of a real study, 3072, takes three times as long


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
    results = {party.name: read_result(output, party.name) for party in agreement.parties}
    reference = plain_fit(study, Model(study.alpha))
    _show_model(console, results, reference, seconds)
    _show_third_party(console, study, agreement, results[THIRD_PARTY], output)
    return 0


# --- what comes out -------------------------------------------------------------------------------


def _require_scikit_learn() -> None:
    try:
        import sklearn  # noqa: F401
    except ImportError as error:
        raise ConfigError("the demonstration compares with scikit-learn, install it: pip install '.[demo]'") from error


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
