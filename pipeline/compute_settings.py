"""The table `[compute]` of the local file: with how many processes, or on which cluster, a party computes."""

from __future__ import annotations

import importlib.util
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from pipeline import pins
from pipeline.toml_reader import Table, shown

MAX_WORKERS = 256
KEYS = ("workers", "scheduler", "certificate", "key", "ca")
TLS_KEYS = ("certificate", "key", "ca")


@dataclass(frozen=True)
class Compute:
    """Where the Paillier work of the join is done.

    workers : processes on this machine; None for one a core.
    scheduler : of a Dask cluster of this party, tls:// or tcp://, instead of processes here.
    certificate, key, ca : files for a tls:// scheduler: whom the cluster believes, and whom we believe.
    """

    workers: int | None = None
    scheduler: str | None = None
    certificate: Path | None = None
    key: Path | None = None
    ca: Path | None = None


def read_compute(top: Table, folder: Path) -> Compute:
    """Read `[compute]`; faults are noted at `top`."""
    table = top.table("compute", "write [compute] on a line of its own, below all other keys")
    table.refuse_unknown(KEYS)
    workers = table.whole("workers", 1, MAX_WORKERS)
    paths = {key: table.path(key, folder) for key in TLS_KEYS}
    scheduler = _scheduler(table)
    if scheduler is not None and "workers" in table.values:
        table.fault("workers", "is for processes on this machine; a cluster has its own number")
    if scheduler is not None and scheduler.startswith("tls:"):
        _check_files(table, paths)
    else:
        for key in TLS_KEYS:
            if key in table.values:
                table.fault(key, "is for a scheduler whose address begins with tls://")
    return Compute(workers, scheduler, **paths)


def _scheduler(table: Table) -> str | None:
    text = table.text("scheduler")
    if text is None:
        return None
    kind, separator, place = text.strip().partition("://")
    host, colon, port = place.rpartition(":")
    if kind not in ("tls", "tcp") or not separator or not host or not colon or not _is_port(port):
        table.fault("scheduler", f"must be like tls://host:8786, or tcp:// on this machine, not {shown(text)}")
    elif kind == "tcp" and not _is_loopback(host):
        table.fault(
            "scheduler",
            "must begin with tls:// unless it is on this machine (127.0.0.1): the cluster gets rows of the table and "
            "the private key of the join over this connection, which tcp:// neither encrypts nor proves the end of",
        )
    elif importlib.util.find_spec("distributed") is None:
        table.fault("scheduler", "needs the package distributed; install secure-lasso-pipeline[cluster]")
    else:
        return text.strip()
    return None


def _check_files(table: Table, paths: dict[str, Path | None]) -> None:
    for key, path in paths.items():
        table.require(key, "a scheduler at tls:// needs certificate, key and ca, files in PEM")
        if path is not None and not path.is_file():
            table.fault(key, f"{path} does not exist or is not a file")
        elif path is not None and key == "key":
            try:
                pins.check_private(path)
            except (ValueError, OSError) as error:
                table.fault(key, f"{path} {error}")


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) < 65536


def _is_loopback(host: str) -> bool:
    """An address, not a name: what a name leads to is for others to say."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
