"""The join: what it computes, what it refuses, what reaches whom, and what is left afterwards.

Roles are real, keys are small, and all that crosses between parties crosses as bytes.
"""

from __future__ import annotations

import gc
import hashlib
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
from fakes import BITS, SESSION, THIRD, Delivery, Study, in_turn, keypair, make_table, shuffled, subgroup_keypair

from pipeline import matching, psi
from pipeline.config import Agreement, Join, Model, Party
from pipeline.config import Study as StudyTable
from pipeline.errors import LocalProtocolError, Refused, RemoteProtocolError
from pipeline.keyed_hash import hash_key, keyed_hashes
from pipeline.messages import (
    MAX_MESSAGE_BYTES,
    PART_BYTES,
    Bytes,
    Columns,
    IntersectionSize,
    KeyContribution,
    MaskedShare,
    Message,
    PublicKey,
    RandomShare,
    ScrambledDataset,
    ShamirShare,
    ShareKey,
    SubgroupKey,
    TooFewRecords,
)
from pipeline.packing import SLOT_BYTES
from pipeline.paillier import EncryptionKey, ciphertext_bytes
from pipeline.psi import Controller, PaillierWorkers, ThirdParty
from pipeline.psi_states import (
    CONTROLLER_TRANSITIONS,
    THIRD_PARTY_TRANSITIONS,
    AwaitingDatasets,
    AwaitingIntersectionSize,
    AwaitingMaskedShare,
    AwaitingRandomShares,
    Decrypted,
    Done,
    Ended,
    Matched,
    Setting,
)

SUBGROUP_KEYS = subgroup_keypair(0), subgroup_keypair(1)
STUDIES = [
    pytest.param((range(8), range(5, 20)), (3, 5), id="some of each"),
    pytest.param((range(6), range(6)), (1, 1), id="all"),
    pytest.param((range(4), range(9, 12)), (2, 2), id="none"),
    pytest.param(([7], [7]), (4, 1), id="one row, one match"),
    pytest.param(([7], range(30)), (4, 5), id="one row against many, a full ciphertext and one more"),
    pytest.param(([], range(3)), (2, 2), id="an empty table"),
    pytest.param((range(70), range(20, 81)), (1, 9), id="many parts, three ciphertexts a row"),
]


# --- what it computes -------------------------------------------------------


@pytest.mark.parametrize(("persons", "widths"), STUDIES)
@pytest.mark.parametrize("choose", [in_turn, shuffled(1), shuffled(2)], ids=["in turn", "shuffled", "otherwise"])
def test_additive_shares_add_up_to_the_matched_rows(
    persons: tuple[Iterable[int], Iterable[int]], widths: tuple[int, int], choose: Callable[[int], int]
) -> None:
    study = Study(persons, widths)
    study.play(choose)
    matched = study.matched_rows()
    assert sorted(study.joined_rows()) == matched
    assert study.third_party.result == Matched(len(matched))


@pytest.mark.parametrize(("persons", "widths"), STUDIES[:1] + STUDIES[-1:])
def test_additive_shares_add_up_with_subgroup_keys(
    persons: tuple[Iterable[int], Iterable[int]], widths: tuple[int, int]
) -> None:
    study = Study(persons, widths, keypairs=SUBGROUP_KEYS)
    study.play(shuffled(5))
    assert sorted(study.joined_rows()) == study.matched_rows()


def test_shares_are_byte_arrays_of_one_slot_an_entry() -> None:
    study = Study((range(9), range(4, 14)))
    study.play()
    result = study.controllers[1].result
    assert result is not None
    assert (result.records, result.own.shape, result.masks.shape) == (5, (5, 5, SLOT_BYTES), (5, 3, SLOT_BYTES))
    assert result.own.dtype == result.masks.dtype == np.uint8
    assert result.peer_exponents == study.tables[0].exponents


