"""Write a study for three parties on this machine: agreement, local files, tables, keys."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pipeline.datasets import heart_failure, rand_hie
from pipeline.errors import OwnInputError
from pipeline.local_study import free_ports, write_study


def main() -> int:
    parser = argparse.ArgumentParser(prog="make-synthetic-data", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "folder",
        type=Path,
        help="empty, not there yet, or one made by this script before and not changed since, which is replaced",
    )
    parser.add_argument("--force", action="store_true", help="replace one that was changed, too")
    parser.add_argument("--data", choices=("heart-failure", "rand-hie"), default="heart-failure")
    parser.add_argument("--matches", type=int, default=4000, help="records complete in both tables (4000)")
    parser.add_argument("--hospital", type=int, default=5000, help="rows of the hospital's table (5000)")
    parser.add_argument("--insurer", type=int, default=6000, help="rows of the insurer's table (6000)")
    parser.add_argument("--seed", type=int, default=1, help="another seed, other tables (1)")
    parser.add_argument("--paillier-bits", type=int, default=3072, help="2048 or 3072 (3072)")
    options = parser.parse_args()
    make = {"heart-failure": heart_failure, "rand-hie": rand_hie}[options.data]
    try:
        study = make(options.matches, options.hospital, options.insurer, options.seed)
        write_study(options.folder, study, free_ports(3), options.paillier_bits, options.force)
    except OwnInputError as error:
        sys.stderr.write("\n".join(error.faults) + "\n")
        return error.exit_state
    sys.stdout.write(f"Written to {options.folder}. Run it with: scripts/run-three-local {options.folder}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
