"""Measure parts of the pipeline, or write the tables of docs/performance.md.

    python -m benchmarks [PART ...] [--size N] [--features D] [--bits B] [--json FILE]
    python -m benchmarks report FILE ...

Without a part all of them are measured. Where it makes sense a figure has a
baseline, another way to do the same, measured in the same run.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import distance, end_to_end, hashing, lasso, paillier_parts, report, scaling, sharing
from benchmarks.measuring import Figure, Sizes, document

PARTS: dict[str, Callable[[Sizes], Iterable[Figure]]] = {
    "keyed-hash": hashing.keyed_hash,
    "own-encryption": paillier_parts.own_encryption,
    "mask-encryption": paillier_parts.mask_encryption,
    "third-party": paillier_parts.third_party,
    "decryption": paillier_parts.decryption,
    "sharing": sharing.sharing,
    "gram": sharing.gram,
    "lasso": lasso.lasso,
    "path": lasso.path,
    "folds": lasso.folds,
    "records": sharing.records,
    "end-to-end": end_to_end.end_to_end,
    "distance": distance.distance,
    "scaling": scaling.scaling,
}


def main(arguments: Sequence[str] | None = None) -> None:
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["report"]:
        report.write([Path(name) for name in arguments[1:]])
        return
    parser = _parser()
    options = parser.parse_args(arguments)
    if unknown := [part for part in options.part if part not in PARTS]:
        parser.error(f"there is no part {unknown[0]}; there are {', '.join(PARTS)}")
    sizes = Sizes(options.size, options.features, options.bits, options.field)
    figures: list[Figure] = []
    for part in options.part or PARTS:
        measured = list(PARTS[part](sizes))
        show(console(), measured)
        figures += measured
    if options.json:
        save(options.json, " ".join(["python -m benchmarks", *_without_file(arguments)]), figures)


def console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 140)


def save(file: Path, command: str, figures: Iterable[Figure]) -> None:
    """Write what was measured, and by which command."""
    file.parent.mkdir(parents=True, exist_ok=True)
    content = json.dumps(document(command, figures), indent=1, ensure_ascii=False)
    file.write_text(content + "\n", encoding="utf-8")


def show(screen: Console, figures: Iterable[Figure]) -> None:
    """Print a table for each part."""
    for part, group in groupby(figures, key=lambda figure: figure.part):
        table = Table(title=part, title_justify="left")
        for heading in ("what", "size", "ours", "unit", "baseline", "ratio", "beside"):
            table.add_column(heading, justify="right" if heading in ("ours", "baseline", "ratio") else "left")
        for figure in group:
            size = ", ".join(f"{name} {value:,}" for name, value in figure.size.items())
            baseline = "" if figure.baseline is None else report.number(figure.baseline)
            ratio = "" if figure.ratio is None else f"{figure.ratio:,.1f}"
            table.add_row(figure.what, size, report.number(figure.value), figure.unit, baseline, ratio, figure.beside)
        screen.print(table)


def _parser() -> argparse.ArgumentParser:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--size", type=int, metavar="N", help="records; each part has its own default")
    parser.add_argument("--features", type=int, metavar="D", help="features of both controllers together (30)")
    parser.add_argument("--bits", type=int, metavar="B", help="of the Paillier keys; default: several")
    parser.add_argument(
        "--field", type=int, metavar="B", choices=sorted(sharing.FIELDS), help="bits of the field of step 7 (127)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    return parser


def _without_file(arguments: Sequence[str]) -> list[str]:
    """The arguments as they matter for the figures."""
    if "--json" not in arguments:
        return list(arguments)
    place = list(arguments).index("--json")
    return [*arguments[:place], *arguments[place + 2 :]]


if __name__ == "__main__":
    main()
