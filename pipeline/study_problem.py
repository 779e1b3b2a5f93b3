"""The problem of step 8 from what was agreed and what the join has left."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import compress

from pipeline.agreement import Agreement, Party
from pipeline.fixed_point import Scale, encode_value
from pipeline.join_process import JoinResult
from pipeline.problem import Problem


def analysed(agreement: Agreement, party_id: int, joined: JoinResult) -> JoinResult:
    """What of the join belongs to the columns that take part in the model, the outcome among them."""
    wanted = set(agreement.analysed_names)
    kept = {party.id: [name is None or name in wanted for name in _names(party)] for party in agreement.controllers}
    everywhere = [keep for party in agreement.controllers for keep in kept[party.id]]
    own = kept.get(party_id, [])
    return replace(
        joined,
        gram=joined.gram.columns([column for column, keep in enumerate(everywhere) if keep]),
        exponents=None if joined.exponents is None else tuple(compress(joined.exponents, everywhere)),
        offsets=None if joined.offsets is None else tuple(compress(joined.offsets, own)),
        two_valued=None if joined.two_valued is None else tuple(compress(joined.two_valued, own)),
    )


def _names(party: Party) -> list[str | None]:
    """Of a controller's encoded columns; the outcome is the last, and has none."""
    return [*party.names, *([None] if party.outcome is not None else [])]


def problem_of(agreement: Agreement, party_id: int, joined: JoinResult) -> Problem:
    """The problem of the columns that take part; `joined` as `analysed` leaves it."""
    names, outcome_party = agreement.analysed_names, agreement.outcome_party
    own_names = {party.id: set(party.names) for party in agreement.controllers}
    widths = {party.id: sum(name in own_names[party.id] for name in names) for party in agreement.controllers}
    widths[outcome_party.id] += 1
    owners = tuple(party.id for party in agreement.controllers for _ in range(widths[party.id]))
    outcome = len(owners) - 1 - owners[::-1].index(outcome_party.id)  # the last of its owner's columns
    return Problem(
        agreement.model,
        owners,
        outcome,
        joined.exponents,
        joined.offsets or (),
        factors=agreement.model.factors(names),
        opened=agreement.opened,
        gate=agreement.gate,
        categories=_categories(agreement),
        two_values=_two_values(owners, party_id, joined),
        analyses=agreement.analyses,
        names=(*names, f"{outcome_party.name}.{outcome_party.outcome}"),
    )


def _categories(agreement: Agreement) -> tuple[tuple[int, ...], ...]:
    """The places of each category's indicators among the coefficients; levels left out count with the reference."""
    place = {name: k for k, name in enumerate(agreement.analysed_names)}
    columns = (column for party in agreement.controllers for column in party.columns if column.kind == "category")
    places = (tuple(place[name] for name in column.names if name in place) for column in columns)
    return tuple(each for each in places if each)


def _two_values(owners: tuple[int, ...], party_id: int, joined: JoinResult) -> tuple[tuple[int, int] | None, ...]:
    """The two values of this party's own columns as they are encoded."""
    if joined.two_valued is None or joined.offsets is None or joined.exponents is None:
        return ()
    own = [exponent for exponent, owner in zip(joined.exponents, owners, strict=True) if owner == party_id]
    scales = (Scale(offset, exponent) for offset, exponent in zip(joined.offsets, own, strict=True))
    return tuple(
        None
        if pair is None or not all(map(math.isfinite, pair))
        else (encode_value(pair[0], s), encode_value(pair[1], s))
        for pair, s in zip(joined.two_valued, scales, strict=True)
    )
