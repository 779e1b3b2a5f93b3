"""The greeting, the reasons to stop and the end, without a network."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import refusals
from pipeline.agreement import Agreement, Join, Model, Party, Study, canonical_json
from pipeline.errors import (
    ConfigError,
    DataError,
    LocalProtocolError,
    PeerError,
    Refused,
    RemoteProtocolError,
    SharesMissing,
)
from pipeline.plain_lasso import constant_outcome, dependent_features, not_converged, too_little_spread
from pipeline.refusals import too_few_records
from pipeline.session import (
    MAX_NAMED_KEYS,
    PROTOCOL_VERSION,
    Abort,
    AbortCode,
    Beat,
    Command,
    Contents,
    Done,
    Hello,
    Ready,
    Session,
    SessionEnded,
    Stream,
    abort_code,
    decode,
    encode,
    session_identifier,
)

AGREEMENT = Agreement(
    Study("small"),
    (
        Party(0, "hospital", "controller", "https://h:1", (b"h",), ("id",), features=("age",), outcome="days"),
        Party(1, "insurer", "controller", "https://i:1", (b"i",), ("id",), features=("income",)),
        Party(2, "third-party", "third-party", "https://t:1", (b"t",)),
    ),
    Join(),
    Model(alpha=0.1),
)
OTHER = replace(AGREEMENT, model=Model(alpha=0.2))
FRAMES = [
    Hello(PROTOCOL_VERSION, b"d" * 32, b"n" * 32),
    Hello(PROTOCOL_VERSION, b"d" * 32, b"n" * 32, Command.FIT),
    Contents(2, b"{}"),
    Ready(b"s" * 32),
    Beat(),
    Done(),
    Abort(AbortCode.PEER_LOST, 1, 2),
    Abort(AbortCode.INTERRUPTED, 0),
    Stream(b"bytes"),
]


class Wires:
    """Three sessions and what is under way between each two of them, in order."""

    def __init__(self, agreements=(AGREEMENT,) * 3, commands=(Command.RUN,) * 3):
        self.sessions = [
            Session(a, party, bytes([party]) * 32, command)
            for party, (a, command) in enumerate(zip(agreements, commands, strict=True))
        ]
        self.under_way = {}
        self.ended = {}
        self.reachable()

    def reachable(self):
        for session in self.sessions:
            for peer in session.states:
                session.reached(peer)
                assert session.missing

    def act(self, me, action):
        if me in self.ended:
            return
        session = self.sessions[me]
        try:
            sendings = action(session)
        except SessionEnded as ended:
            self.ended[me] = ended
            sendings = session.farewell(ended.notice)
        for receiver, frame in sendings or []:
            self.under_way.setdefault((me, receiver), []).append(frame)

    def connect(self, one, other):
        self.act(one, lambda s: s.connected(other))
        self.act(other, lambda s: s.connected(one))

    def deliver(self, one=None, other=None):
        """Deliver what goes from `one` to `other`, or everything until nothing is under way."""
        while pairs := [p for p, frames in self.under_way.items() if frames and (one is None or p == (one, other))]:
            sender, receiver = pairs[0]
            frame = self.under_way[pairs[0]].pop(0)
            self.act(receiver, lambda s, sender=sender, frame=frame: s.receive(sender, decode(encode(frame))))

    def all(self):
        for one, other in ((0, 1), (0, 2), (1, 2)):
            self.connect(one, other)
        self.deliver()
        return self


def test_three_parties_agree_on_one_session_identifier():
    wires = Wires().all()
    assert all(session.established and not session.missing for session in wires.sessions)
    expected = session_identifier(bytes.fromhex(AGREEMENT.digest), [bytes([p]) * 32 for p in range(3)])
    assert {session.identifier for session in wires.sessions} == {expected}


def test_the_identifier_depends_on_the_digest_on_every_nonce_and_on_their_order():
    digest, nonces = b"d" * 32, [b"a" * 32, b"b" * 32, b"c" * 32]
    others = [
        session_identifier(b"e" * 32, nonces),
        session_identifier(digest, [b"x" * 32, *nonces[1:]]),
        session_identifier(digest, [*nonces[:2], b"x" * 32]),
        session_identifier(digest, [nonces[1], nonces[0], nonces[2]]),
    ]
    assert len({session_identifier(digest, nonces), *others}) == 5


def test_nobody_is_ready_before_everybody_has_greeted_and_can_be_reached():
    wires = Wires()
    wires.connect(0, 1)
    wires.deliver()
    assert wires.sessions[0].missing == (2,)
    assert wires.sessions[0].identifier is None
    session = Session(AGREEMENT, 0, bytes(32))
    digest = bytes.fromhex(AGREEMENT.digest)
    for peer in (1, 2):
        session.connected(peer)
        session.receive(peer, Hello(PROTOCOL_VERSION, digest, bytes([peer]) * 32))
    assert session.missing == (1, 2)
    assert session.reached(1) == []
    assert [type(frame) for _, frame in session.reached(2)] == [Ready, Ready]


@pytest.mark.parametrize("other", [0, 1, 2])
def test_parties_started_with_different_commands_are_refused_and_say_which(other):
    wires = Wires(commands=[Command.FIT if party == other else Command.RUN for party in range(3)]).all()
    assert len(wires.ended) == 3
    for party, ended in wires.ended.items():
        assert isinstance(ended.error, Refused) and ended.error.rule == "commands-differ"
        assert party != other or ("`run`" in str(ended.error) and "this party with `fit`" in str(ended.error))
    assert all(session.identifier is None or not session.established for session in wires.sessions)


def test_a_party_lost_before_the_session_stands_may_come_again_with_a_new_nonce():
    wires = Wires()
    wires.connect(0, 1)
    wires.deliver()
    for me, peer in ((0, 1), (1, 0)):
        wires.act(me, lambda s, peer=peer: s.lost(peer, "went away"))
    assert not wires.ended
    wires.sessions[1] = Session(AGREEMENT, 1, b"z" * 32)
    for peer in (0, 2):
        wires.sessions[1].reached(peer)
    wires.all()
    assert len({session.identifier for session in wires.sessions}) == 1
    assert all(session.established for session in wires.sessions)


def test_a_party_lost_afterwards_ends_the_session_and_the_third_names_the_lost_one():
    wires = Wires().all()
    wires.act(0, lambda s: s.lost(1, "has died"))
    wires.deliver(0, 2)
    assert "insurer" in str(wires.ended[0].error)
    told = wires.ended[2].error
    assert isinstance(told, PeerError)
    assert "hospital stopped" in str(told)
    assert "lost insurer" in str(told)


def test_a_reason_passed_on_names_the_one_who_had_it():
    wires = Wires().all()
    wires.act(1, lambda s: [(0, Abort(AbortCode.OWN_INPUT, 1))])
    wires.deliver(1, 0)
    wires.deliver(0, 2)
    assert str(wires.ended[2].error).startswith("insurer stopped: its own input is wrong")
    assert "hospital says so" in str(wires.ended[2].error)


def test_different_agreements_are_refused_at_both_with_the_keys_that_differ():
    wires = Wires((AGREEMENT, OTHER, AGREEMENT)).all()
    for me, other in ((0, "insurer"), (1, "hospital"), (2, "insurer")):
        error = wires.ended[me].error
        assert isinstance(error, Refused)
        assert error.rule == "agreements-differ"
        assert "model.alpha" in str(error)
        assert other in str(error) or me == 1


@pytest.mark.parametrize("odd", [0, 1, 2])
def test_a_party_names_the_keys_even_when_it_never_meets_the_one_that_differs(odd):
    agreements = [AGREEMENT] * 3
    agreements[odd] = OTHER
    for between in range(3):
        wires = Wires(agreements)
        for other in {0, 1, 2} - {between}:
            wires.connect(between, other)
        wires.deliver()
        for me in range(3):
            error = wires.ended[me].error
            assert isinstance(error, Refused)
            assert "model.alpha" in str(error)
            assert me == odd or AGREEMENT.party(odd).name in str(error)


def test_a_party_that_was_mended_is_not_told_that_its_earlier_agreement_is_that_of_another():
    earlier, mended = (Session(a, 1, b"n" * 32) for a in (OTHER, AGREEMENT))
    ending = Session(AGREEMENT, 0, b"m" * 32)
    for session, peer in ((earlier, 0), (mended, 0), (ending, 1)):
        session.connected(peer)
    (_, hello), *_ = earlier.connected(0)
    ending.receive(1, hello)
    with pytest.raises(SessionEnded) as found:
        ending.receive(1, Contents(1, canonical_json(OTHER.canonical())))
    first, *rest = [frame for peer, frame in ending.connected(1) + ending.farewell(found.value.notice) if peer == 1]
    assert [type(frame) for frame in (first, *rest)] == [Hello, Contents, Contents, Abort]
    with pytest.raises(SessionEnded) as told:
        for frame in (first, *rest):
            mended.receive(0, frame)
    assert "hospital stopped: its agreement and that of this party differ" in str(told.value.error)
    assert "third-party" not in str(told.value.error)


def test_a_long_list_of_differing_keys_is_cut():
    columns = tuple(f"x{i}" for i in range(3))
    parties = tuple(
        replace(p, name=p.name + "-b", url=p.url + "0", certificates=(b"x",), features=columns, identifier=("no",))
        for p in AGREEMENT.parties
    )
    other = replace(AGREEMENT, parties=parties, model=Model(alpha=0.2))
    wires = Wires((AGREEMENT, other, AGREEMENT)).all()
    assert "more" in str(wires.ended[0].error)
    assert str(wires.ended[0].error).count(",") <= MAX_NAMED_KEYS


@pytest.mark.parametrize(
    "theirs", [b"", b"nonsense", b"[]", b"[" * 100_000, canonical_json({"study": 3}), b'{"a":1,"a":2}']
)
def test_contents_that_are_no_agreement_are_refused_with_a_sentence(theirs):
    session = Session(AGREEMENT, 0, bytes(32))
    session.connected(1)
    session.receive(1, Hello(PROTOCOL_VERSION, b"x" * 32, bytes(32)))
    with pytest.raises(SessionEnded) as caught:
        session.receive(1, Contents(1, theirs))
    assert isinstance(caught.value.error, Refused)
    assert "insurer" in str(caught.value.error)


def test_another_version_is_refused_whatever_else_its_greeting_holds():
    session = Session(AGREEMENT, 0, bytes(32))
    session.connected(1)
    greeting = decode(bytes([1]) + (PROTOCOL_VERSION + 1).to_bytes(2, "big") + b"something new")
    with pytest.raises(SessionEnded) as caught:
        session.receive(1, greeting)
    assert isinstance(caught.value.error, Refused)
    assert caught.value.error.rule == "versions-differ"
    assert caught.value.notice == Abort(AbortCode.VERSIONS_DIFFER, 0, 1)


def test_different_session_identifiers_break_the_protocol():
    wires = Wires()
    for one, other in ((0, 1), (0, 2), (1, 2)):
        wires.connect(one, other)
    wires.under_way[(1, 0)] = [replace(wires.under_way[(1, 0)][0], nonce=b"!" * 32)]  # not what it tells the other
    wires.deliver()
    assert {type(ended.error) for ended in wires.ended.values()} <= {RemoteProtocolError, PeerError}
    assert len(wires.ended) == 3


def states():
    """A session in each state towards party 1, with the frames it takes there."""
    fresh = Session(AGREEMENT, 0, bytes(32))
    fresh.connected(1)
    yield "connected", fresh, {Hello, Beat, Abort}
    differing = Session(AGREEMENT, 0, bytes(32))
    differing.connected(1)
    differing.receive(1, Hello(PROTOCOL_VERSION, b"x" * 32, bytes(32)))
    yield "differing", differing, {Contents, Beat, Abort}
    greeted = Session(AGREEMENT, 0, bytes(32))
    greeted.connected(1)
    greeted.receive(1, Hello(PROTOCOL_VERSION, bytes.fromhex(AGREEMENT.digest), bytes(32)))
    yield "greeted", greeted, {Contents, Ready, Beat, Abort}
    joined = Wires().all().sessions[0]
    yield "joined", joined, {Contents, Stream, Done, Beat, Abort}
    finished = Wires().all().sessions[0]
    finished.receive(1, Done())
    yield "finished", finished, {Beat, Abort}


@pytest.mark.parametrize("name, session, allowed", list(states()), ids=[name for name, _, _ in states()])
def test_a_frame_out_of_turn_is_refused_and_moves_nothing(name, session, allowed):
    for frame in FRAMES:
        if type(frame) in allowed:
            continue
        before = dict(session.states)
        with pytest.raises(SessionEnded) as caught:
            session.receive(1, frame)
        assert isinstance(caught.value.error, RemoteProtocolError)
        assert "insurer" in str(caught.value.error)
        assert session.states == before


def test_a_peer_that_is_done_may_leave():
    wires = Wires().all()
    for me in range(3):
        for peer in range(3):
            if peer != me:
                wires.act(me, lambda s, peer=peer: s.receive(peer, Done()))
    assert all(session.finished for session in wires.sessions)
    wires.act(0, lambda s: s.lost(1, "has died"))
    assert not wires.ended


def test_a_party_that_is_done_is_told_why_another_stops():
    wires = Wires().all()
    wires.act(0, lambda s: s.receive(2, Done()))
    sendings = wires.sessions[0].farewell(Abort(AbortCode.INTERRUPTED, 0))
    assert {receiver for receiver, _ in sendings} == {1, 2}


def test_after_the_end_nobody_can_stop_a_party():
    session = Wires().all().sessions[0]
    session.receive(1, Done())
    session.receive(2, Done())
    with pytest.raises(SessionEnded):
        session.receive(1, Abort(AbortCode.PEER_STALLED, 1))
    session.is_done = True
    assert session.receive(1, Abort(AbortCode.PEER_STALLED, 1)) == []


def test_done_may_come_before_the_third_is_known_to_be_ready():
    wires = Wires()
    for one, other in ((0, 1), (0, 2), (1, 2)):
        wires.connect(one, other)
    wires.act(0, lambda s: s.receive(2, wires.under_way[(2, 0)].pop(0)))
    for pair in [(0, 1), (1, 0), (0, 2), (1, 2), (2, 1)] * 2:  # all but what party 2 sends to party 0 now
        wires.deliver(*pair)
    assert [type(frame) for frame in wires.under_way[(2, 0)]] == [Ready]
    assert wires.sessions[1].established
    assert not wires.sessions[0].established
    wires.act(0, lambda s: s.receive(1, Done()))
    assert not wires.ended


@pytest.mark.parametrize("frame", FRAMES)
def test_a_frame_survives_encoding(frame):
    assert decode(encode(frame)) == frame


@given(st.binary(max_size=80))
def test_any_bytes_are_a_frame_or_a_value_error(data):
    try:
        frame = decode(data)
    except ValueError:
        return
    if not (isinstance(frame, Hello) and frame.version != PROTOCOL_VERSION):
        assert encode(frame) == data


STUDY_RULES = {
    AbortCode.REFUSED_TOO_FEW_RECORDS: too_few_records(50),
    AbortCode.REFUSED_NOT_CONVERGED: not_converged(1000),
    AbortCode.REFUSED_CONSTANT_OUTCOME: constant_outcome(),
    AbortCode.REFUSED_SPREAD: too_little_spread(),
    AbortCode.REFUSED_RANK: dependent_features(),
    AbortCode.REFUSED_OTHER_JOIN: refusals.other_join(),
    AbortCode.REFUSED_EXPIRED: refusals.expired(None),
    AbortCode.REFUSED_ANALYSES_USED: refusals.analyses_used(20),
    AbortCode.REFUSED_OPENED_USED: refusals.opened_used(0.33),
    AbortCode.REFUSED_MIN_LEVEL_COUNT: refusals.GATE["min_level_count"],
    AbortCode.REFUSED_MIN_RESIDUAL_DF: refusals.GATE["min_residual_df"],
    AbortCode.REFUSED_MAX_PARAMETERS_RATIO: refusals.GATE["max_parameters_ratio"],
    AbortCode.REFUSED_MAX_R2: refusals.GATE["max_r2"],
    AbortCode.REFUSED_HELD_OUT: refusals.GATE["held-out"],
    AbortCode.REFUSED_CRITERION: refusals.GATE["criterion"],
}
NOT_ALIKE = (AbortCode.AGREEMENTS_DIFFER, AbortCode.VERSIONS_DIFFER, AbortCode.COMMANDS_DIFFER)


@pytest.mark.parametrize("origin", [1, 2])
@pytest.mark.parametrize("code", STUDY_RULES)
def test_who_is_told_of_a_refusal_by_a_rule_of_the_study_says_the_same_as_who_found_it(code, origin):
    with pytest.raises(SessionEnded) as caught:
        Wires().all().sessions[0].receive(1, Abort(code, origin))
    assert isinstance(caught.value.error, Refused)
    assert str(caught.value.error) == STUDY_RULES[code]


@pytest.mark.parametrize("code", list(AbortCode))
def test_every_code_becomes_a_sentence_and_the_right_exit_state(code):
    for party in (None, 0, 2):
        session = Wires().all().sessions[0]
        with pytest.raises(SessionEnded) as caught:
            session.receive(1, Abort(code, 1, party))
        error = caught.value.error
        assert str(error).startswith("insurer stopped: ") or code in STUDY_RULES
        assert "{" not in str(error)
        refused = code.name.startswith("REFUSED") or code in NOT_ALIKE
        assert error.exit_state == (3 if refused else 4)


def test_nobody_can_be_made_to_speak_of_parties_that_do_not_exist():
    session = Wires().all().sessions[0]
    with pytest.raises(SessionEnded) as caught:
        session.receive(1, Abort(AbortCode.PEER_LOST, 77, 78))
    assert str(caught.value.error).startswith("insurer stopped: it has lost another party")


@pytest.mark.parametrize(
    "error, code",
    [
        (ConfigError("x"), AbortCode.OWN_INPUT),
        (DataError("x"), AbortCode.OWN_INPUT),
        (SharesMissing("x"), AbortCode.NO_SHARES),
        (Refused("too-few-records", "x"), AbortCode.REFUSED_TOO_FEW_RECORDS),
        (Refused("not-converged", "x"), AbortCode.REFUSED_NOT_CONVERGED),
        (Refused("constant-outcome", "x"), AbortCode.REFUSED_CONSTANT_OUTCOME),
        (Refused("opened-used", "x"), AbortCode.REFUSED_OPENED_USED),
        (Refused("some-new-rule", "x"), AbortCode.REFUSED),
        (RemoteProtocolError("x"), AbortCode.PROTOCOL_BROKEN),
        (PeerError("x"), AbortCode.PEER_LOST),
        (LocalProtocolError("x"), AbortCode.INTERNAL_ERROR),
        (KeyboardInterrupt(), AbortCode.INTERRUPTED),
        (ZeroDivisionError(), AbortCode.INTERNAL_ERROR),
    ],
)
def test_an_error_has_its_code(error, code):
    assert abort_code(error) is code


def test_a_refusal_keeps_its_rule_on_the_way_to_the_others():
    for rule in ("too-few-records", "not-converged", "constant-outcome", "agreements-differ", "other-join", "expired"):
        session = Wires().all().sessions[0]
        with pytest.raises(SessionEnded) as caught:
            session.receive(1, Abort(abort_code(Refused(rule, "x")), 1))
        assert caught.value.error.rule == rule
