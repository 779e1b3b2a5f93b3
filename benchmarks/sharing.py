"""Step 7 by three processes, dealing Shamir shares and adding up the Gram matrix; and both apart.

Shares travel over local pipes. Seconds are processor time with the pipes,
without making the input. The first row of every Gram matrix is checked against
the column sums. The baseline is one party's work with arrays of Python
integers, from the same streams; both Gram matrices must be the same.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait

import numpy as np
from lassos import strongest_penalty, table
from numpy.typing import NDArray

from benchmarks import lasso
from benchmarks.measuring import Figure, Sizes, Stopwatch, best
from pipeline.config import Model
from pipeline.field import FIELD_127, FIELD_191, FIELD_254, PrimeField, PseudorandomElements
from pipeline.messages import Bytes, Outgoing, Words
from pipeline.residues import Residues
from pipeline.share_convert import ControllerSharing, Dealer, SharingSetting, ThirdPartySharing

SESSION = bytes(32)
CHUNK = 10_000  # rows made at a time, so that making the input is not what takes the memory
RECORDS = (5_000, 200_000, 1_000_000)
OBJECT_ROWS = 5_000  # Python integers take seconds for them
OBJECTS = "Python integers"
FIELDS = {field.bits: field for field in (FIELD_127, FIELD_191, FIELD_254)}
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


def setting_for(rows: int, columns: int, bits: int = FIELD_127.bits) -> SharingSetting:
    return SharingSetting(SESSION, (0, 1), {0: columns // 2, 1: columns - columns // 2}, FIELDS[bits], rows)


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
    report.send((*seconds, peak_mib(), peak_mib() - before, role.result.total[0]))


def run(setting: SharingSetting) -> list[tuple[float, float, float, float, Words]]:
    """Measure one size; per party wall and CPU seconds, peak MiB, MiB on top of the input, first row."""
    context = get_context("spawn")
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
    check_sums(setting, [result[4] for result in results])
    return results


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


@dataclass(frozen=True)
class Alone:
    """Party 1's processor seconds for dealing and for its Gram matrix, by both kinds of arithmetic."""

    dealing: float
    gram: float
    dealing_objects: float
    gram_objects: float


def alone(rows: int, columns: int, bits: int) -> Alone:
    """Party 1 alone, in this process. The Python integers do not pay for drawing the streams."""
    setting = setting_for(rows, columns, bits)
    field = setting.field
    own, masks = additive_shares(1, setting)
    streams = [setting.stream(dealer, bytes([dealer]) * 32) for dealer in (0, 1)]
    derived, dealt = (field.to_ints(setting.derived(stream, range(rows))) for stream in streams)
    watch = Stopwatch(time.process_time)
    kept = watch.time("dealing objects", lambda: deal_objects(setting, own, masks, dealt))
    expected = watch.time("gram objects", lambda: object_gram(setting, (kept + derived) % field.p))
    dealer = Dealer(setting, 1, streams[1], own, masks)
    accumulator = setting.accumulator()
    for part in setting.pieces(range(rows)):
        shares, _ = watch.time("dealing", lambda part=part: dealer.deal(part))
        others = setting.derived(streams[0], part)
        watch.time("gram", lambda shares=shares, others=others: accumulator.add_sum(shares, others))
    gram = watch.time("gram", accumulator.result)
    assert (field.to_ints(gram) == expected).all(), "the two Gram matrices differ"
    names = ("dealing", "gram", "dealing objects", "gram objects")
    return Alone(*(watch.seconds[name] for name in names))


def deal_objects(setting: SharingSetting, own: Bytes, masks: Bytes, dealt: NDArray[np.object_]) -> NDArray[np.object_]:
    """What the dealer keeps, with Python integers, `dealt` being drawn already."""
    p = setting.field.p
    secret = np.concatenate([-numbers(masks), numbers(own) - (1 << 43)], axis=1) % p
    slope = (dealt - secret) * pow(3, -1, p) % p
    sent = (secret + slope) % p
    kept: NDArray[np.object_] = (sent + slope) % p
    return kept


def object_gram(setting: SharingSetting, shares: NDArray[np.object_]) -> NDArray[np.object_]:
    z = np.concatenate([np.ones((len(shares), 1), dtype=object), shares], axis=1)
    gram: NDArray[np.object_] = z.T.dot(z) % setting.field.p
    return gram


def sharing(sizes: Sizes) -> Iterator[Figure]:
    """Step 7 in three processes at full size, and dealing alone beside Python integers."""
    rows, columns = sizes.rows(200_000), sizes.columns() + 1
    size: dict[str, int | float] = {"rows": rows, "columns": columns, "bits of the field": sizes.field_bits()}
    results = run(setting_for(rows, columns, sizes.field_bits()))
    yield Figure("sharing", "step 7, three processes", size, max(r[0] for r in results), "s")
    yield Figure("sharing", "step 7, the busiest party", size, max(r[1] for r in results), "s CPU")
    yield Figure("sharing", "step 7, all parties", size, sum(r[1] for r in results), "s CPU")
    yield Figure("sharing", "memory on top of the additive shares", size, max(r[3] for r in results), "MiB")
    few = min(rows, OBJECT_ROWS)
    one = alone(few, columns, sizes.field_bits())
    size = size | {"rows": few}
    yield Figure("sharing", "deal", size, one.dealing / few * 1e6, "µs a row", one.dealing_objects / few * 1e6, OBJECTS)


def records(sizes: Sizes) -> Iterator[Figure]:
    """Steps 7 and 8 over the number of records: what grows with it, and what does not."""
    d = sizes.columns()
    x, y = table("independent", 5_000, d)
    fit = lasso.measure(x, y, Model(alpha=strongest_penalty(x, y, lasso.PENALTY))).whole
    for rows in (sizes.size,) if sizes.size else RECORDS:
        size: dict[str, int | float] = {"rows": rows, "features": d}
        results = run(setting_for(rows, d + 1))
        shared = max(result[0] for result in results)
        yield Figure("records", "steps 7 and 8", size, shared + fit, "s")
        yield Figure("records", "of it step 7", size, shared, "s")
        yield Figure("records", "step 7, all parties", size, sum(result[1] for result in results), "s CPU")
        yield Figure("records", "peak memory of a party", size, max(result[2] for result in results), "MiB")


def gram(sizes: Sizes) -> Iterator[Figure]:
    """The Gram matrix of shares, and the products of matrices step 8 needs."""
    columns = sizes.columns() + 1
    few = min(sizes.rows(OBJECT_ROWS), OBJECT_ROWS)
    one = alone(few, columns, sizes.field_bits())
    size: dict[str, int | float] = {"rows": few, "columns": columns, "bits of the field": sizes.field_bits()}
    yield Figure("gram", "Gram matrix", size, one.gram / few * 1e6, "µs a row", one.gram_objects / few * 1e6, OBJECTS)
    for field in FIELDS.values():
        yield product(field, columns - 1)


def product(field: PrimeField, d: int) -> Figure:
    stream = PseudorandomElements(field, bytes(32))
    a, b = (Residues.of_words(field, stream.elements(i * d * d, d * d)).reshape(d, d) for i in (0, 1))
    x, y = a.integers(), b.integers()
    assert ((a @ b).integers() == x.dot(y) % field.p).all()
    ours, objects = best(lambda: (a @ b).canonical(), lambda: x.dot(y) % field.p)
    what = f"product of two matrices modulo a prime of {field.bits} bits"
    return Figure("gram", what, {"features": d}, ours * 1e3, "ms", objects * 1e3, OBJECTS)
