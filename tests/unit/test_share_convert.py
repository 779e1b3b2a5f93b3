"""Step 7: what the shares add up to, what one party holds, and which messages are refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sharing import SESSION, Study, interpolate, pairs_of_parties, seeded

from pipeline import share_convert
from pipeline.errors import LocalProtocolError, RemoteProtocolError
from pipeline.field import CHUNK, FIELD_127, FIELD_191, FIELD_254
from pipeline.messages import IntersectionSize, KeyContribution, ShamirShare, ShareKey, TooFewRecords
from pipeline.share_convert import (
    AwaitingBoth,
    AwaitingFollower,
    AwaitingKey,
    AwaitingLeader,
    ControllerSharing,
    Dealer,
    Dealing,
    Done,
    GramShare,
    NotStarted,
    SharingSetting,
    ThirdPartySharing,
    fold_sizes,
)

FIELDS = pytest.mark.parametrize("field", [FIELD_127, FIELD_191, FIELD_254], ids=lambda field: field.name)
BOUND = (1 << 43) - 1


def study(n=7, widths=(2, 3), ids=(0, 1), field=FIELD_127, part_rows=3, values=None, **changes):
    rng = np.random.default_rng(n)
    make = values or (lambda shape: rng.integers(-BOUND, BOUND, shape, endpoint=True))
    tables = {controller: make((n, width)) for controller, width in zip(ids, widths, strict=True)}
    return Study(tables, field, part_bytes=part_rows * sum(widths) * field.element_bytes, **changes)


# What the shares add up to


@FIELDS
@pytest.mark.parametrize("ids", [(0, 1), (1, 2), (0, 2)])
def test_the_shares_of_any_two_parties_give_the_table(field, ids):
    played = study(field=field, ids=ids)
    played.play()
    for pair in pairs_of_parties():
        table = interpolate(field, {party: played.shares(party) for party in pair})
        assert (table == played.table).all()


@FIELDS
@pytest.mark.parametrize("sign", [1, -1])
def test_the_gram_matrix_is_exact_at_the_bounds_of_values(field, sign):
    def extreme(shape):
        values = np.full(shape, sign * BOUND)
        values[::2, 1:] *= -1
        return values

    played = study(n=1100, widths=(2, 1), field=field, part_rows=300, values=extreme)
    results = played.play()
    shares = {party: field.to_ints(result.total) for party, result in results.items()}
    assert (interpolate(field, shares) == played.gram).all()
    assert all(result.records == 1100 and result.field == field for result in results.values())


@FIELDS
@pytest.mark.parametrize("folds", [2, 3, 7])
def test_row_i_is_in_fold_i_modulo_the_number_of_folds(field, folds):
    played = study(n=29, field=field, folds=folds)
    results = played.play()
    shares = {party: field.to_ints(result.gram) for party, result in results.items()}
    assert (interpolate(field, shares) == played.fold_grams).all()
    assert interpolate(field, shares)[:, 0, 0].tolist() == [*fold_sizes(29, folds)]
    totals = {party: field.to_ints(result.total) for party, result in results.items()}
    assert (interpolate(field, totals) == played.gram).all()
    assert all(result.folds == folds for result in results.values())


def test_the_folds_have_all_records_and_nearly_the_same_number():
    assert fold_sizes(29, 3) == (10, 10, 9)
    assert fold_sizes(30, 3) == (10, 10, 10)
    assert fold_sizes(29, 1) == (29,)


def test_some_columns_of_a_gram_share_are_those_of_a_smaller_table():
    played = study(n=9, folds=2)
    results = played.play()
    shares = {party: FIELD_127.to_ints(result.columns([0, 2, 4]).gram) for party, result in results.items()}
    kept = [0, 1, 3, 5]
    assert (interpolate(FIELD_127, shares) == played.fold_grams[:, kept][:, :, kept]).all()


def test_a_gram_share_has_one_matrix_for_each_fold():
    for shape, folds in (((3, 3), 1), ((2, 3, 3), 1), ((1, 3, 3), 2)):
        with pytest.raises(LocalProtocolError):
            GramShare(9, FIELD_127, FIELD_127.zeros(*shape), folds)


def test_columns_stand_in_the_order_of_the_controllers():
    for ids in ((0, 1), (1, 2), (0, 2)):
        played = study(n=1, widths=(1, 2), ids=ids, values=lambda shape: np.full(shape, shape[1]))
        shares = {party: FIELD_127.to_ints(result.total) for party, result in played.play().items()}
        assert interpolate(FIELD_127, shares)[0].tolist() == [1, 1, 2, 2]


def test_two_shares_of_the_gram_matrix_do_not_give_it():
    played = study()
    results = played.play()
    for pair in pairs_of_parties():
        gram = interpolate(FIELD_127, {party: FIELD_127.to_ints(results[party].total) for party in pair})
        assert not (gram[1:, 1:] == played.gram[1:, 1:]).any()


def test_the_shares_of_the_gram_matrix_differ_from_party_to_party():
    played = study()
    grams = [result.gram for result in played.play().values()]
    assert not any((grams[i] == grams[j]).all() for i, j in pairs_of_parties())


# What one party holds


@pytest.mark.parametrize("party", [0, 1, 2])
def test_one_partys_shares_are_spread_evenly_whatever_the_values(party):
    """Chi-square with 15 degrees of freedom on the top bits; keys are fixed, and so is the outcome."""
    played = study(n=400, widths=(4, 4), values=lambda shape: np.ones(shape, np.int64))
    played.play()
    shares = played.shares(party).ravel()
    counts = np.bincount([share >> 123 for share in shares], minlength=16)
    expected = len(shares) / 16
    assert ((counts - expected) ** 2 / expected).sum() < 50
    assert len(set(shares)) == len(shares)


class Fixed:
    """A stream of one chosen share."""

    def __init__(self, field, share):
        self.field = field
        self.share = share

    def elements(self, first, count):
        return self.field.from_ints([self.share] * count)


def dealt(field, dealer, secret, share):
    """What the dealer keeps and sends if a one-entry table's share at dealer + 1 is `share`."""
    setting = SharingSetting(SESSION, (0, 1), {0: 1, 1: 0}, field, 1)
    slot = np.array([[list((secret + (1 << 43)).to_bytes(15, "little"))]], np.uint8)
    setting = setting if dealer == 0 else replace(setting, widths={0: 0, 1: 1})
    kept, sent = Dealer(setting, dealer, Fixed(field, share), slot, np.zeros((1, 0, 15), np.uint8)).deal(range(1))
    return field.to_ints(kept)[0, 0], field.to_ints(sent)[0, 0]


