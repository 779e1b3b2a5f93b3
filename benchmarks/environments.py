"""Environments of their own for what cannot live beside our packages, from the package index."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from benchmarks import ROOT

FOLDER = ROOT / "benchmarks" / ".environments"
ALONE = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}  # in which they are run


def python_with(name: str, *requirements: str, folder: Path = FOLDER) -> Path:
    """Return the interpreter of the environment `name`, made when it is not there with just these requirements."""
    place = folder / name
    python, stamp = place / "bin" / "python", place / "installed"
    wanted = "\n".join(requirements)
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
        print(f"Making an environment with {', '.join(requirements)} ...", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(place)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *requirements], check=True, env=ALONE)
        stamp.write_text(wanted, encoding="utf-8")
    return python
