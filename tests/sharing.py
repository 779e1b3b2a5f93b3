"""Step 7 played by all three parties in one process, for tests."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from pipeline.field import FIELD_127, FoldAccumulator, PrimeField
from pipeline.messages import PART_BYTES, Message
from pipeline.share_convert import ControllerSharing, GramShare, SharingSetting, ThirdPartySharing

SESSION = bytes(range(32))
Role = ControllerSharing | ThirdPartySharing


def seeded(seed: str) -> Callable[[int], bytes]:
    """A generator of bytes for tests; each call continues the sequence."""
    calls = iter(range(1 << 30))
    return lambda count: hashlib.shake_256(f"{seed}/{next(calls)}".encode()).digest(count)


class RecordingAccumulator(FoldAccumulator):
    """Keeps the rows it is given."""

    def __init__(self, field: PrimeField, columns: int, folds: int) -> None:
        super().__init__(field, columns, folds)
        self.rows = [field.zeros(0, columns)]

    def add_sum(self, rows, others):
        self.rows.append(self.field.add(rows, others))
        super().add_sum(rows, others)


@dataclass(frozen=True)
class RecordingSetting(SharingSetting):
    """The setting of one party; `tables` holds its accumulator once there is one."""

    tables: list[RecordingAccumulator] = field(default_factory=list)

    def accumulator(self):
        self.tables.append(RecordingAccumulator(self.field, self.columns, self.folds))
        return self.tables[-1]


def additive_shares(values, rng):
    """Slots of the owner (value + 2^43 + mask) and masks below 2^119, each uint8 (n, width, 15)."""
    flat = [int(x) for x in values.ravel()]
    masks = [int.from_bytes(rng(15), "little") >> 1 for _ in flat]
    slots = [x + (1 << 43) + mask for x, mask in zip(flat, masks, strict=True)]
    shape = (*values.shape, 15)
    return tuple(
        np.array([list(x.to_bytes(15, "little")) for x in numbers], np.uint8).reshape(shape)
        for numbers in (slots, masks)
    )


@dataclass
class Study:
    """Two tables of matched rows, and the three roles with their inputs."""

    values: dict[int, np.ndarray]  # by controller, int64 (n, width)
    field: PrimeField = FIELD_127
    seed: str = "study"
    session: bytes = SESSION
    part_bytes: int = PART_BYTES
    folds: int = 1

    def __post_init__(self) -> None:
        first, second = sorted(self.values)
        self.controllers = (first, second)
        self.third_party = 3 - first - second
        rng = seeded(self.seed)
        slots, masks = {}, {}
        for controller, values in self.values.items():
            slots[controller], masks[controller] = additive_shares(values, rng)
        self.inputs = {first: (slots[first], masks[second]), second: (slots[second], masks[first])}
        self.settings = {party: self._setting() for party in range(3)}
        self.roles: dict[int, Role] = {
            controller: ControllerSharing(
                controller,
                self.settings[controller],
                *self.inputs[controller],
                seeded(f"{self.seed}/{controller}"),
                part_bytes=self.part_bytes,
            )
            for controller in self.controllers
        }
        self.roles[self.third_party] = ThirdPartySharing(self.settings[self.third_party])

    def _setting(self) -> RecordingSetting:
        widths = {controller: values.shape[1] for controller, values in self.values.items()}
        records = len(self.values[self.controllers[0]])
        return RecordingSetting(self.session, self.controllers, widths, self.field, records, self.folds)

    @property
    def table(self) -> np.ndarray:
        """The matched table, Python integers."""
        return np.concatenate([self.values[c].astype(object) for c in self.controllers], axis=1)

    @property
    def gram(self) -> np.ndarray:
        """Its Gram matrix [1, X]^T [1, X], Python integers."""
        return self.fold_grams.sum(0)

    @property
    def fold_grams(self) -> np.ndarray:
        """The Gram matrices of its folds."""
        z = np.concatenate([np.ones((len(self.table), 1), object), self.table], axis=1)
        return np.array([z[fold :: self.folds].T.dot(z[fold :: self.folds]) for fold in range(self.folds)])

    def shares(self, party: int) -> np.ndarray:
        """The Shamir shares of the table that a party had, in row order, Python integers."""
        (accumulator,) = self.settings[party].tables
        return self.field.to_ints(np.concatenate(accumulator.rows))

    def play(self, choose: Callable[[int], int] = lambda links: 0) -> dict[int, GramShare]:
        """Deliver until nothing is under way; `choose(n)` picks one of n links, each of which keeps its order."""
        links: dict[tuple[int, int], deque[Message]] = {}
        sources = {party: deque([iter(role.start())]) for party, role in self.roles.items()}
        self.under_way = 0
        while any(sources.values()) or any(links.values()):
            drawable = [party for party in range(3) if sources[party]]
            ready = [link for link, queue in sorted(links.items()) if queue]
            pick = choose(len(ready) + len(drawable))
            if pick < len(ready):
                sender, receiver = ready[pick]
                message = links[sender, receiver].popleft()
                sources[receiver].append(iter(self.roles[receiver].receive(sender, message)))
                continue
            party = drawable[pick - len(ready)]
            outgoing = next(sources[party][0], None)  # one after the other, as the driver draws them
            if outgoing is None:
                sources[party].popleft()
            else:
                links.setdefault((party, outgoing.receiver), deque()).append(outgoing.message)
                self.under_way = max(self.under_way, sum(map(len, links.values())))
        results = {party: role.result for party, role in self.roles.items()}
        assert all(result is not None for result in results.values())
        return results


def interpolate(field: PrimeField, shares: dict[int, np.ndarray]) -> np.ndarray:
    """The value at 0 of the polynomials through the shares, by party; signed."""
    total = 0
    for i, values in shares.items():
        weight = 1
        for j in shares:
            if j != i:
                weight = weight * (j + 1) * pow(j - i, -1, field.p) % field.p
        total = total + values * weight
    residues = total % field.p
    return np.where(residues > field.p // 2, residues - field.p, residues)


def pairs_of_parties() -> list[tuple[int, int]]:
    return list(combinations(range(3), 2))