@FIELDS
@pytest.mark.parametrize("dealer", [0, 1])
def test_for_every_secret_exactly_one_polynomial_gives_the_receiver_the_same_share(field, dealer):
    """The share sent is a + b*u in the pseudorandom u, b not zero and independent of the secret."""
    p = field.p
    _, seen = dealt(field, dealer, 12345, p // 3)
    slopes = set()
    for candidate in (0, 1, -BOUND, BOUND, 12345):
        (_, at_0), (_, at_1) = (dealt(field, dealer, candidate, u) for u in (0, 1))
        slope = (at_1 - at_0) % p
        slopes.add(slope)
        u = (seen - at_0) * pow(slope, -1, p) % p
        assert dealt(field, dealer, candidate, u)[1] == seen
        assert u == p // 3 or candidate != 12345
    assert len(slopes) == 1 and 0 not in slopes


@FIELDS
@pytest.mark.parametrize("dealer", [0, 1])
def test_a_dealer_puts_secret_and_shares_on_one_line(field, dealer):
    kept, sent = dealt(field, dealer, -77, field.p - 5)
    points = {0: -77, (dealer + 1) % 3 + 1: -5, dealer + 1: kept, (dealer + 2) % 3 + 1: sent}
    slope = points[1] - points[0]
    assert all((points[x] - points[0] - x * slope) % field.p == 0 for x in (1, 2, 3))


def test_shares_differ_between_sessions_and_dealers_with_the_same_key():
    setting = study().settings[0]
    other = replace(setting, session=bytes(32))
    streams = [setting.stream(0, bytes(32)), setting.stream(1, bytes(32)), other.stream(0, bytes(32))]
    drawn = [set(FIELD_127.to_ints(stream.elements(0, 20))) for stream in streams]
    assert len(set.union(*drawn)) == 60


def test_derived_shares_depend_on_row_and_column_alone():
    setting = study(n=20).settings[0]
    stream = setting.stream(0, bytes(32))
    whole = setting.derived(stream, range(20))
    assert len(set(FIELD_127.to_ints(whole).ravel())) == 100
    assert (setting.derived(stream, range(7, 12)) == whole[7:12]).all()


# How it streams


def test_no_part_is_larger_than_asked_and_all_are_in_order():
    setting = study(n=7).settings[0]
    row = 5 * 16
    assert [*setting.parts(3 * row)] == [range(3), range(3, 6), range(6, 7)]
    assert [*setting.parts(1)] == [range(i, i + 1) for i in range(7)]
    assert [len(part) for part in replace(setting, records=3000).parts(1100 * row)] == [1024, 1024, 952]


def test_parts_are_dealt_in_pieces_that_follow_one_another():
    setting = replace(study(n=7).settings[0], records=30_000)
    pieces = [*setting.pieces(range(1000, 9000))]
    assert len(pieces) > 1 and max(map(len, pieces)) * 5 <= CHUNK
    assert [row for piece in pieces for row in piece] == [*range(1000, 9000)]
    assert [*replace(setting, widths={0: CHUNK, 1: 1}).pieces(range(2))] == [range(1), range(1, 2)]


def test_a_part_dealt_in_pieces_is_that_dealt_row_by_row(monkeypatch):
    whole, pieces = (study(n=9, part_rows=9) for _ in range(2))
    whole.play()
    monkeypatch.setattr(share_convert, "CHUNK", 2 * 5)
    pieces.play()
    for party in range(3):
        assert (whole.shares(party) == pieces.shares(party)).all()
        assert len(pieces.settings[party].tables[0].rows) == 1 + 5 > len(whole.settings[party].tables[0].rows)


def test_nothing_piles_up_when_messages_are_delivered_at_once():
    played = study(n=60, part_rows=2)
    played.play()
    assert played.under_way <= 4


def test_the_leader_computes_a_part_when_it_is_drawn():
    played = study(n=6, part_rows=2)
    role = played.roles[1]
    (key,) = played.roles[0].start()
    role.start()
    parts = iter(role.receive(0, key.message))
    assert isinstance(role.state, Dealing) and not played.settings[1].tables[:1]
    next(parts)
    assert len(played.shares(1)) == 2
    assert role.result is None
    assert len(list(parts)) == 2
    assert isinstance(role.state, Done)


@pytest.mark.parametrize("early", [1, 3, 4])
def test_the_third_party_keeps_parts_that_come_before_the_key(early):
    played = study(n=8, part_rows=2)
    follower, leader, third = (played.roles[party] for party in range(3))
    (to_leader,), (to_third,) = follower.start(), leader.start()
    dealt = [part.message for part in leader.receive(0, to_leader.message)]
    parts = [outgoing.message for part in dealt for outgoing in follower.receive(1, part)]
    for part in parts[:early]:
        third.receive(0, part)
    assert isinstance(third.state, AwaitingBoth) and len(third.state.parts) == early
    third.receive(1, to_third.message)
    for part in parts[early:]:
        third.receive(0, part)
    assert third.result is not None
    assert (interpolate(FIELD_127, {party: played.shares(party) for party in (0, 2)}) == played.table).all()


def test_progress_reaches_the_number_of_records_at_every_party():
    seen = {0: [], 1: [], 2: []}
    played = study(n=5, part_rows=2)
    for party, role in played.roles.items():
        role._progress = lambda step, done, total, party=party: seen[party].append((done, total))
    played.play()
    assert seen == {party: [(2, 5), (4, 5), (5, 5)] for party in range(3)}


# Secrets are dealt once, and then gone


def test_additive_shares_are_overwritten_as_rows_are_dealt():
    played = study(n=6, part_rows=2)
    own, masks = played.inputs[1]
    (key,) = played.roles[0].start()
    played.roles[1].start()
    parts = iter(played.roles[1].receive(0, key.message))
    next(parts)
    assert not own[:2].any() and own[2:].any() and not masks[:2].any() and masks[2:].any()
    played = study(n=6, part_rows=2)
    played.play()
    assert not any(array.any() for pair in played.inputs.values() for array in pair)


def test_a_role_that_is_done_holds_nothing_but_its_result():
    played = study()
    played.play()
    for role in played.roles.values():
        assert isinstance(role.state, Done) and vars(role.state) == {"share": role.result}
        assert not {"own", "masks", "key", "dealer", "stream"} & {*vars(role)}


def test_a_sharing_deals_once():
    for party in (0, 1):
        played = study()
        role = played.roles[party]
        role.start()
        with pytest.raises(LocalProtocolError):
            role.start()
    played = study()
    played.play()
    for party in (0, 1):
        with pytest.raises(LocalProtocolError):
            played.roles[party].start()


def test_rows_whose_dealing_failed_are_not_dealt_again():
    played = study(n=6, part_rows=2)
    (key,) = played.roles[0].start()
    played.roles[1].start()
    part = next(iter(played.roles[1].receive(0, key.message))).message
    (gram,) = played.settings[0].tables
    gram.add_sum = None
    with pytest.raises(TypeError):
        played.roles[0].receive(1, part)
    with pytest.raises(RemoteProtocolError, match="begins at row 0, where 2 of 6 have come"):
        played.roles[0].receive(1, part)


def test_states_do_not_show_what_they_hold():
    played = study()
    states = [role.state for role in played.roles.values()]
    for role in played.roles.values():
        role.start()
        states.append(role.state)
    states += [states[-3].dealer, states[-2].dealer, *study().play().values()]
    assert all("object at" in repr(state) and "array" not in repr(state) for state in states)


# What is refused

KEY = ShareKey(bytes(32))
FOREIGN = [KEY, KeyContribution(bytes(32)), IntersectionSize(7), TooFewRecords()]


def part(first=0, total=7, rows=3, columns=5, words=2):
    return ShamirShare(first, total, np.zeros((rows, columns, words), np.uint64))


def too_large(where):
    shares = np.zeros((3, 5, 2), np.uint64)
    shares[where] = np.frombuffer(FIELD_127.p.to_bytes(16, "little"), "<u8")
    return ShamirShare(0, 7, shares)


WRONG_PARTS = {
    "later rows": part(first=3),
    "other total": part(total=8),
    "fewer columns": part(columns=4),
    "more columns": part(columns=6),
    "another field": part(words=3),
    "no rows": ShamirShare(0, 0, np.zeros((0, 5, 2), np.uint64)),
    "first element not below the prime": too_large((0, 0)),
    "last element not below the prime": too_large((2, 4)),
}


def role_in(state):
    """A role in a state, and the pairs of sender and message kind that may come next."""
    played = study()
    third, leader, follower = played.roles[2], played.roles[1], played.roles[0]
    if state is NotStarted:
        return leader, set()
    (key_of_follower,), (key_of_leader,) = follower.start(), leader.start()
    if state is AwaitingKey:
        return leader, {(0, ShareKey)}
    if state is AwaitingLeader:
        return follower, {(1, ShamirShare)}
    if state is AwaitingBoth:
        return third, {(0, ShamirShare), (1, ShareKey)}
    if state is AwaitingFollower:
        third.receive(1, key_of_leader.message)
        return third, {(0, ShamirShare)}
    if state is Dealing:
        leader.receive(0, key_of_follower.message)
        return leader, set()
    played = study()
    played.play()
    return played.roles[1], set()


STATES = [NotStarted, AwaitingKey, Dealing, AwaitingLeader, AwaitingBoth, AwaitingFollower, Done]
IN_STATE = pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)


