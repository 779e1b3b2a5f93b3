"""How often kept shares are analysed, and how much of them is opened: what is counted and compared, without I/O.

Before an analysis each party tells the others of which join the shares are that
it holds, and what it has counted so far. All three must hold the same join; of
different counts the highest holds, so that nobody gets back what is used up by
putting an older file in its place. The new counts are written down before the
analysis begins.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import date

from pipeline import refusals
from pipeline.agreement import Agreement
from pipeline.errors import Refused, RemoteProtocolError

DIGEST_BYTES = 32
_STATEMENT = struct.Struct(f"<{DIGEST_BYTES}s{DIGEST_BYTES}sQQ")


@dataclass(frozen=True)
class Statement:
    """What a party says of the shares it holds.

    join : SHA-256 that depends on the join's session identifier; the same at all parties of a join.
    digest : of the agreement without its model.
    analyses, opened : analyses made and numbers opened so far, at most.
    """

    join: bytes
    digest: bytes
    analyses: int
    opened: int

    SIZE = _STATEMENT.size

    def pack(self) -> bytes:
        return _STATEMENT.pack(self.join, self.digest, self.analyses, self.opened)

    @classmethod
    def unpack(cls, data: bytes) -> Statement:
        """Raises RemoteProtocolError for counts that nobody reaches."""
        statement = cls(*_STATEMENT.unpack(data))
        if max(statement.analyses, statement.opened) >> 60:
            raise RemoteProtocolError("a party counts more analyses than there can be")
        return statement


def opened_numbers(agreement: Agreement) -> int:
    """The most numbers that one analysis opens, the same at all parties; docs/decisions/0013 says why it is counted so.

    Of each model that is opened the coefficients, the intercept and R²; the outcome's
    variance; what else is agreed to be opened. Whatever does not come from
    cross-validation is made of the Gram matrix, so no more than that has counts.
    """
    coefficients, opened = len(agreement.analysed_names), agreement.opened
    models = agreement.model.problems if opened.model == "path" else 1
    numbers = models * (coefficients + 2) + 1
    columns = coefficients + 1
    if opened.standard_errors:
        numbers += coefficients + 1
    if opened.table1:
        columns = len(agreement.names) + 1
        numbers += 2 * columns
    validation = 0
    if agreement.model.problems > 1:
        validation += 1 + (agreement.model.n_alphas > 0)  # which penalty was chosen, and where the penalties begin
    if opened.cv_curve:
        validation += 2 * agreement.model.problems
    validation += opened.cv_r2
    return min(numbers, _gram_entries(columns)) + validation


def _gram_entries(columns: int) -> int:
    """Different entries of the Gram matrix of [1, columns], without the number of records, which is known."""
    return (columns + 1) * (columns + 2) // 2 - 1


def opened_limit(agreement: Agreement, records: int) -> int | None:
    """How many numbers all analyses of one join may open."""
    ratio = agreement.gate.max_parameters_ratio
    return None if ratio is None else int(ratio * records)


def records_for(agreement: Agreement, analyses: int) -> int | None:
    """How many matched records so many analyses like this one need; None without a limit, or if none suffice."""
    ratio = agreement.gate.max_parameters_ratio
    if not ratio:
        return None
    needed = analyses * opened_numbers(agreement)
    records = max(0, int(needed / ratio) - 1)
    while int(ratio * records) < needed:
        records += 1
    return records


def count_in_words(agreement: Agreement, records: int, so_far: Statement) -> str:
    """What has been counted before an analysis, and what it adds."""
    this, limit = opened_numbers(agreement), opened_limit(agreement, records)
    words = f"Analyses of this join so far: {so_far.analyses} of {agreement.study.max_analyses}"
    if limit is None:
        return f"{words}, with at most {so_far.opened} numbers; this one opens at most {this}"
    words += f", with at most {so_far.opened} of {limit} numbers; this one opens at most {this}"
    if so_far.analyses == 0 and this >= limit:
        words += ", after which the agreement allows no other"
    return words


def compared(agreement: Agreement, own: Statement, others: Iterable[Statement]) -> Statement:
    """This party's statement with the highest counts of all; Refused unless all are of the same join."""
    others = list(others)
    joins = {(statement.join, statement.digest) for statement in (own, *others)}
    if len(joins) > 1 or own.digest.hex() != agreement.join_digest:
        raise _refused("other-join", agreement)
    everyone = [own, *others]
    return replace(own, analyses=max(s.analyses for s in everyone), opened=max(s.opened for s in everyone))


def admitted(agreement: Agreement, records: int, so_far: Statement, today: date) -> Statement:
    """The counts with one more analysis; Refused if the agreement does not allow it.

    What the first one opens, that of the run that made the join, is counted and
    not limited here: the rules of [gate] admit it as they admit that of any run.
    """
    if is_past(agreement, today):
        raise _refused("expired", agreement)
    if so_far.analyses >= agreement.study.max_analyses:
        raise _refused("analyses-used", agreement)
    opened, limit = so_far.opened + opened_numbers(agreement), opened_limit(agreement, records)
    if so_far.analyses > 0 and limit is not None and opened > limit:
        raise _refused("opened-used", agreement)
    return replace(so_far, analyses=so_far.analyses + 1, opened=opened)


def is_past(agreement: Agreement, today: date) -> bool:
    """Whether the last day on which shares may be used is over; days are those of UTC."""
    until = agreement.study.keep_until
    return until is not None and until < today


def _refused(rule: str, agreement: Agreement) -> Refused:
    words = refusals.sentence(rule, agreement)
    assert words is not None  # noqa: S101 (the rules named here are rules of the study)
    return Refused(rule, words)