def test_roles_move_only_along_the_tables_of_transitions() -> None:
    for persons, min_records in [((range(30), range(5, 40)), 0), ((range(3), range(3)), 10)]:
        study, last = Study(persons, min_records=min_records), {}

        def watch(delivery: Delivery, study: Study = study, last: dict = last) -> None:
            for party, role in study.roles.items():
                before = last.get(party)
                if before is not None and type(before[0]) is not type(role.state):
                    state, message = before
                    table = THIRD_PARTY_TRANSITIONS if party == THIRD else CONTROLLER_TRANSITIONS
                    assert type(role.state) in table[type(state), type(message)][1]
                last.pop(party, None)
            last[delivery.receiver] = study.roles[delivery.receiver].state, delivery.message

        study.play(shuffled(3), watch)


def test_a_setting_is_what_the_agreement_says() -> None:
    parties = (
        Party(3, "a", "controller", "https://a:1", (), features=("x", "y"), categories={"c": ("r", "s", "t")}),
        Party(4, "b", "third-party", "https://b:1", ()),
        Party(7, "c", "controller", "https://c:1", (), features=("z",), outcome="o"),
    )
    agreement = Agreement(StudyTable("s", 33), parties, Join(2048), Model(0.1))
    setting = Setting.of(agreement, SESSION)
    assert setting == Setting(SESSION, (3, 7), 4, {3: 4, 7: 2}, 2048, 33)
    assert (setting.peer(3), setting.peer(7)) == (7, 3)
    assert setting.row_shape(3) == (1, 512)


# --- what it refuses --------------------------------------------------------


