"""Step 7 by three processes: dealing Shamir shares and the Gram matrix.

    OPENBLAS_NUM_THREADS=1 python -m benchmarks.sharing --rows 5000 200000 1000000

Shares travel over local pipes. Per party: seconds of CPU (with the pipes, without
making the input), rows per second of CPU, resident memory at the most, and how
much of it came on top of the additive shares the party began with. The first
row of every Gram matrix is checked against the column sums.

Then dealing and the Gram matrix apart; one party's work on the smallest size with
arrays of Python integers, from the same streams, whose Gram matrix must be the
same; and products of square matrices against those of Python integers. All these
in seconds of CPU.

Without OPENBLAS_NUM_THREADS=1 every process starts a BLAS thread for each core,
and these wait for one another spinning.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Iterable
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait

import numpy as np
from numpy.typing import NDArray

from pipeline.field import FIELD_127, FIELD_191, FIELD_254, PrimeField, PseudorandomElements
from pipeline.messages import Bytes, Outgoing, Words
from pipeline.share_convert import ControllerSharing, Dealer, SharingSetting, ThirdPartySharing

FIELDS = {field.bits: field for field in (FIELD_127, FIELD_191, FIELD_254)}
SESSION = bytes(32)
CHUNK = 10_000  # rows made at a time, so that making the input is not what takes the memory
LINKS = ((0, 1), (1, 2), (1, 0), (0, 2))  # sender, receiver


def values_of(owner: int, chunk: int, shape: tuple[int, int]) -> NDArray[np.int64]:
    return np.random.default_rng([owner, chunk]).integers(-(1 << 40), 1 << 40, shape)


def masks_of(owner: int, chunk: int, shape: tuple[int, int]) -> tuple[NDArray[np.uint64], Bytes]:
    """Low words below 2^63 and the high seven bytes: a value added does not carry."""
    rng = np.random.default_rng([9, owner, chunk])
    return rng.integers(0, 1 << 63, shape, np.uint64), rng.integers(0, 256, (*shape, 7), np.uint8)


def additive_share(owner: int, rows: int, width: int, *, masked: bool) -> Bytes:
    """The owner's masked slots, or the masks the other keeps."""
    result = np.empty((rows, width, 15), np.uint8)
    for first in range(0, rows, CHUNK):
        shape = (min(CHUNK, rows - first), width)
        low, high = masks_of(owner, first, shape)
        if masked:
            low += (values_of(owner, first, shape) + (1 << 43)).astype(np.uint64)
        result[first : first + CHUNK, :, :8] = low[..., None].view(np.uint8)
        result[first : first + CHUNK, :, 8:] = high
    return result


