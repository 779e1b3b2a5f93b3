"""The operations of `primitives.Arithmetic` on numbers in the clear, in one process.

What is a share elsewhere is the number itself here, so `secure_lasso` runs
unchanged, and every bound it claims is checked against the numbers that occur.
Truncation errs at random, within the bound of the real one.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np

from pipeline.bounds import RANGE_BITS
from pipeline.field import PrimeField
from pipeline.primitives import Arithmetic
from pipeline.residues import Residues


class ClearRuntime:
    """A single party that owns every column and receives every result."""

    def __init__(self) -> None:
        self.pid = 0
        self.options = SimpleNamespace()
        self.opened: list[str] = []

    async def secret_inputs(self, field: PrimeField, values: Mapping[int, Any], shapes: Mapping[int, Any]) -> list[Any]:
        return [Residues.of_integers(field, values[owner]).reshape(*shape) for owner, shape in shapes.items()]

    async def open_to_controllers(self, shares: Mapping[str, Any], controllers: Any) -> Any:
        self.opened += shares
        return {name: x.integers() for name, x in shares.items()}


class Notes:
    """What is noted of a computation over all fields."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.rounds = 0
        self.largest = 0  # bits of a masked number, of all operations


class ClearArithmetic(Arithmetic):
    def __init__(self, field: PrimeField, statistical_bits: int, seed: int = 0) -> None:
        super().__init__(ClearRuntime(), field, statistical_bits)  # type: ignore[arg-type]
        self.notes = Notes(seed)

    def over(self, field: PrimeField) -> ClearArithmetic:
        other = ClearArithmetic(field, self.statistical_bits)
        other.runtime, other.opened, other.notes = self.runtime, self.opened, self.notes
        return other

    @property
    def masked_openings(self) -> int:
        return self.opened.masked

    async def together(self, *branches: Any) -> list[Any]:
        try:
            return [await branch for branch in branches]
        finally:
            for branch in branches:
                branch.close()

    async def reduce(self, x: Any) -> Any:
        self.notes.rounds += 1
        return x.carried()

    async def convert(self, x: Any, target: Any, shift: int, bits: int) -> Any:
        numbers = self.checked(x, bits)
        error = self.notes.random.integers(-3, 4, x.shape).astype(object) if shift else 0
        assert bits + self.statistical_bits + RANGE_BITS - shift < target.field.bits + 2 * 24
        return target.public((numbers >> shift) + error)

    async def lift(self, values: Any, target: Any) -> Any:
        return target.public(values.integers(signed=True))

    def comparison(self, count: int, bits: int) -> Any:
        return ClearComparison(self, count, bits)

    async def is_zero(self, name: str, x: Any) -> bool:
        self.notes.rounds += 1
        self.runtime.opened.append(name)
        return not x.canonical().any()

    def noise(self, count: int, bits: int, purpose: str) -> Any:
        parts = [self.notes.random.integers(0, 1 << 30, 3).tolist() for _ in range(count)]
        return self.public([(a << bits >> 30) + (b << bits >> 30) + (3 * c << bits >> 31) for a, b, c in parts]) - (
            7 << bits - 2
        )

    def checked(self, x: Any, bits: int) -> Any:
        """The numbers with their signs; they must be below 2^(bits - 1), and masks must fit."""
        self._require_room(bits)
        self.notes.rounds += 1
        self.opened.masked += x.size
        self.notes.largest = max(self.notes.largest, bits)
        signed = x.integers(signed=True)
        excess = [v.bit_length() for v in signed.ravel().tolist() if abs(v) >> bits - 1]
        assert not excess, f"{max(excess)} bits where {bits - 1} are allowed"
        return signed


class ClearComparison:
    """A comparison whose helper knows all, and whose holders know nothing."""

    def __init__(self, mpc: ClearArithmetic, count: int, bits: int) -> None:
        self.mpc, self.count, self.bits = mpc, count, bits
        self.holders_bit = Residues.zeros(mpc.field, count)
        self.helper_bit = self.holders_bit

    async def run(self, x: Any) -> None:
        assert x.shape == (self.count,)
        self.mpc.notes.rounds += 3
        self.helper_bit = self.mpc.public((self.mpc.checked(x, self.bits) >= 0).astype(int))

    async def bit(self) -> Any:
        self.mpc.notes.rounds += 1
        return self.times()

    def times(self, values: Any = None, known: Any = None) -> Any:
        return self.helper_bit if values is None else (self.helper_bit * values + known).carried()
