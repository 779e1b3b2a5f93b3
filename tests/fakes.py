"""Real roles in memory: a network that plays them against one another.

Everything crosses the network as bytes. Messages between two parties keep their
order, as the transport promises; otherwise any order may happen, and `choose`
decides which does.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from random import Random
from typing import Protocol, TypeVar

import numpy as np

from pipeline import subgroup_keys, wire
from pipeline.compute import Workers
from pipeline.errors import Refused
from pipeline.messages import Message, Outgoing
from pipeline.packing import SLOT_BYTES, VALUE_BOUND, VALUE_OFFSET
from pipeline.paillier import KeyPair, RandomBytes
from pipeline.psi import Addition, Controller, Cryptography, PaillierWorkers, ThirdParty
from pipeline.psi_states import AdditiveShares, Setting, Table

SESSION = bytes(range(32))
BITS = 512  # breakable; only here
THIRD = 2

T = TypeVar("T")


class Role(Protocol):
    def start(self) -> Iterable[Outgoing]: ...

    def receive(self, sender: int, message: Message) -> Iterable[Outgoing]: ...


@dataclass(frozen=True)
class Delivery:
    sender: int
    receiver: int
    data: bytes
    message: Message


@dataclass
class Network:
    """Plays `roles` until nothing is left to do.

    `choose(n)` picks one of n things that could happen next: a party draws its
    next message, or one is delivered. `before` sees each delivery beforehand.
    """

    roles: Mapping[int, Role]
    choose: Callable[[int], int]
    session: bytes = SESSION
    before: Callable[[Delivery], None] = lambda delivery: None
    delivered: list[Delivery] = field(default_factory=list)
    refused: dict[int, Refused] = field(default_factory=dict)

    def run(self) -> Network:
        self._drawing: dict[int, deque[Iterator[Outgoing]]] = {party: deque() for party in self.roles}
        self._links: dict[tuple[int, int], deque[bytes]] = {}
        for party, role in self.roles.items():
            self._drawing[party].append(iter(role.start()))
        while possible := self._possible():
            possible[self.choose(len(possible))]()
        return self

    def received_by(self, party: int) -> list[Delivery]:
        return [delivery for delivery in self.delivered if delivery.receiver == party]

    def _possible(self) -> list[Callable[[], None]]:
        draws = [lambda p=party: self._draw(p) for party, queue in self._drawing.items() if queue]
        deliveries = [lambda k=link: self._deliver(*k) for link, queue in self._links.items() if queue]
        return [*draws, *deliveries]

    def _draw(self, party: int) -> None:
        outgoing = self._guarded(party, lambda: next(self._drawing[party][0], None))
        if outgoing is None:
            self._drawing[party].popleft()
        else:
            data = wire.encode(outgoing.message, self.session)
            self._links.setdefault((party, outgoing.receiver), deque()).append(data)

    def _deliver(self, sender: int, receiver: int) -> None:
        data = self._links[sender, receiver].popleft()
        delivery = Delivery(sender, receiver, data, wire.decode(data, self.session))
        self.before(delivery)
        self.delivered.append(delivery)
        answers = self._guarded(receiver, lambda: self.roles[receiver].receive(sender, delivery.message))
        if answers is not None:
            self._drawing[receiver].append(iter(answers))

    def _guarded(self, party: int, act: Callable[[], T]) -> T | None:
        try:
            return act()
        except Refused as refusal:
            self.refused[party] = refusal
            return None


def in_turn(count: int) -> int:
    """The plainest order: whatever can happen first, happens first."""
    return 0


def shuffled(seed: int) -> Callable[[int], int]:
    return Random(seed).randrange


def stream(seed: str) -> RandomBytes:
    """Random bytes that are the same in each run: for vectors only."""
    drawn = 0

    def draw(count: int) -> bytes:
        nonlocal drawn
        drawn += 1
        return hashlib.shake_256(f"{seed} {drawn}".encode()).digest(count)

    return draw


# --- a small study ----------------------------------------------------------


@cache
def keypair(party: int) -> KeyPair:
    return KeyPair.generate(BITS)


@cache
def subgroup_keypair(party: int) -> KeyPair:
    """A key with a hidden subgroup; its order has 128 bits, breakable, so that it fits the small modulus."""
    return subgroup_keys.generate(BITS, os.urandom, order_bits=64)


def make_table(persons: Iterable[int], width: int, seed: int) -> Table:
    """Rows of `persons`; the first column is the person's number, the others are random up to the bounds."""
    persons = list(persons)
    values = np.random.default_rng(seed).integers(-VALUE_BOUND, VALUE_BOUND, (len(persons), width), endpoint=True)
    values[:, 0] = persons
    if width > 1:
        values[: len(persons) // 2, 1] = VALUE_BOUND
        values[len(persons) // 2 :, 1] = -VALUE_BOUND
    return Table([(f"person {person}", "é") for person in persons], values, tuple(range(width)))


@dataclass
class Study:
    """Three roles over two tables, with what a test may want to replace or look at."""

    persons: tuple[Iterable[int], Iterable[int]]
    widths: tuple[int, int] = (3, 5)
    min_records: int = 0
    session: bytes = SESSION
    keypairs: tuple[KeyPair, KeyPair] | None = None
    seed: str | None = None  # for the same run each time
    bits: int = BITS
    tables: list[Table] | None = None  # instead of those made from `persons`
    cryptography: Callable[[PaillierWorkers], Cryptography] = lambda workers: workers
    addition: Callable[[PaillierWorkers], Addition] = lambda workers: workers
    progress: Callable[[int, str, int, int], None] = lambda party, step, done, total: None

    def __post_init__(self) -> None:
        self.keys = self.keypairs or (keypair(0), keypair(1))
        kind = "standard" if self.keys[0].subgroup is None else "subgroup"
        widths = dict(enumerate(self.widths))
        self.setting = Setting(self.session, (0, 1), THIRD, widths, self.bits, self.min_records, kind)
        self.tables = self.tables or [make_table(self.persons[p], self.widths[p], p) for p in (0, 1)]
        self.controllers = [self._controller(party) for party in (0, 1)]
        self.third_party = ThirdParty(
            self.setting,
            self.addition(PaillierWorkers(Workers.here(None, os.urandom), self.session)),
            self._rng(THIRD),
            self._progress_of(THIRD),
        )
        self.roles: dict[int, Role] = {0: self.controllers[0], 1: self.controllers[1], THIRD: self.third_party}

    def play(self, choose: Callable[[int], int] = in_turn, before: Callable[[Delivery], None] | None = None) -> Network:
        network = Network(self.roles, choose, self.session)
        if before is not None:
            network.before = before
        return network.run()

    def matched_rows(self) -> list[tuple[int, ...]]:
        """The join in the clear, sorted: the first controller's values, then the second's."""
        rows = [{row[0]: tuple(row) for row in table.values.tolist()} for table in self.tables]
        return sorted(rows[0][person] + rows[1][person] for person in rows[0].keys() & rows[1].keys())

    def joined_rows(self) -> list[tuple[int, ...]]:
        """The rows that the additive shares add up to, in the third party's order."""
        first, second = (controller.result for controller in self.controllers)
        assert first is not None
        assert second is not None
        return [a + b for a, b in zip(opened(first, second), opened(second, first), strict=True)]

    def _controller(self, party: int) -> Controller:
        rng, key = self._rng(party), self.keys[party]
        workers = PaillierWorkers(Workers.here(key, rng), self.session, key.modulus, key.base)
        table = self.tables[party]
        return Controller(party, self.setting, table, self.cryptography(workers), rng, self._progress_of(party))

    def _rng(self, party: int) -> RandomBytes:
        return os.urandom if self.seed is None else stream(f"{self.seed} {party}")

    def _progress_of(self, party: int) -> Callable[[str, int, int], None]:
        return lambda step, done, total: self.progress(party, step, done, total)


def opened(owner: AdditiveShares, other: AdditiveShares) -> list[tuple[int, ...]]:
    """Add the two additive shares of the owner's columns."""
    shares = slot_numbers(owner.own) - VALUE_OFFSET - slot_numbers(other.masks)
    return [tuple(row) for row in shares.tolist()]


def slot_numbers(slots: np.ndarray) -> np.ndarray:
    """Slots as Python integers, shape (k, width)."""
    k, width, _ = slots.shape
    flat = [int.from_bytes(slot.tobytes(), "little") for slot in slots.reshape(k * width, SLOT_BYTES)]
    return np.array(flat, object).reshape(k, width)
