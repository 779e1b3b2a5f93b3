"""Run all three parties of a study on this machine, each as a process of its own."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pipeline.config import load_agreement
from pipeline.errors import PipelineError
from pipeline.local_study import run_parties
from pipeline.progress import standard_output


def main() -> int:
    parser = argparse.ArgumentParser(prog="run-three-local", description=__doc__, allow_abbrev=False)
    parser.add_argument("folder", type=Path, help="of a study: holds study.toml and party-0.toml to party-2.toml")
    folder: Path = parser.parse_args().folder
    if folder.name == "study.toml":
        folder = folder.parent
    console = standard_output(markup=True)
    try:
        names = [party.name for party in load_agreement(folder / "study.toml").parties]
        seconds = run_parties(folder, names, console)
    except PipelineError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_state
    console.print(f"\nDone in {seconds:.0f} s; each party's result.json is where its party-N.toml says.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