def _any_of_each_message() -> list[Message]:
    rows = np.ones((1, 1, ciphertext_bytes(BITS)), np.uint8)
    return [
        KeyContribution(bytes(32)),
        PublicKey(keypair(0).modulus),
        SubgroupKey(keypair(0).modulus, bytes(2 * BITS // 8)),
        Columns((0, 0, 0)),
        ScrambledDataset(0, 1, np.zeros((1, 32), np.uint8), rows),
        IntersectionSize(1),
        TooFewRecords(),
        RandomShare(0, 1, rows),
        MaskedShare(0, 1, rows),
        ShareKey(bytes(32)),
        ShamirShare(0, 1, np.zeros((1, 1, 3), np.uint64)),
    ]


def _may_come(party: int, state: object, sender: int, message: Message) -> bool:
    table = THIRD_PARTY_TRANSITIONS if party == THIRD else CONTROLLER_TRANSITIONS
    kind, _ = table.get((type(state), type(message)), (None, ()))
    senders = {"controller": {0, 1} - {party}, "third-party": {THIRD} - {party}}
    return sender in senders.get(kind, ())


@pytest.mark.parametrize("min_records", [0, 20], ids=["matched", "too few"])
def test_every_state_refuses_every_wrong_message_and_every_wrong_sender(min_records: int) -> None:
    study = Study((range(12), range(2, 15)), min_records=min_records)
    seen: set[type] = set()

    def offer_wrong_ones(delivery: Delivery | None) -> None:
        for party, role in study.roles.items():
            state = role.state
            seen.add(type(state))
            for sender in (0, 1, THIRD, 3):
                for message in _any_of_each_message():
                    if _may_come(party, state, sender, message):
                        continue
                    with pytest.raises(RemoteProtocolError, match="has no place in state"):
                        role.receive(sender, message)
                    assert role.state is state

    offer_wrong_ones(None)
    network = study.play(shuffled(4), offer_wrong_ones)
    offer_wrong_ones(None)
    states = {state for table in (CONTROLLER_TRANSITIONS, THIRD_PARTY_TRANSITIONS) for state, _ in table}
    if min_records:
        assert set(network.refused) == {0, 1, THIRD}
        assert Ended in seen
    else:
        assert sorted(study.joined_rows()) == study.matched_rows()
        assert seen >= states | {Decrypted, Done}


@dataclass
class Stop(Exception):
    """Ends a run just before a message is delivered."""

    delivery: Delivery


def _until(study: Study, wanted: Callable[[Delivery], bool]) -> Delivery:
    """Play up to the first delivery that is wanted; return it, not yet delivered."""

    def watch(delivery: Delivery) -> None:
        if wanted(delivery):
            raise Stop(delivery)

    with pytest.raises(Stop) as stop:
        study.play(before=watch)
    return stop.value.delivery


def _before(study: Study, receiver: int, kind: type, occurrence: int = 0) -> Delivery:
    """Play up to the delivery of that message."""
    count = iter(range(1000))
    return _until(study, lambda d: d.receiver == receiver and isinstance(d.message, kind) and next(count) == occurrence)


def _is_last_part(delivery: Delivery) -> bool:
    message = delivery.message
    return message.first + len(message.ciphertexts) == message.total


def _refused(study: Study, delivery: Delivery, message: Message, why: str) -> None:
    """The message instead of the delivered one is refused and moves nothing; that one is then still taken."""
    role = study.roles[delivery.receiver]
    state = role.state
    with pytest.raises(RemoteProtocolError, match=why):
        list(role.receive(delivery.sender, message))
    assert role.state is state
    role.receive(delivery.sender, delivery.message)
    assert role.state is not state


def _study() -> Study:
    """Uploads of 44 and 50 rows, 40 matches; parts of two rows."""
    return Study((range(44), range(4, 54)))


def _with_ciphertext(message: Message, value: int) -> Message:
    ciphertexts = message.ciphertexts.copy()
    ciphertexts[-1, -1] = np.frombuffer(value.to_bytes(ciphertexts.shape[-1], "big"), np.uint8)
    return replace(message, ciphertexts=ciphertexts)


PARTED = [
    pytest.param(THIRD, ScrambledDataset, id="scrambled dataset"),
    pytest.param(THIRD, RandomShare, id="random share"),
    pytest.param(0, MaskedShare, id="masked share"),
]


@pytest.mark.parametrize(("receiver", "kind"), PARTED)
def test_a_part_that_leaves_rows_out_is_refused(receiver: int, kind: type) -> None:
    study = _study()
    delivery = _before(study, receiver, kind, 1)
    _refused(study, delivery, replace(delivery.message, first=delivery.message.first + 1), "begins at row 3, where 2")


@pytest.mark.parametrize(("receiver", "kind"), PARTED)
def test_a_part_that_comes_again_is_refused(receiver: int, kind: type) -> None:
    study = _study()
    delivery = _before(study, receiver, kind, 1)
    _refused(study, delivery, replace(delivery.message, first=0), "begins at row 0, where 2")


@pytest.mark.parametrize(("receiver", "kind"), PARTED)
def test_a_part_of_another_total_is_refused(receiver: int, kind: type) -> None:
    study = _study()
    delivery = _before(study, receiver, kind, 1)
    _refused(study, delivery, replace(delivery.message, total=delivery.message.total + 1), "rows, not of")


@pytest.mark.parametrize(("receiver", "kind"), PARTED)
@pytest.mark.parametrize("shape", [(1, 127), (1, 129), (2, 128), (0, 128)])
def test_rows_of_another_shape_than_agreed_are_refused(receiver: int, kind: type, shape: tuple[int, int]) -> None:
    study = Study((range(44), range(4, 54)), widths=(3, 3))
    delivery = _before(study, receiver, kind, 1)
    rows = np.ones((len(delivery.message.ciphertexts), *shape), np.uint8)
    _refused(study, delivery, replace(delivery.message, ciphertexts=rows), "has rows of shape")


@pytest.mark.parametrize(("receiver", "kind"), PARTED)
@pytest.mark.parametrize("value", ["zero", "one", "1 + n", "p", "n", "n^2", "all bits"])
def test_what_is_no_ciphertext_under_the_key_is_refused(receiver: int, kind: type, value: str) -> None:
    study = _study()
    delivery = _before(study, receiver, kind, 1)
    owner = 1 - delivery.sender if kind is RandomShare else receiver if kind is MaskedShare else delivery.sender
    n, p = keypair(owner).n, keypair(owner).p
    number = {"zero": 0, "one": 1, "1 + n": 1 + n, "p": p, "n": n, "n^2": n * n, "all bits": (1 << 2 * BITS) - 1}[value]
    _refused(study, delivery, _with_ciphertext(delivery.message, number), "ciphertext is")


def test_a_second_scrambled_dataset_from_the_same_controller_is_refused() -> None:
    study, sent = _study(), []

    def is_first_ones_last(delivery: Delivery) -> bool:
        if delivery.sender != 0 or not isinstance(delivery.message, ScrambledDataset):
            return False
        sent.append(delivery.message)
        return _is_last_part(delivery)

    last = _until(study, is_first_ones_last)
    study.third_party.receive(0, last.message)
    state = study.third_party.state
    assert isinstance(state, AwaitingDatasets)
    for message in sent:
        with pytest.raises(RemoteProtocolError, match="begins at row"):
            study.third_party.receive(0, message)
    assert study.third_party.state is state


def test_a_second_upload_without_rows_is_refused() -> None:
    study = Study(([], range(3)))
    delivery = _before(study, THIRD, ScrambledDataset)
    study.third_party.receive(0, delivery.message)
    with pytest.raises(RemoteProtocolError, match="begins at row 0, where 0 of 0"):
        study.third_party.receive(0, delivery.message)


@pytest.mark.parametrize("earlier", [True, False], ids=["in an earlier part", "in the same part"])
def test_a_keyed_hash_that_occurs_twice_in_one_upload_is_refused(earlier: bool) -> None:
    study, sent = _study(), []

    def is_first_ones_last(delivery: Delivery) -> bool:
        if delivery.sender != 0 or not isinstance(delivery.message, ScrambledDataset):
            return False
        sent.append(delivery.message)
        return _is_last_part(delivery)

    last = _until(study, is_first_ones_last)
    hashes = last.message.hashes.copy()
    hashes[-1] = sent[0].hashes[0] if earlier else hashes[0]
    _refused(study, last, replace(last.message, hashes=hashes), "holds a keyed hash twice")


@pytest.mark.parametrize("earlier", [True, False], ids=["of an earlier part", "of the same part"])
def test_a_mask_whose_obfuscator_was_used_before_is_refused_whatever_its_plaintext(earlier: bool) -> None:
    study, sent = _study(), []

    def is_third_part(delivery: Delivery) -> bool:
        if delivery.sender == 0 and isinstance(delivery.message, RandomShare):
            sent.append(delivery.message)
        return len(sent) == 3

    delivery = _until(study, is_third_part)
    n = keypair(1).n
    used = int.from_bytes((sent[0] if earlier else sent[2]).ciphertexts[0, 0].tobytes(), "big")
    disguised = used * (1 + 12345 * n) % n**2
    _refused(study, delivery, _with_ciphertext(delivery.message, disguised), "share an obfuscator")


def test_a_second_mask_set_is_refused() -> None:
    study, sent = _study(), []

    def is_first_last_part(delivery: Delivery) -> bool:
        if not isinstance(delivery.message, RandomShare):
            return False
        sent.append(delivery)
        return _is_last_part(delivery)

    last = _until(study, is_first_last_part)
    study.third_party.receive(last.sender, last.message)
    state = study.third_party.state
    assert isinstance(state, AwaitingRandomShares)
    for delivery in sent:
        if delivery.sender == last.sender:
            with pytest.raises(RemoteProtocolError, match="begins at row"):
                study.third_party.receive(last.sender, delivery.message)
    assert study.third_party.state is state


def test_an_upload_before_its_public_key_is_refused() -> None:
    study = _study()
    upload = _before(_study(), THIRD, ScrambledDataset)
    with pytest.raises(RemoteProtocolError, match="before the public key"):
        study.third_party.receive(upload.sender, upload.message)


def test_a_second_public_key_is_refused() -> None:
    study = _study()
    study.third_party.receive(0, PublicKey(keypair(0).modulus))
    with pytest.raises(RemoteProtocolError, match="a second time"):
        study.third_party.receive(0, PublicKey(keypair(1).modulus))


@pytest.mark.parametrize("receiver", [0, THIRD])
def test_a_modulus_shared_by_both_controllers_is_refused(receiver: int) -> None:
    study = _study()
    delivery = _before(study, receiver, PublicKey, 1 if receiver == THIRD else 0)
    shared = keypair(1 - delivery.sender).modulus
    _refused(study, delivery, PublicKey(shared), "share a factor")


def test_a_key_of_another_kind_than_agreed_is_refused() -> None:
    study = Study((range(9), range(4, 14)))
    key = SUBGROUP_KEYS[1]
    _refused(study, _before(study, 0, PublicKey), SubgroupKey(key.modulus, key.base), "kind of keys that was agreed")
    study = Study((range(9), range(4, 14)), keypairs=SUBGROUP_KEYS)
    _refused(study, _before(study, 0, SubgroupKey), PublicKey(key.modulus), "kind of keys that was agreed")


def test_a_controller_does_not_start_with_a_key_of_another_kind_than_agreed() -> None:
    study = Study((range(9), range(4, 14)), keypairs=(SUBGROUP_KEYS[0], keypair(1)))
    with pytest.raises(LocalProtocolError, match="another kind"):
        study.controllers[1].start()


def test_a_subgroup_key_with_a_bad_base_is_refused_and_the_third_party_sees_no_base() -> None:
    study = Study((range(9), range(4, 14)), keypairs=SUBGROUP_KEYS)
    delivery = _before(study, 0, SubgroupKey)
    modulus = delivery.message.modulus
    minus_one = (int.from_bytes(modulus, "big") ** 2 - 1).to_bytes(2 * len(modulus), "big")
    _refused(study, delivery, SubgroupKey(modulus, minus_one), "small order")
    network = Study((range(9), range(4, 14)), keypairs=SUBGROUP_KEYS).play()
    seen = b"".join(delivery.data for delivery in network.received_by(THIRD))
    assert not any(key.base in seen for key in SUBGROUP_KEYS)
    assert all(key.modulus in seen for key in SUBGROUP_KEYS)


def test_exponents_of_another_number_of_columns_are_refused() -> None:
    study = _study()
    delivery = _before(study, 0, Columns)
    _refused(study, delivery, Columns(delivery.message.exponents[1:]), "as many columns as agreed")


@pytest.mark.parametrize("records", [9, 31])
def test_a_count_below_the_minimum_or_above_the_own_table_is_refused(records: int) -> None:
    study = Study((range(30), range(5, 40)), min_records=10)
    delivery = _before(study, 0, IntersectionSize)
    _refused(study, delivery, IntersectionSize(records), "below the agreed minimum or above the size")


def test_a_result_is_given_only_when_all_parts_are_there() -> None:
    study, parts = _study(), {0: 0, 1: 0}

    def watch(delivery: Delivery) -> None:
        assert all(study.controllers[party].result is None or parts[party] == 20 for party in (0, 1))
        parts[delivery.receiver] = parts.get(delivery.receiver, 0) + isinstance(delivery.message, MaskedShare)

    study.play(shuffled(5), watch)
    assert all(controller.result is not None for controller in study.controllers)


def test_a_result_waits_until_the_own_masks_have_left() -> None:
    """The third party may be quicker with one owner than with the other."""
    study = _study()
    delivery = _before(study, 0, IntersectionSize)
    controller = study.controllers[0]
    pending = iter(controller.receive(THIRD, delivery.message))
    rows = np.stack([_encrypted(keypair(0).n, i) for i in range(40)])
    controller.receive(THIRD, MaskedShare(0, 40, rows))
    assert isinstance(controller.state, Decrypted)
    assert controller.result is None
    sent = sum(len(outgoing.message.ciphertexts) for outgoing in pending)
    assert sent == 40
    assert controller.result is not None


def _encrypted(n: int, number: int) -> Bytes:
    value = (1 + number * n) * pow(number + 2, n, n * n) % (n * n)
    return np.frombuffer(value.to_bytes(2 * BITS // 8, "big"), np.uint8).reshape(1, -1)


def test_a_role_starts_once() -> None:
    study = _study()
    study.controllers[0].start()
    with pytest.raises(LocalProtocolError):
        study.controllers[0].start()


@pytest.mark.parametrize("fault", ["a row too few", "a column too many"])
def test_a_table_that_does_not_fit_the_agreement_is_a_local_error(fault: str) -> None:
    study = _study()
    table = make_table(range(3), 3 if fault == "a row too few" else 4, 0)
    table = replace(table, identifiers=table.identifiers[1:]) if fault == "a row too few" else table
    work = study.controllers[0]._cryptography
    with pytest.raises(LocalProtocolError):
        Controller(0, study.setting, table, work, bytes).start()


# --- distinctness on the sender's side --------------------------------------


@dataclass
class Repeating:
    """Cryptography whose generator got stuck: from the fourth part on, the same obfuscators come again."""

    real: PaillierWorkers
    own: bool

    def __getattr__(self, name: str) -> object:
        return getattr(self.real, name)

    def encrypt_own(self, plaintexts: Iterable[Bytes]) -> Iterator[Bytes]:
        return _stuck(self.real.encrypt_own(plaintexts)) if self.own else self.real.encrypt_own(plaintexts)

    def encrypt_peer(self, plaintexts: Iterable[Bytes], key: EncryptionKey) -> Iterator[Bytes]:
        encrypted = self.real.encrypt_peer(plaintexts, key)
        return encrypted if self.own else _stuck(encrypted)


def _stuck(parts: Iterator[Bytes]) -> Iterator[Bytes]:
    first = None
    for number, part in enumerate(parts):
        first = part if first is None else first
        yield part if number < 3 else first


@pytest.mark.parametrize("own", [True, False], ids=["own rows", "masks"])
def test_a_repeated_obfuscator_never_leaves_its_sender(own: bool) -> None:
    study = Study((range(40), range(40)), cryptography=lambda real: Repeating(real, own))
    sent: list[Delivery] = []
    with pytest.raises(LocalProtocolError, match="share an obfuscator"):
        study.play(before=sent.append)
    kind = ScrambledDataset if own else RandomShare
    for sender in (0, 1):
        parts = [d.message.ciphertexts.tobytes() for d in sent if d.sender == sender and isinstance(d.message, kind)]
        assert len(parts) <= 3
        assert len(set(parts)) == len(parts)


# --- too few ----------------------------------------------------------------


def test_below_min_records_only_too_few_leaves() -> None:
    study = Study((range(12), range(3, 15)), min_records=10)
    network = study.play(shuffled(6))
    assert {party: refusal.rule for party, refusal in network.refused.items()} == dict.fromkeys(
        (0, 1, THIRD), "too-few-records"
    )
    from_third = [d for d in network.delivered if d.sender == THIRD]
    assert {(d.receiver, d.message) for d in from_third} == {(0, TooFewRecords()), (1, TooFewRecords())}
    assert len({d.data for d in from_third}) == 1
    assert all(not isinstance(d.message, RandomShare) for d in network.delivered)
    assert all("9" not in str(refusal) for refusal in network.refused.values())


def test_a_count_of_exactly_min_records_goes_on() -> None:
    study = Study((range(13), range(3, 16)), min_records=10)
    study.play()
    assert study.third_party.result == Matched(10)


def test_the_third_party_refuses_after_its_messages_are_out() -> None:
    study = Study((range(3), range(3)), min_records=10)
    part = _before_last_upload(study)
    answers = iter(study.third_party.receive(part.sender, part.message))
    assert isinstance(study.third_party.state, Ended)
    assert [next(answers).receiver, next(answers).receiver] == [0, 1]
    with pytest.raises(Refused):
        next(answers)


def _before_last_upload(study: Study) -> Delivery:
    left = [len(table.values) for table in study.tables]

    def is_last(delivery: Delivery) -> bool:
        if isinstance(delivery.message, ScrambledDataset):
            left[delivery.sender] -= len(delivery.message.hashes)
        return left == [0, 0]

    return _until(study, is_last)


# --- what reaches whom ------------------------------------------------------

# receiver, sender -> messages; docs/leakage.md says what each tells.
RECEIVED = {
    ("controller", "controller"): {KeyContribution, PublicKey, SubgroupKey, Columns},
    ("controller", "third-party"): {IntersectionSize, TooFewRecords, MaskedShare},
    ("third-party", "controller"): {PublicKey, ScrambledDataset, RandomShare},
}


def test_each_party_receives_exactly_what_is_listed() -> None:
    received: dict[tuple[str, str], set[type]] = {}
    for min_records, keys in ((0, None), (100, None), (0, SUBGROUP_KEYS)):
        study = Study((range(12), range(2, 15)), min_records=min_records, keypairs=keys)
        network = study.play(shuffled(7))
        for delivery in network.delivered:
            roles = _role(delivery.receiver), _role(delivery.sender)
            received.setdefault(roles, set()).add(type(delivery.message))
    assert received == RECEIVED


def test_the_transition_tables_take_exactly_what_is_listed() -> None:
    taken: dict[tuple[str, str], set[type]] = {}
    for receiver, table in (("controller", CONTROLLER_TRANSITIONS), ("third-party", THIRD_PARTY_TRANSITIONS)):
        for (_, message), (sender, _) in table.items():
            taken.setdefault((receiver, sender), set()).add(message)
    assert taken == RECEIVED


def _role(party: int) -> str:
    return "third-party" if party == THIRD else "controller"


def test_the_third_party_receives_neither_the_hash_key_nor_an_identifier() -> None:
    study = Study((range(100_000, 100_012), range(100_002, 100_015)))
    network = study.play(shuffled(8))
    contributions = [d.message.contribution for d in network.delivered if isinstance(d.message, KeyContribution)]
    key = hash_key(*contributions, SESSION)
    hashes = np.concatenate([keyed_hashes(key, table.identifiers) for table in study.tables])
    seen = b"".join(delivery.data for delivery in network.received_by(THIRD))
    assert all(row.tobytes() in seen for row in hashes)  # so this is the key in use
    assert not any(secret in seen for secret in (*contributions, key))
    identifiers = {column for table in study.tables for identifier in table.identifiers for column in identifier}
    assert not any(text.encode() in seen for text in identifiers if len(text) > 3)
    plain = {hashlib.sha256(text.encode()).digest() for text in identifiers}
    assert not any(digest in seen for digest in plain)


def test_no_controller_receives_a_hash_or_a_ciphertext_of_the_other() -> None:
    study = Study((range(12), range(2, 15)))
    network = study.play()
    for party in (0, 1):
        seen = b"".join(delivery.data for delivery in network.received_by(party))
        for delivery in network.received_by(THIRD):
            if isinstance(delivery.message, ScrambledDataset):
                assert not any(row.tobytes() in seen for row in delivery.message.hashes)
            if isinstance(delivery.message, ScrambledDataset | RandomShare):
                assert not any(c.tobytes() in seen for row in delivery.message.ciphertexts for c in row)


def test_hashes_of_two_sessions_differ() -> None:
    seen = []
    for session in (SESSION, SESSION[::-1]):
        network = Study((range(3), range(3)), session=session, seed="same").play()
        uploads = [d.message for d in network.received_by(THIRD) if isinstance(d.message, ScrambledDataset)]
        seen.append({row.tobytes() for upload in uploads for row in upload.hashes})
    assert seen[0].isdisjoint(seen[1])


# --- what is left afterwards ------------------------------------------------


@dataclass
class Watched:
    """Cryptography that tells when it is closed."""

    real: PaillierWorkers
    on_close: Callable[[], object]

    def __getattr__(self, name: str) -> object:
        return getattr(self.real, name)

    def close(self) -> None:
        self.on_close()


def test_the_private_key_is_forgotten_with_the_last_part_and_not_before() -> None:
    closed: list[int] = []
    count = iter(range(2))
    study = Study(
        (range(30), range(5, 40)), cryptography=lambda real: Watched(real, partial(closed.append, next(count)))
    )

    def watch(delivery: Delivery) -> None:
        for party in (0, 1):
            assert (party in closed) == (study.controllers[party].result is not None)

    study.play(shuffled(9), watch)
    assert sorted(closed) == [0, 1]


def test_the_private_key_is_forgotten_when_the_study_is_refused() -> None:
    closed: list[str] = []
    study = Study((range(3), range(3)), min_records=10)
    for controller in study.controllers:
        controller._cryptography = Watched(controller._cryptography, lambda: closed.append("closed"))
    study.play()
    assert closed == ["closed", "closed"]


def test_a_controller_holds_its_table_no_longer_than_its_upload_takes() -> None:
    study = _study()
    values = weakref.ref(study.tables[0].values)
    delivery = _before(study, 0, IntersectionSize)
    assert isinstance(study.controllers[0].state, AwaitingIntersectionSize)
    study.tables.clear()
    gc.collect()
    assert values() is None
    study.controllers[0].receive(THIRD, delivery.message)
    assert isinstance(study.controllers[0].state, AwaitingMaskedShare)


def test_identifiers_are_dropped_before_the_first_row_is_sent() -> None:
    study = _study()
    delivery = _before(study, 0, Columns)
    table = weakref.ref(study.tables[0])
    study.tables.clear()
    upload = iter(study.controllers[0].receive(1, delivery.message))
    assert table() is not None
    next(upload)
    assert table() is None


def _files(monkeypatch: pytest.MonkeyPatch) -> list[matching.CiphertextFile]:
    files: list[matching.CiphertextFile] = []
    real = matching.CiphertextFile.__post_init__

    def noted(self: matching.CiphertextFile) -> None:
        real(self)
        files.append(self)

    monkeypatch.setattr(matching.CiphertextFile, "__post_init__", noted)
    return files


@pytest.mark.parametrize("min_records", [0, 100], ids=["matched", "too few"])
def test_the_third_party_closes_its_files_as_soon_as_they_are_of_no_use(
    monkeypatch: pytest.MonkeyPatch, min_records: int
) -> None:
    files = _files(monkeypatch)
    study = Study((range(30), range(5, 40)), min_records=min_records)

    def watch(delivery: Delivery) -> None:
        if isinstance(study.third_party.state, AwaitingRandomShares):
            assert [file._file.closed for file in files[:2]] == [True, True]  # the uploads

    study.play(shuffled(10), watch)
    assert len(files) == (2 if min_records else 4)
    assert all(file._file.closed for file in files)


@pytest.mark.parametrize("kind", [ScrambledDataset, RandomShare])
def test_a_third_party_that_is_closed_early_keeps_nothing(monkeypatch: pytest.MonkeyPatch, kind: type) -> None:
    files = _files(monkeypatch)
    study = _study()
    delivery = _before(study, THIRD, kind, 30)
    study.third_party.close()
    assert files
    assert all(file._file.closed for file in files)
    with pytest.raises(RemoteProtocolError):
        study.third_party.receive(delivery.sender, delivery.message)


def test_a_state_does_not_print_what_it_holds() -> None:
    study = _study()
    printed = []
    study.play(before=lambda delivery: printed.extend(repr(role.state) for role in study.roles.values()))
    assert not any("array" in text or "bytes" in text or "b'" in text or "\\x" in text for text in printed)


# --- progress and parts -----------------------------------------------------


def test_progress_of_each_step_rises_to_its_total() -> None:
    reports: dict[tuple[int, str], list[tuple[int, int]]] = {}
    study = Study(
        (range(30), range(5, 40)),
        progress=lambda party, step, done, total: reports.setdefault((party, step), []).append((done, total)),
    )
    study.play(shuffled(11))
    assert set(reports) == {
        (0, psi.STEP_ENCRYPT),
        (1, psi.STEP_ENCRYPT),
        (0, psi.STEP_EXCHANGE),
        (1, psi.STEP_EXCHANGE),
        (THIRD, psi.STEP_RECEIVE),
        (THIRD, psi.STEP_MASK),
    }
    for steps in reports.values():
        done = [done for done, _ in steps]
        assert done == sorted(done)
        assert steps[-1][0] == steps[-1][1] > 0


@pytest.mark.parametrize("total", [0, 1, 19, 20, 21, 39, 40, 100, 5000, 1_000_000])
@pytest.mark.parametrize("count", [1, 7])
def test_parts_cover_all_rows_in_at_least_twenty_parts_near_the_size(total: int, count: int) -> None:
    parts = psi._parts(total, (count, 768), 32)
    assert [row for part in parts for row in part] == list(range(total))
    assert len(parts) >= min(total, psi.LEAST_PARTS)
    assert max(map(len, parts)) * (count * 768 + 32) <= PART_BYTES <= MAX_MESSAGE_BYTES


def test_the_third_party_needs_no_key_of_its_own() -> None:
    study = _study()
    assert isinstance(study.third_party, ThirdParty)
    assert study.third_party._addition.modulus == b""
