"""Rules on what comes out, tested on shares before anything is opened; `docs/disclosure-control.md` says why.

A rule that fails ends the analysis at all parties, and its name is all they
learn, unless the agreement lets columns be named. The rules are tested in a
fixed order: those on the records before the fit (`secure_standardise.py` has the
first two), those on the model after it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from pipeline import refusals
from pipeline.agreement import Gate
from pipeline.bounds import FRACTIONAL_BITS as F
from pipeline.bounds import MEAN_TO_SPREAD_BITS
from pipeline.errors import LocalProtocolError, Refused
from pipeline.fixed_point import INDICATOR_RANGE, OFFSET_BITS, Scale, choose_scale
from pipeline.mpc_runtime import Shares
from pipeline.primitives import Arithmetic, fixed
from pipeline.problem import Problem
from pipeline.residues import concatenate, stack

# Bits, with sign, of the unexplained part of the variance beyond its fractional ones: without an intercept it is
# measured from zero, and may be 4^MEAN_TO_SPREAD_BITS variances and more.
R2_ROOM = 2 * MEAN_TO_SPREAD_BITS + 6


async def kept_columns(mpc: Arithmetic, problem: Problem, records: int, totals: Shares) -> Shares | None:
    """Test that each level has enough matched records; raises Refused, rule "min_level_count".

    totals : sums of the columns, offsets included; outcome last.

    Levels are those of categories, the reference among them, and both values of a numeric feature that has two in its
    owner's table; the owner enters limits for those in secret, and some that all totals keep for its other columns.
    Return None, or, if levels may go, 1 for each column that stays. A reference that is rare cannot go. 6 rounds, and
    one to open the rule's bit.
    """
    gate = problem.gate
    if gate is None or gate.min_level_count is None:
        return None
    least, one = gate.min_level_count, one_record()
    indicators = [j for category in problem.categories for j in category]
    numeric = [j for j in range(problem.features) if j not in set(indicators)]
    limits = await _limits(mpc, problem, records, least)
    margins = [totals[indicators] - least * one]
    margins += [(records - least) * one - totals[list(c)].sum().reshape(1) for c in problem.categories]
    margins += [totals[numeric] - limits[numeric, 0], limits[numeric, 1] - totals[numeric]]
    enough = await mpc.nonnegative(concatenate(margins), OFFSET_BITS + records.bit_length() + 6)
    first, second = len(indicators), len(indicators) + len(problem.categories)
    of_levels, of_references = enough[:first], enough[first:second]
    of_values = enough[second:].reshape(2, len(numeric))
    names = _names(problem)
    labels = [f"the reference of {names[c[0]].partition('=')[0]}" for c in problem.categories]
    rare = [1 - of_references]
    if gate.rare_levels == "refuse":
        labels += [names[j] for j in (*indicators, *numeric)]
        rare += [1 - of_levels, (1 - of_values).sum(axis=0)]
    if not await mpc.is_zero("a level has too few records", concatenate(rare).sum()):
        found = await refused_columns(mpc, problem, concatenate(rare), labels)
        raise Refused("min_level_count", refusals.GATE["min_level_count"] + found)
    if gate.rare_levels == "refuse":
        return None
    both = concatenate([of_levels, await mpc.reduce(of_values[0] * of_values[1])])
    in_order = np.argsort([*indicators, *numeric])
    return concatenate([both[in_order], mpc.public([1])])


async def _limits(mpc: Arithmetic, problem: Problem, records: int, least: int) -> Shares:
    """For each column the least and the largest total with which both of its values occur often enough."""
    me = mpc.runtime.pid
    far = 1 << OFFSET_BITS + records.bit_length() + 3
    own: list[tuple[int, int]] = []
    for values, offset in zip(problem.two_values or [None] * len(problem.offsets), problem.offsets, strict=True):
        if values is None:
            own.append((-far, far))
        else:
            low, high = sorted(value + offset for value in values)
            own.append((records * low + least * (high - low), records * high - least * (high - low)))
    columns = {i: [j for j, owner in enumerate(problem.owners) if owner == i] for i in problem.controllers}
    shapes = {i: (len(places), 2) for i, places in columns.items()}
    shares = await mpc.runtime.secret_inputs(mpc.field, {me: own} if me in columns else {}, shapes)
    in_order = np.argsort(np.concatenate(list(columns.values())))
    return concatenate(shares)[in_order][problem.order]


def one_record() -> int:
    """By which a record raises the total of the indicator of its level."""
    scale = choose_scale(*INDICATOR_RANGE)
    if not isinstance(scale, Scale):
        raise LocalProtocolError("indicators cannot be encoded")
    return 1 << scale.exponent


async def check_models(mpc: Arithmetic, problem: Problem, records: int, active: Shares, unexplained: Shares) -> None:
    """Test the rules on models, of all of which something would be opened; raises Refused with the first that fails.

    active : 1 where a coefficient is not zero, shape (models, features).
    unexplained : mean square of the residuals per variance of the outcome, shape (models,).

    5 rounds and one, if all rules hold.
    """
    if problem.gate is None:
        return
    counts, intercept = active.sum(), int(problem.model.fit_intercept)
    rules = _rules(problem.gate, records, intercept)
    small = [mpc.public(np.full(len(counts), most)) - counts for _, _, most in rules]
    bits = records.bit_length() + problem.features.bit_length() + 3
    wanted = [mpc.nonnegative(stack(small), bits)] if small else []
    names = [(rule, name) for rule, name, _ in rules]
    if problem.gate.max_r2 is not None:
        least = fixed(1 - Fraction(problem.gate.max_r2))
        wanted.append(mpc.nonnegative((unexplained - least).reshape(1, -1), F + R2_ROOM))
        names.append(("max_r2", "r2 is too large"))
    if not wanted:
        return
    kept = concatenate(await mpc.together(*wanted))
    if await mpc.is_zero("a rule on the model fails", (1 - kept).ravel().sum()):
        return
    for k, (rule, name) in enumerate(names):
        await _require(mpc, name, 1 - kept[k], rule)


def _rules(gate: Gate, records: int, intercept: int) -> list[tuple[str, str, int]]:
    """Rule, the name of its opening, and the most coefficients it allows."""
    rules = []
    if gate.min_residual_df is not None:
        rules.append(("min_residual_df", "too few degrees of freedom", records - intercept - gate.min_residual_df))
    if gate.max_parameters_ratio is not None:
        most = math.floor(Fraction(str(gate.max_parameters_ratio)) * records) - intercept
        rules.append(("max_parameters_ratio", "too many parameters", most))
    return rules


async def _require(mpc: Arithmetic, name: str, faults: Shares, rule: str) -> None:
    if not await mpc.is_zero(name, faults.sum()):
        raise Refused(rule, refusals.GATE[rule])


def _names(problem: Problem) -> Sequence[str]:
    return problem.names or [f"column {j}" for j in range(len(problem.owners))]


async def refused_columns(mpc: Arithmetic, problem: Problem, faults: Shares, labels: Sequence[str] = ()) -> str:
    """Name the columns that a refusal is about, if the agreement lets them be opened. A round for each column.

    faults : 0 for each column that is not to blame, outcome last; or for each of `labels`.
    """
    if not problem.opened.refused_column:
        return ""
    names = labels or _names(problem)
    found = [name for j, name in enumerate(names) if not await mpc.is_zero("column of a refusal", faults[j].reshape(1))]
    return f" (it is {', '.join(found)})"