@IN_STATE
def test_a_message_that_has_no_place_is_refused_and_moves_nothing(state):
    role, allowed = role_in(state)
    before = role.state
    assert isinstance(before, state)
    for sender in (-1, 0, 1, 2, 3):
        for message in (*FOREIGN, part()):
            if (sender, type(message)) not in allowed:
                with pytest.raises(RemoteProtocolError, match=f"from party {sender} has no place in state"):
                    role.receive(sender, message)
                assert role.state is before


@pytest.mark.parametrize("state", [AwaitingLeader, AwaitingBoth, AwaitingFollower], ids=lambda state: state.__name__)
@pytest.mark.parametrize("name", WRONG_PARTS)
def test_a_part_that_does_not_fit_is_refused_and_moves_nothing(state, name):
    role, allowed = role_in(state)
    (sender,) = (sender for sender, kind in allowed if kind is ShamirShare)
    before = role.state
    with pytest.raises(RemoteProtocolError, match=f"party {sender}"):
        role.receive(sender, WRONG_PARTS[name])
    assert role.state is before and role.result is None
    assert not any(len(rows) for table in role._setting.tables for rows in table.rows)


@pytest.mark.parametrize("state", [AwaitingLeader, AwaitingBoth, AwaitingFollower], ids=lambda state: state.__name__)
def test_a_part_out_of_order_is_refused_and_moves_nothing(state):
    role, allowed = role_in(state)
    (sender,) = (sender for sender, kind in allowed if kind is ShamirShare)
    role.receive(sender, part())
    before = role.state
    for wrong in (part(), part(first=2), part(first=4)):
        with pytest.raises(RemoteProtocolError, match="where 3 of 7 have come"):
            role.receive(sender, wrong)
        assert role.state is before
    role.receive(sender, part(first=3, rows=4))


