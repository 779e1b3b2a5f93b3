"""The tools of the benchmarks: a relay that delays, tables between markers."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.measuring import Figure, document
from benchmarks.relay import Relay
from pipeline.local_study import free_ports

ROOT = Path(__file__).parents[2]


def test_what_passes_the_relay_is_unchanged_and_takes_the_round_trip() -> None:
    outside, inside = free_ports(2)
    with socket.create_server(("127.0.0.1", inside)) as server, Relay({outside: inside}, 0.2):

        def echo() -> None:
            connection, _ = server.accept()
            with connection:
                while data := connection.recv(1 << 16):
                    connection.sendall(data)

        threading.Thread(target=echo, daemon=True).start()
        sent = bytes(range(256)) * 2000
        with socket.create_connection(("127.0.0.1", outside)) as connection:
            begin = time.monotonic()
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            received = b"".join(iter(lambda: connection.recv(1 << 16), b""))
        assert received == sent
        assert time.monotonic() - begin >= 0.2


def test_the_report_fills_a_table_it_has_figures_for_and_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "a\n<!-- measured: gram -->\nold\n<!-- end -->\nb\n<!-- measured: spu -->\nkept\n<!-- end -->\n"
    target = tmp_path / "performance.md"
    target.write_text(text)
    monkeypatch.setattr(report, "DOCUMENT", target)
    figure = Figure("gram", "Gram matrix", {"rows": 5000}, 2.0, "s", 50.0, "Python integers")
    measured = tmp_path / "gram.json"
    measured.write_text(json.dumps(document("python -m benchmarks gram", [figure])))
    report.write([measured])
    written = target.read_text()
    assert "| Gram matrix |  | 2.00 s | 50.0 | Python integers | 25.0 |" in written
    assert "5,000 rows: `python -m benchmarks gram`" in written
    assert "old" not in written and "kept" in written
    report.write([measured])
    assert target.read_text() == written


def test_without_a_baseline_what_there_is_more_of_goes_down_the_table() -> None:
    def lines(sizes: tuple[int, ...]) -> list[str]:
        figures = [
            Figure("distance", what, {"ms": ms, "rows": 9}, float(ms), "s") for ms in sizes for what in ("join", "fit")
        ]
        return report.table("distance", document("command", figures)).splitlines()

    few, many = lines((10, 20)), lines((10, 20, 50))
    assert few[1:5] == [
        "| what | 10 ms | 20 ms |",
        "| --- | --- | --- |",
        "| join | 10.0 s | 20.0 s |",
        "| fit | 10.0 s | 20.0 s |",
    ]
    assert few[6].startswith("9 rows: `command`")
    assert many[1] == "| size | join | fit |" and many[5] == "| 50 ms | 50.0 s | 50.0 s |"


def test_a_file_of_measurements_names_no_place_of_this_machine() -> None:
    content = json.dumps(document("python -m benchmarks", []))
    home, host = str(Path.home()), re.escape(socket.gethostname())
    assert home == "/" or home not in content
    assert not re.search(rf"(?<!\w){host}(?!\w)", content)  # a whole word: a machine may be called "vm"


def test_a_difference_has_no_ratio() -> None:
    assert Figure("spu", "largest difference", {}, 1e-14, "sd", 1e-9).ratio is None
    assert Figure("spu", "steps", {}, 2.0, "s", 4.0).ratio == 2.0


def test_every_marked_table_of_the_document_is_of_parts_that_are_measured() -> None:
    marked = {part for _, parts, *_ in report.BLOCK.findall(report.DOCUMENT.read_text()) for part in parts.split()}
    from benchmarks.__main__ import PARTS

    assert marked == set(PARTS) | {"pilot", "spu"}
