"""Time the operations of the join, beside phe's, on one core and on several.

    python benchmarks/join_primitives.py [--bits 2048 3072] [--count 100] [--columns 15]

Times are the best of three rounds, ours and phe's in turn, so that both see
the same machine; on one core it is processor time, with processes it is the
clock's. phe encrypts one value a ciphertext; ours packs a row of `--columns`
values, so the last column compares what one value costs. phe has no separate
encryption for the owner of a key. Then the worker processes: how long until
they answer, the tables they build, the memory of one, and the throughput
against this process alone.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import phe
import psutil  # type: ignore[import-untyped]
from rich.console import Console
from rich.table import Table

from pipeline.compute import Decrypt, EncryptOwn, EncryptPeer, Inspect, Multiply, Workers, cores
from pipeline.messages import Bytes
from pipeline.packing import ciphertexts_per_row, draw_masks
from pipeline.paillier import (
    Decryptor,
    KeyPair,
    OwnEncryptor,
    PeerEncryptor,
    check_ciphertexts,
    multiply,
    residues,
)

ROUNDS = 3
SESSION = bytes(range(32))


def best(clock: Callable[[], float], *calls: Callable[[], object]) -> list[float]:
    """Return the best time of each call by the clock, the calls taking turns."""
    return [min(times) for times in zip(*([timed(clock, call) for call in calls] for _ in range(ROUNDS)), strict=True)]


def timed(clock: Callable[[], float], call: Callable[[], object]) -> float:
    """Return the seconds one call takes."""
    start = clock()
    call()
    return clock() - start


def operations(pair: KeyPair, count: int, columns: int) -> Table:
    """Time each operation in this process and phe's beside it."""
    n, bits = pair.n, pair.n.bit_length()
    public = phe.PaillierPublicKey(n)
    private = phe.PaillierPrivateKey(public, pair.p, pair.q)
    own, peer = OwnEncryptor(pair, SESSION, os.urandom), PeerEncryptor(n, SESSION, os.urandom)
    decryptor = Decryptor(pair)
    plaintexts = draw_masks(count, columns, bits, os.urandom)
    ciphertexts, masks = own.encrypt(plaintexts), peer.encrypt(plaintexts)
    theirs = [public.raw_encrypt(value) for value in range(max(count // 10, 3))]

    def encrypt() -> list[int]:
        return [public.raw_encrypt(value) for value in range(len(theirs))]

    def decrypt() -> list[int]:
        return [private.raw_decrypt(c) for c in theirs]

    def add() -> list[int]:
        return [c * c % public.nsquare for c in theirs]

    table = Table(title=f"{bits} bits, {columns} columns a row, one core")
    for heading in ("operation", "ms a ciphertext", "phe ms", "phe / ours, per value"):
        table.add_column(heading, justify="left" if heading == "operation" else "right", no_wrap=True)
    rows: list[tuple[str, Callable[[], object], list[Callable[[], object]]]] = [
        ("encrypt, own key", lambda: own.encrypt(plaintexts), [encrypt]),
        ("encrypt, peer's key", lambda: peer.encrypt(plaintexts), [encrypt]),
        ("decrypt", lambda: decryptor.decrypt(ciphertexts), [decrypt]),
        ("multiply", lambda: multiply(ciphertexts, masks, n), [add]),
        ("check", lambda: check_ciphertexts(ciphertexts, n), []),
        ("residues", lambda: residues(ciphertexts, n), []),
        ("own tables", lambda: OwnEncryptor(pair, SESSION, os.urandom), []),
        ("peer tables", lambda: PeerEncryptor(n, SESSION, os.urandom), []),
    ]
    ours_count = count * ciphertexts_per_row(columns, bits)
    for name, ours, phes in rows:
        times = best(time.process_time, ours, *phes)
        whole = name.endswith("tables")
        cells = [name, f"{times[0]:.2f} s" if whole else f"{times[0] / ours_count * 1e3:.4f}"]
        for theirs_seconds in times[1:]:
            per_value = (theirs_seconds / len(theirs)) / (times[0] / (count * columns))
            cells += [f"{theirs_seconds / len(theirs) * 1e3:.4f}", f"{per_value:.0f}"]
        table.add_row(*cells)
    return table


def one(workers: Workers, task: Any, *arrays: Bytes) -> Bytes:
    """Return the result for a stream of one part."""
    (result,) = workers.map_parts(task, *([array] for array in arrays))
    return result


def processes(pair: KeyPair, count: int, columns: int) -> Table:
    """Time the same work in this process, in one worker process, and in one for each core."""
    bits, clock = pair.n.bit_length(), time.perf_counter
    plaintexts = draw_masks(count, columns, bits, os.urandom)
    table = Table(title=f"{bits} bits, {count} rows through Workers, seconds")
    for heading in ("where", "up", "tables", "own", "peer", "multiply", "decrypt", "MiB each"):
        table.add_column(heading, justify="left" if heading == "where" else "right", no_wrap=True)
    own, peer = EncryptOwn(SESSION), EncryptPeer(SESSION, pair.n)
    starts = [("this process", partial(Workers.here, pair, os.urandom))]
    starts += [(f"workers: {k}", partial(Workers.spawn, k, pair)) for k in sorted({1, cores()})]
    for where, start in starts:
        begin = clock()
        with start() as workers:
            one(workers, Inspect(pair.n), np.zeros((0, 1, bits // 4), np.uint8))
            up = clock() - begin
            encrypt = [partial(one, workers, task, plaintexts) for task in (own, peer)]
            cold = sum(timed(clock, call) for call in encrypt)
            ciphertexts = encrypt[0]()
            add = partial(one, workers, Multiply(pair.n), ciphertexts, ciphertexts)
            times = best(clock, *encrypt, add, partial(one, workers, Decrypt(), ciphertexts))
            sizes = [child.memory_info().rss >> 20 for child in psutil.Process().children()]
        cells = [f"{up:.2f}", f"{cold - times[0] - times[1]:.2f}", *(f"{t:.3f}" for t in times)]
        table.add_row(where, *cells, "-" if where == "this process" else str(max(sizes)))
    return table


def main() -> None:
    """Print both tables for each size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--bits", type=int, nargs="+", default=[2048, 3072])
    parser.add_argument("--count", type=int, default=100, help="rows")
    parser.add_argument("--columns", type=int, default=15, help="values in a row")
    arguments = parser.parse_args()
    console = Console()
    for bits in arguments.bits:
        pair = KeyPair.generate(bits)
        console.print(operations(pair, arguments.count, arguments.columns))
        console.print(processes(pair, 4 * arguments.count, arguments.columns))


if __name__ == "__main__":
    main()