def test_a_key_that_comes_twice_is_refused():
    role, _ = role_in(AwaitingFollower)
    with pytest.raises(RemoteProtocolError):
        role.receive(1, KEY)


def test_a_refusal_shows_no_share():
    role, _ = role_in(AwaitingLeader)
    with pytest.raises(RemoteProtocolError) as refusal:
        role.receive(1, WRONG_PARTS["last element not below the prime"])
    assert str(refusal.value) == "party 1 sent a field element that is not below the prime"


@pytest.mark.parametrize(
    "change",
    [
        {"own": (6, 2, 15)},
        {"own": (7, 3, 15)},
        {"masks": (7, 2, 15)},
        {"masks": (7, 3, 16)},
        {"dtype": np.int8},
    ],
    ids=str,
)
def test_additive_shares_of_the_wrong_shape_or_type_are_our_own_fault(change):
    shapes = {"own": (7, 2, 15), "masks": (7, 3, 15), "dtype": np.uint8, **change}
    arrays = {name: np.ones(shapes[name], shapes["dtype"]) for name in ("own", "masks")}
    role = ControllerSharing(0, study().settings[0], **arrays, rng=seeded("x"))
    with pytest.raises(LocalProtocolError, match="additive shares of shape"):
        role.start()


def test_additive_shares_that_cannot_be_overwritten_are_our_own_fault():
    own, masks = np.ones((7, 2, 15), np.uint8), np.ones((7, 3, 15), np.uint8)
    masks.flags.writeable = False
    with pytest.raises(LocalProtocolError, match="not a writeable"):
        ControllerSharing(0, study().settings[0], own, masks, seeded("x")).start()


@pytest.mark.parametrize("ids", [(0, 0), (0, 3), (-1, 0)])
def test_a_setting_without_two_controllers_out_of_three_is_refused(ids):
    with pytest.raises(LocalProtocolError):
        SharingSetting(SESSION, ids, dict.fromkeys(ids, 1), FIELD_127, 10)


def test_a_setting_without_records_or_with_widths_of_others_is_refused():
    with pytest.raises(LocalProtocolError):
        SharingSetting(SESSION, (0, 1), {0: 1, 1: 1}, FIELD_127, 0)
    with pytest.raises(LocalProtocolError):
        SharingSetting(SESSION, (0, 1), {0: 1, 2: 1}, FIELD_127, 10)
    with pytest.raises(LocalProtocolError):
        SharingSetting(SESSION, (0, 1), {0: 1, 1: 1}, FIELD_127, 10, folds=0)


def test_the_third_party_sends_nothing():
    played = study()
    assert isinstance(played.roles[2], ThirdPartySharing)
    assert not [*played.roles[2].start()]