def setting_for(rows: int, columns: int, field: PrimeField) -> SharingSetting:
    return SharingSetting(SESSION, (0, 1), {0: columns // 2, 1: columns - columns // 2}, field, rows)


def additive_shares(party: int, setting: SharingSetting) -> tuple[Bytes, Bytes]:
    own = additive_share(party, setting.records, setting.widths[party], masked=True)
    return own, additive_share(1 - party, setting.records, setting.widths[1 - party], masked=False)


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def play(
    party: int,
    setting: SharingSetting,
    outgoing: dict[int, Connection],
    incoming: dict[int, Connection],
    report: Connection,
) -> None:
    """One party's process. No two parties wait for one another to read, so sending may block."""
    role: ControllerSharing | ThirdPartySharing = ThirdPartySharing(setting)
    if party != 2:
        role = ControllerSharing(party, setting, *additive_shares(party, setting), lambda n: bytes([party]) * n)
    before = peak_mib()
    report.send("ready")
    report.recv()
    wall, cpu = time.perf_counter(), time.process_time()

    def send(messages: Iterable[Outgoing]) -> None:
        for item in messages:
            outgoing[item.receiver].send(item.message)

    send(role.start())
    senders = {connection: sender for sender, connection in incoming.items()}
    while role.result is None:
        for connection in wait(list(senders)):
            assert isinstance(connection, Connection)
            try:
                message = connection.recv()
            except EOFError:
                del senders[connection]
                continue
            send(role.receive(senders[connection], message))
    seconds = time.perf_counter() - wall, time.process_time() - cpu
    report.send((*seconds, peak_mib(), peak_mib() - before, role.result.gram[0]))


def run(rows: int, columns: int, field: PrimeField) -> float:
    """Measure, print and check one size; return the CPU seconds of the slowest party."""
    context = get_context("spawn")
    setting = setting_for(rows, columns, field)
    pipes = {link: context.Pipe(duplex=False) for link in LINKS}
    reports = [context.Pipe() for _ in range(3)]
    processes = [
        context.Process(
            target=play,
            args=(
                party,
                setting,
                {to: pipes[sender, to][1] for sender, to in LINKS if sender == party},
                {sender: pipes[sender, to][0] for sender, to in LINKS if to == party},
                reports[party][1],
            ),
        )
        for party in range(3)
    ]
    for process in processes:
        process.start()
    for ours, _ in reports:
        ours.recv()
    for ours, _ in reports:
        ours.send("go")
    results = [ours.recv() for ours, _ in reports]
    for process in processes:
        process.join()
    wall = max(result[0] for result in results)
    print(f"{rows:>8} x {columns}, {field.name}: {wall:.2f} s until all three are done")
    for party, (_, cpu, peak, growth, _) in enumerate(results):
        print(f"    party {party}: {cpu:7.3f} s CPU {rows / cpu:10.0f} rows/s {peak:7.0f} MiB, {growth:4.0f} on top")
    check_sums(setting, [result[4] for result in results])
    return max(float(result[1]) for result in results)


def check_sums(setting: SharingSetting, first_rows: list[Words]) -> None:
    field, rows = setting.field, setting.records
    weights = (3, -3, 1)  # of a polynomial's values at 1, 2 and 3, for degree 2
    opened = sum(w * field.to_ints(share) for w, share in zip(weights, first_rows, strict=True)) % field.p
    sums = [rows]
    for owner in (0, 1):
        total = np.zeros(setting.widths[owner], np.int64)
        for first in range(0, rows, CHUNK):
            total += values_of(owner, first, (min(CHUNK, rows - first), setting.widths[owner])).sum(0)
        sums += total.tolist()
    assert [int(x) for x in opened] == [x % field.p for x in sums], "the column sums are wrong"


def numbers(slots: Bytes) -> NDArray[np.object_]:
    flat = [int.from_bytes(row, "little") for row in slots.reshape(-1, 15).tolist()]
    return np.array(flat, dtype=object).reshape(slots.shape[:2])


def object_gram(
    setting: SharingSetting, own: Bytes, masks: Bytes, dealt: NDArray[np.object_], derived: NDArray[np.object_]
) -> NDArray[np.object_]:
    """Party 1's work with Python integers, `dealt` and `derived` being drawn already."""
    p = setting.field.p
    secret = np.concatenate([-numbers(masks), numbers(own) - (1 << 43)], axis=1) % p
    slope = (dealt - secret) * pow(3, -1, p) % p
    sent = (secret + slope) % p
    kept = (sent + slope) % p
    z = np.concatenate([np.ones((len(kept), 1), dtype=object), (kept + derived) % p], axis=1)
    gram: NDArray[np.object_] = z.T.dot(z) % p
    return gram


def compare_with_objects(rows: int, columns: int, field: PrimeField) -> None:
    """Party 1 alone, in this process, both ways."""
    setting = setting_for(rows, columns, field)
    own, masks = additive_shares(1, setting)
    streams = [setting.stream(dealer, bytes([dealer]) * 32) for dealer in (0, 1)]
    derived, dealt = (field.to_ints(setting.derived(stream, range(rows))) for stream in streams)
    start = time.process_time()
    expected = object_gram(setting, own, masks, dealt, derived)
    slow = time.process_time() - start
    start = time.process_time()
    gram = vectorised_gram(setting, own, masks, streams[0])
    fast = time.process_time() - start
    assert (field.to_ints(gram) == expected).all(), "the two Gram matrices differ"
    print(f"{rows:>8} x {columns}, {field.name}, party 1 alone: Python integers {slow:.2f} s (streams not counted),")
    print(f"    this arithmetic {fast:.3f} s (with streams), {slow / fast:.0f} times faster; Gram matrices equal")


def vectorised_gram(setting: SharingSetting, own: Bytes, masks: Bytes, other: PseudorandomElements) -> Words:
    dealer = Dealer(setting, 1, setting.stream(1, bytes([1]) * 32), own, masks)
    gram = setting.accumulator()
    for rows in setting.parts(4 << 20):
        kept, _ = dealer.deal(rows)
        gram.add(setting.field.add(kept, setting.derived(other, rows)))
    return gram.result()


def measure_steps(rows: int, columns: int, field: PrimeField) -> None:
    """Dealing alone and the Gram matrix alone, in parts of the usual size, in this process."""
    setting = setting_for(rows, columns, field)
    dealer = Dealer(setting, 1, setting.stream(1, bytes(32)), *additive_shares(1, setting))
    gram = setting.accumulator()
    dealing = adding = 0.0
    for part in setting.parts(4 << 20):
        start = time.process_time()
        kept, _ = dealer.deal(part)
        dealt = time.process_time()
        gram.add(kept)
        dealing, adding = dealing + dealt - start, adding + time.process_time() - dealt
    print(
        f"{rows:>8} x {columns}, {field.name}: dealing {rows / dealing:.0f}, Gram matrix {rows / adding:.0f} rows/s CPU"
    )


def compare_products(field: PrimeField) -> None:
    stream = PseudorandomElements(field, bytes(32))
    for d in (30, 100, 200):
        a, b = (stream.elements(i * d * d, d * d).reshape(d, d, field.words) for i in (0, 1))
        times = []
        for _ in range(3):
            start = time.process_time()
            product = field.matmul(a, b)
            times.append(time.process_time() - start)
        x, y = field.to_ints(a), field.to_ints(b)
        start = time.process_time()
        expected = x.dot(y) % field.p
        slow = time.process_time() - start
        assert (field.to_ints(product) == expected).all()
        print(f"    {d} x {d} times {d} x {d}: {min(times) * 1e3:.2f} ms, Python integers {slow * 1e3:.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[5_000, 200_000])
    parser.add_argument("--columns", type=int, default=31)
    parser.add_argument("--field", type=int, choices=FIELDS, default=191, help="bits of the prime")
    options = parser.parse_args()
    field = FIELDS[options.field]
    for rows in options.rows:
        run(rows, options.columns, field)
    measure_steps(min(max(options.rows), 50_000), options.columns, field)
    compare_with_objects(min(options.rows), options.columns, field)
    print(f"matrix products, {field.name}")
    compare_products(field)


if __name__ == "__main__":
    main()
