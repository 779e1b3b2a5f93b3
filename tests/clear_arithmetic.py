"""The operations of `primitives.Arithmetic` on numbers in the clear, in one process.

What is a share elsewhere is the number itself here, so `secure_lasso` runs
unchanged and fast, and every bound it claims is checked against the numbers
that occur. Truncation errs at random, within the bound of the real one.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from pipeline.field import PrimeField
from pipeline.mpc_runtime import GF
from pipeline.primitives import Arithmetic


class ClearRuntime:
    """A single party that owns every column and receives every result."""

    def __init__(self) -> None:
        self.pid = 0
        self.options = SimpleNamespace()
        self.opened: list[str] = []

    async def secret_input(self, field: Any, owner: int, values: Any, shape: tuple[int, ...]) -> Any:
        return field.array(np.array(values, dtype=object).reshape(shape))

    async def open_to_controllers(self, name: str, shares: Any, controllers: Any) -> Any:
        self.opened.append(name)
        return shares.value


class ClearArithmetic(Arithmetic):
    def __init__(self, field: PrimeField, statistical_bits: int, seed: int = 0) -> None:
        super().__init__(ClearRuntime(), field, statistical_bits)  # type: ignore[arg-type]
        self.random = np.random.default_rng(seed)
        self.rounds = 0
        self.largest = 0  # bits of a masked number and of what hides it, of all operations

    async def reduce(self, x: Any) -> Any:
        self.rounds += 1
        return x

    async def truncate(self, x: Any, shift: int, bits: int) -> Any:
        signed = self._checked(x, bits)
        error = self.random.integers(-1, 3, x.shape).astype(object)
        return self._shares((signed >> shift) + error, x.shape)

    async def lift(self, values: Any, source: PrimeField, bits: int) -> Any:
        p = source.p
        return self._shares(self._checked(GF(p).array(values), bits), values.shape)

    async def nonnegative(self, x: Any, bits: int) -> Any:
        self.rounds += 4
        return self._shares((self._checked(x, bits) >= 0).astype(int), x.shape)

    async def is_zero(self, name: str, x: Any) -> bool:
        self.rounds += 2
        self.runtime.opened.append(name)
        return int(getattr(x, "value", x)) == 0

    def noise(self, count: int, bits: int) -> Any:
        draws = [sum(self.random.integers(0, 1 << 30, 3).tolist()) - (3 << 29) for _ in range(count)]
        return self._shares(np.array([draw << bits >> 30 for draw in draws], dtype=object), (count,))

    def _checked(self, x: Any, bits: int) -> Any:
        """The numbers with their signs; they must be below 2^(bits - 1), and masks must fit."""
        self._require_room(bits)
        self.rounds += 1
        self.masked_openings += x.size
        self.largest = max(self.largest, bits)
        p = x.field.modulus
        signed = np.where(x.value > p // 2, x.value - p, x.value)
        excess = [v.bit_length() for v in signed.ravel().tolist() if abs(v) >> bits - 1]
        assert not excess, f"{max(excess)} bits where {bits - 1} are allowed"
        return signed
