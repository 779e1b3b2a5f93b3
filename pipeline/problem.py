"""What step 8 is to compute: the public side of it, and what a controller knows of its own columns."""

from __future__ import annotations

from dataclasses import dataclass, field

from pipeline.agreement import Gate, Model, Open
from pipeline.errors import LocalProtocolError


@dataclass(frozen=True)
class Problem:
    """What step 8 needs besides the shares. Columns are those of the Gram matrix after the ones, in order.

    owners : the party each column comes from.
    outcome : index of the outcome among the columns.
    exponents : of each column, where x' = round((x - c) 2^exponent) is what was shared; None at the third party,
        which must not know them.
    offsets : c 2^exponent, integers, of this party's own columns, in order; empty at the third party.
    alphas : penalties to fit with, all of which are opened; those of the model if empty.
    factors : by which the penalty of each feature is multiplied; 1 for all if empty.
    opened : what may be opened besides the model.
    gate : rules that are tested first; None for none.
    categories : of each category the features that are its indicators.
    two_values : of each of this party's own columns the two encoded values it has, or None; empty at the third party.
    names : of the columns, for a refusal.
    analyses : that are admitted of the same shares.
    """

    model: Model
    owners: tuple[int, ...]
    outcome: int
    exponents: tuple[int, ...] | None
    offsets: tuple[int, ...]
    alphas: tuple[float, ...] = ()
    factors: tuple[float, ...] = ()
    opened: Open = field(default_factory=Open)
    gate: Gate | None = None
    categories: tuple[tuple[int, ...], ...] = ()
    two_values: tuple[tuple[int, int] | None, ...] = ()
    names: tuple[str, ...] = ()
    analyses: int = 1

    @property
    def controllers(self) -> tuple[int, ...]:
        return tuple(sorted(set(self.owners)))

    @property
    def features(self) -> int:
        return len(self.owners) - 1

    @property
    def has_secret_grid(self) -> bool:
        """Whether the penalties are multiples of a secret one."""
        return self.model.n_alphas > 0 and not self.alphas

    @property
    def penalties(self) -> tuple[float, ...]:
        """The largest first; of a secret grid, multiples of its largest."""
        if self.has_secret_grid:
            raise LocalProtocolError("the penalties are secret multiples")
        return self.alphas or self.model.alphas or (self.model.alpha,)

    def multiples(self, records: int) -> tuple[float, ...]:
        """The penalties of a secret grid, divided by the largest."""
        count = self.model.n_alphas
        smallest = self.model.alpha_min_ratio or (1e-4 if records >= self.features else 1e-2)
        return tuple(float(smallest ** (i / (count - 1))) for i in range(count))

    @property
    def least_factor(self) -> float:
        """The smallest penalty factor above 0."""
        return min((factor for factor in self.factors if factor > 0), default=1.0)

    @property
    def choices(self) -> int:
        """How many penalties there are."""
        return self.model.n_alphas if self.has_secret_grid else len(self.penalties)

    @property
    def folds(self) -> int:
        """Of the cross-validation; 0 for none."""
        return 0 if self.alphas else self.model.folds

    @property
    def groups(self) -> int:
        return 1 + self.folds

    @property
    def systems(self) -> int:
        """How many matrices of correlations there are at most: one of each group, or, where the penalty has a quadratic
        part, one for each penalty.
        """
        return self.groups * (1 if self.model.l1_ratio == 1 else self.choices)

    @property
    def order(self) -> list[int]:
        """The columns with the outcome moved to the end: the order from here on."""
        return [*(j for j in range(len(self.owners)) if j != self.outcome), self.outcome]
