"""The scripts' own set-up, with a false Python so that nothing is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = [path for path in sorted((ROOT / "scripts").iterdir()) if path.suffix in ("", ".sh") and path.is_file()]
FALSE_PYTHON = """#!/bin/sh
echo "$*" >> "$LOG"
case "$*" in
*"-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
*"pip install"*) test -z "$NO_NETWORK" ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with what the set-up reads, and in `bin` the few programs it may find."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "environment.sh", tmp_path / "scripts")
    (tmp_path / "setup.cfg").write_text("[metadata]\n")
    (tmp_path / "pipeline").mkdir()
    for name in ("pyproject.toml", "setup.py", "pipeline/_kernels.c"):
        (tmp_path / name).write_text("")
    (tmp_path / "bin").mkdir()
    for program in ("bash", "sh", "cat", "cksum", "mkdir", "cp"):
        (tmp_path / "bin" / program).symlink_to(shutil.which(program) or program)
    return tmp_path


def add_python(checkout: Path) -> None:
    (checkout / "bin" / "python3").write_text(FALSE_PYTHON)
    (checkout / "bin" / "python3").chmod(0o755)


def set_up(checkout: Path, extra: str = "demo", **environment: str) -> tuple[int, str, list[str]]:
    """Run the set-up; return its state, what it said, and what Python was asked to do."""
    log = checkout / "log"
    log.write_text("")
    done = subprocess.run(
        ["bash", "-c", f"set -eu; . scripts/environment.sh; make_environment {extra}"],
        cwd=checkout,
        env={"PATH": str(checkout / "bin"), "LOG": str(log), "NO_NETWORK": "", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr, log.read_text().splitlines()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_valid_shell_and_can_be_run(script: Path) -> None:
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    assert script.suffix == ".sh" or os.access(script, os.X_OK)


def test_without_a_recent_python_the_set_up_says_so(checkout: Path) -> None:
    (checkout / "bin" / "python3").write_text("#!/bin/sh\nexit 1\n")  # as an older version answers the question
    (checkout / "bin" / "python3").chmod(0o755)
    state, said, _ = set_up(checkout)
    assert state != 0
    assert said.startswith("No Python 3.11 or later was found; install one")
    assert len(said.splitlines()) == 1, "and tries nothing else"


def test_the_set_up_makes_an_environment_and_installs_the_extra(checkout: Path) -> None:
    add_python(checkout)
    state, _, asked = set_up(checkout, "dev")
    assert state == 0
    assert any(line.startswith("-m venv") for line in asked)
    assert asked[-1].endswith("--editable .[dev]")


def test_a_second_call_does_nothing_until_setup_cfg_changes(checkout: Path) -> None:
    add_python(checkout)
    set_up(checkout)
    assert set_up(checkout) == (0, "", [])
    (checkout / "setup.cfg").write_text("[metadata]\nname = other\n")
    _, _, asked = set_up(checkout)
    assert asked[-1].endswith("--editable .[demo]")
    assert not any("venv" in line for line in asked), "the environment itself is still good"


def test_what_is_compiled_is_compiled_again_when_it_changes(checkout: Path) -> None:
    add_python(checkout)
    set_up(checkout)
    (checkout / "pipeline" / "_kernels.c").write_text("/* other */\n")
    assert set_up(checkout)[2][-1].endswith("--editable .[demo]")


def test_one_extra_does_not_stand_for_another(checkout: Path) -> None:
    add_python(checkout)
    set_up(checkout, "demo")
    assert set_up(checkout, "dev")[2][-1].endswith("--editable .[dev]")


def test_an_installation_that_failed_is_tried_again(checkout: Path) -> None:
    add_python(checkout)
    state, said, _ = set_up(checkout, NO_NETWORK="1")
    assert state != 0
    assert said.splitlines()[-1].startswith("The packages could not be installed")
    assert set_up(checkout)[2][-1].endswith("--editable .[demo]")
