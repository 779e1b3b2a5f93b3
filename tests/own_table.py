"""A controller with a table, as small as a test needs it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.config import Local, Party
from pipeline.errors import DataError
from pipeline.preprocess import PreparedTable, prepare


def controller(**settings: Any) -> Party:
    """A party with identifier `id` and feature `age`, unless told otherwise."""
    settings = {"identifier": ("id",), "features": ("age",)} | settings
    return Party(0, "hospital", "controller", "https://127.0.0.1:8440", (), **settings)


def local(path: Path, **settings: Any) -> Local:
    return Local(path, Path("k.key"), b"", Path("out"), ("127.0.0.1", 8440), **settings)


def in_file_order(n: int) -> NDArray[np.int64]:
    return np.arange(n)


def write(folder: Path, content: str | bytes | Mapping[str, Any], encoding: str = "utf-8") -> Path:
    """Text or bytes become table.csv, columns become table.parquet."""
    if isinstance(content, Mapping):
        path = folder / "table.parquet"
        pq.write_table(pa.table(dict(content)), path)
        return path
    path = folder / "table.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return path


def prepared(
    folder: Path, content: str | bytes | Mapping[str, Any], party: Party | None = None, **settings: Any
) -> PreparedTable:
    """Step 1 with the rows left in the order of the file."""
    path = write(folder, content, settings.get("encoding", "utf-8"))
    return prepare(party or controller(), local(path, **settings), permutation=in_file_order)


def faults(
    folder: Path, content: str | bytes | Mapping[str, Any], party: Party | None = None, **settings: Any
) -> list[str]:
    """The sentences of the DataError, without the folder; none if the table is fine."""
    try:
        prepared(folder, content, party, **settings)
    except DataError as error:
        return [fault.replace(f"{folder}/", "") for fault in error.faults]
    return []
