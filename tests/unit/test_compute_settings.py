"""`[compute]` of the local file: what is refused and how."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from pipeline.compute_settings import Compute, read_compute
from pipeline.toml_reader import Table


def read(folder: Path, **values: object) -> tuple[Compute, list[str]]:
    faults: list[str] = []
    return read_compute(Table({"compute": values}, "party-0.toml", "", faults), folder), faults


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    for name in ("certificate", "key", "ca"):
        (tmp_path / f"{name}.pem").write_text("PEM")
    (tmp_path / "key.pem").chmod(0o600)
    return {name: f"{name}.pem" for name in ("certificate", "key", "ca")}


def test_without_the_table_there_is_one_process_a_core(tmp_path: Path) -> None:
    faults: list[str] = []
    assert read_compute(Table({}, "party-0.toml", "", faults), tmp_path) == Compute()
    assert not faults


def test_good_ones_are_read(tmp_path: Path, files: dict[str, str]) -> None:
    assert read(tmp_path, workers=256) == (Compute(256), [])
    for address in ("tcp://127.0.0.1:8786", "tcp://[::1]:8786", "tcp://127.8.0.1:1"):
        assert read(tmp_path, scheduler=address) == (Compute(scheduler=address), [])
    compute, faults = read(tmp_path, scheduler="tls://cluster.example:8786", **files)
    assert not faults
    assert compute == Compute(
        None, "tls://cluster.example:8786", *(tmp_path / f"{name}.pem" for name in ("certificate", "key", "ca"))
    )


TLS = "tls://cluster.example:8786"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"workers": 0}, "compute.workers must be a whole number from 1 to 256"),
        ({"workers": 257}, "compute.workers must be a whole number from 1 to 256"),
        ({"workers": True}, "compute.workers must be a whole number, not true"),
        ({"worker": 2}, 'nearest known one is "workers"'),
        ({"scheduler": "tcp://127.0.0.1:8786", "workers": 2}, "compute.workers is for processes on this machine"),
        ({"scheduler": "cluster:8786"}, "compute.scheduler must be like tls://host:8786"),
        ({"scheduler": "http://127.0.0.1:8786"}, "compute.scheduler must be like tls://host:8786"),
        ({"scheduler": "tls://cluster"}, "compute.scheduler must be like tls://host:8786"),
        ({"scheduler": "tls://cluster:99999"}, "compute.scheduler must be like tls://host:8786"),
        ({"scheduler": "tcp://10.0.0.1:8786"}, "compute.scheduler must begin with tls:// unless it is on this machine"),
        ({"scheduler": "tcp://localhost:8786"}, "the private key of the join over this connection"),
        ({"scheduler": "tcp://127.0.0.1:1", "ca": "x"}, "compute.ca is for a scheduler whose address begins with tls"),
        ({"key": "x"}, "compute.key is for a scheduler"),
    ],
)
def test_one_wrong_thing_is_one_sentence(tmp_path: Path, values: dict[str, object], words: str) -> None:
    _, faults = read(tmp_path, **values)
    assert len(faults) == 1
    assert faults[0].startswith("party-0.toml: compute.")
    assert words in faults[0]


@pytest.mark.parametrize("missing", ["certificate", "key", "ca"])
def test_a_scheduler_with_tls_needs_all_three_files(tmp_path: Path, files: dict[str, str], missing: str) -> None:
    _, faults = read(tmp_path, scheduler=TLS, **{name: path for name, path in files.items() if name != missing})
    assert len(faults) == 1
    assert f"compute.{missing} is missing" in faults[0]
    (tmp_path / f"{missing}.pem").unlink()
    _, faults = read(tmp_path, scheduler=TLS, **files)
    assert len(faults) == 1
    assert "does not exist" in faults[0]


def test_a_key_that_others_may_read_is_refused(tmp_path: Path, files: dict[str, str]) -> None:
    (tmp_path / "key.pem").chmod(0o644)
    _, faults = read(tmp_path, scheduler=TLS, **files)
    assert len(faults) == 1
    assert "compute.key" in faults[0]


def test_a_scheduler_without_the_package_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    _, faults = read(tmp_path, scheduler="tcp://127.0.0.1:8786")
    assert len(faults) == 1
    assert "install secure-lasso-pipeline[cluster]" in faults[0]
