"""What a controller would do to learn which of its rows matched.

It made the ciphertexts of its rows, knows its primes and the key of the hashes,
and keeps all it receives. Each attack runs against the role as it is, where it
must learn nothing, and against a variant broken at one of the seven conditions
of `pipeline/psi.py`, where it must succeed: otherwise it would prove nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from random import Random
from secrets import randbelow

import numpy as np
import pytest
from attacks import array, numbers, rows_by_coset, rows_by_residue, shared_divisor_key
from fakes import BITS, SESSION, THIRD, Network, Study, keypair, shuffled, subgroup_keypair

from pipeline import psi, wire
from pipeline.errors import RemoteProtocolError
from pipeline.keyed_hash import hash_key, keyed_hashes
from pipeline.messages import Bytes, KeyContribution, MaskedShare, RandomShare, ScrambledDataset
from pipeline.packing import SLOT_BYTES, draw_masks, slots
from pipeline.paillier import Decryptor, EncryptionKey, KeyPair, encrypt_with, multiply
from pipeline.psi import PaillierWorkers
from pipeline.psi_states import Table

OWNER = 0  # attacks; its rows take one ciphertext each
ROWS = 40
Broken = Callable[[pytest.MonkeyPatch], Study]
KEYS: list[KeyPair] = []  # of the owner and of the other controller, of the kind under attack


@pytest.fixture(autouse=True, params=["standard", "subgroup"])
def kind(request: pytest.FixtureRequest) -> None:
    """Every attack is tried on both kinds of keys."""
    subgroup = request.param == "subgroup"
    KEYS[:] = [subgroup_keypair(0), subgroup_keypair(1)] if subgroup else [shared_divisor_key(), keypair(1)]


def _study(persons: Iterable[int] = range(6, 60), **variant: object) -> Study:
    return Study((range(ROWS), persons), widths=(2, 1), keypairs=tuple(KEYS), **variant)


def _ours(monkeypatch: pytest.MonkeyPatch) -> Study:
    return _study()


@dataclass
class View:
    """What the owner sees, and, for the verdict only, which of its rows each masked row was."""

    rows: list[int]  # ciphertexts it uploaded
    masked: list[int]  # ciphertexts it received
    truth: list[int]


def _play(study: Study, seed: int = 1) -> tuple[View, Network]:
    network = study.play(shuffled(seed))
    return _view(study, network), network


def _view(study: Study, network: Network) -> View:
    rows = [d.message.ciphertexts for d in network.delivered if _is(d, ScrambledDataset, OWNER)]
    masked = [d.message.ciphertexts for d in network.received_by(OWNER) if isinstance(d.message, MaskedShare)]
    truth = [row[0] for row in study.joined_rows()]  # a person's number is the place in the table
    return View(numbers(np.concatenate(rows)), numbers(np.concatenate(masked)), truth)


def _is(delivery: object, kind: type, sender: int) -> bool:
    return isinstance(delivery.message, kind) and delivery.sender == sender


@dataclass
class Variant:
    """Cryptography with some of its methods replaced."""

    real: PaillierWorkers
    replaced: dict[str, Callable[..., object]]

    def __getattr__(self, name: str) -> object:
        return self.replaced.get(name) or getattr(self.real, name)


def _of_owner(**replaced: Callable[..., object]) -> Callable[[PaillierWorkers], object]:
    key = KEYS[0].modulus
    return lambda real: Variant(real, replaced) if real.modulus == key else real


def _of_peer(**replaced: Callable[..., object]) -> Callable[[PaillierWorkers], object]:
    key = KEYS[1].modulus
    return lambda real: Variant(real, replaced) if real.modulus == key else real


# --- conditions 1 to 3: a fresh mask from the same group, with a long exponent ---


def recognised_by_residue(view: View, pair: KeyPair) -> int:
    """Compare each masked row with the own rows modulo n; count those recognised."""
    found = [rows_by_residue(masked, view.rows, pair.n) for masked in view.masked]
    return sum(rows == [true] for rows, true in zip(found, view.truth, strict=True))


def _mask_added_in_plaintext(monkeypatch: pytest.MonkeyPatch) -> Study:
    keys = {pair.n: pair for pair in (KEYS[0], KEYS[1])}

    def add(left: Bytes, right: Bytes, n: int) -> Bytes:
        masks = Decryptor(keys[n]).decrypt(right)  # stands for a third party that is told the mask
        ones = array([1] * (left.shape[0] * left.shape[1]), n)
        return multiply(left, encrypt_with(masks, ones, n).reshape(left.shape), n)

    return _study(addition=lambda real: Variant(real, {"add": add}))


@pytest.mark.parametrize(("make", "share"), [(_mask_added_in_plaintext, 1.0), (_ours, 0.0)])
def test_rows_are_recognised_by_residue_only_if_masks_are_added_in_plaintext(
    monkeypatch: pytest.MonkeyPatch, make: Broken, share: float
) -> None:
    view, _ = _play(make(monkeypatch))
    assert recognised_by_residue(view, KEYS[0]) == share * len(view.masked)


def candidates_by_coset(view: View, pair: KeyPair) -> list[list[int]]:
    """For each of a few masked rows, the own rows that differ from it by an element of <h> modulo n."""
    h = pair.encryption_key(SESSION).base
    return [rows_by_coset(masked, view.rows, h, pair) for masked in view.masked[:5]]


def _uniform_owner_randomness(monkeypatch: pytest.MonkeyPatch) -> Study:
    n = KEYS[0].n
    # Two rows are in one coset once in a million times; of those that this seed makes, no two are.
    randrange = Random(1).randrange

    def encrypt_own(plaintexts: Iterable[Bytes]) -> Iterator[Bytes]:
        for part in plaintexts:
            obfuscators = array([pow(randrange(1, n), n, n * n) for _ in range(part.shape[0] * part.shape[1])], n)
            yield encrypt_with(part, obfuscators, n)

    # A subgroup key does not decrypt what is outside the group; without its subgroup it does.
    decrypt = Decryptor(KeyPair(KEYS[0].p, KEYS[0].q)).decrypt
    return _study(cryptography=_of_owner(encrypt_own=encrypt_own, decrypt=decrypt))


@pytest.mark.parametrize(("make", "recognised"), [(_uniform_owner_randomness, True), (_ours, False)])
def test_rows_are_recognised_by_coset_only_if_the_owner_draws_from_all_residues(
    monkeypatch: pytest.MonkeyPatch, make: Broken, recognised: bool
) -> None:
    view, _ = _play(make(monkeypatch))
    candidates = candidates_by_coset(view, KEYS[0])
    if recognised:
        assert candidates == [[true] for true in view.truth[: len(candidates)]]
    else:
        assert candidates == [list(range(ROWS))] * len(candidates)


EXPONENTS = 1 << 8


def recognised_by_trying_exponents(view: View, pair: KeyPair) -> int:
    """Divide each masked row by each own row; count rows for which just one quotient is a small power of h."""
    n, h = pair.n, pair.encryption_key(SESSION).base % pair.n
    powers = {pow(h, e, n) for e in range(EXPONENTS)}
    inverses = [pow(row, -1, n) for row in view.rows]
    found = [[i for i, inverse in enumerate(inverses) if masked * inverse % n in powers] for masked in view.masked]
    return sum(rows == [true] for rows, true in zip(found, view.truth, strict=True))


def _short_mask_exponents(monkeypatch: pytest.MonkeyPatch) -> Study:
    def encrypt_peer(plaintexts: Iterable[Bytes], key: EncryptionKey) -> Iterator[Bytes]:
        n, h, exponents = key.n, key.base, iter(np.random.default_rng().permutation(EXPONENTS - 1).tolist())
        for part in plaintexts:
            obfuscators = [pow(h, 1 + next(exponents), n * n) for _ in range(part.shape[0] * part.shape[1])]
            yield encrypt_with(part, array(obfuscators, n), n)

    return _study(cryptography=_of_peer(encrypt_peer=encrypt_peer))


@pytest.mark.parametrize(("make", "share"), [(_short_mask_exponents, 1.0), (_ours, 0.0)])
def test_rows_are_recognised_by_trying_exponents_only_if_these_are_short(
    monkeypatch: pytest.MonkeyPatch, make: Broken, share: float
) -> None:
    view, _ = _play(make(monkeypatch))
    assert recognised_by_trying_exponents(view, KEYS[0]) == share * len(view.masked)


# --- condition 4: the third party's own order -------------------------------


def candidates_by_rank(view: View) -> list[range]:
    """The own rows that may be behind each masked row, by the rank of their hashes.

    With k of n matched, the j-th in the order of the hashes has one of the ranks j to j + n - k.
    """
    return [range(j, j + len(view.rows) - len(view.masked) + 1) for j in range(len(view.masked))]


def ranks(table: Table, network: Network) -> list[int]:
    """The rank of each own row in the order in which the third party matches, which has no secret."""
    contributions = [d.message.contribution for d in network.delivered if isinstance(d.message, KeyContribution)]
    hashes = keyed_hashes(hash_key(*contributions, SESSION), table.identifiers)
    return np.argsort(np.lexsort(hashes.view(np.uint64).T)).tolist()


def _hash_order(monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.setattr(psi, "permutation", lambda count, rng: np.arange(count))
    return _study()


@pytest.mark.parametrize(("make", "narrowed"), [(_hash_order, True), (_ours, False)])
def test_rows_are_narrowed_down_by_rank_only_if_the_order_is_that_of_the_hashes(
    monkeypatch: pytest.MonkeyPatch, make: Broken, narrowed: bool
) -> None:
    study = make(monkeypatch)
    view, network = _play(study)
    rank = ranks(study.tables[OWNER], network)
    right = [rank[true] in window for true, window in zip(view.truth, candidates_by_rank(view), strict=True)]
    if narrowed:
        assert all(right)
    else:
        # A window of 7 of 40 rows is right by chance; 25 of 34 times less than once in 10^11 runs.
        assert sum(right) < 25


def test_two_runs_over_the_same_tables_come_in_different_orders() -> None:
    first, second = (_play(_study())[0].truth for _ in range(2))
    assert sorted(first) == sorted(second)
    assert first != second


# --- conditions 5 and 7: a mask set serves once, in one session -------------


def recognised_by_quotients(view: View, again: list[int], n: int) -> int:
    """With the same masks under two permutations, quotients of outputs are quotients of own rows; count those found.

    The j-th masked rows of both outputs hold the same mask, so it cancels.
    """
    square = n * n
    inverses = [pow(row, -1, square) for row in view.rows]
    pairs = {a * inverse % square: i for i, a in enumerate(view.rows) for inverse in inverses}
    quotients = [masked * pow(other, -1, square) % square for masked, other in zip(view.masked, again, strict=True)]
    found = [pairs.get(quotient) for quotient in quotients]
    # A row that comes at the same place twice gives the quotient 1 and is not told.
    return sum(row == true for row, true, q in zip(found, view.truth, quotients, strict=True) if q != 1)


def _second_output(messages: list[tuple[int, object]], restarted: Study) -> list[int]:
    """Give stored messages to another third party; return the owner's output."""
    masked = []
    for sender, message in messages:
        for outgoing in restarted.third_party.receive(sender, message):
            if isinstance(outgoing.message, MaskedShare) and outgoing.receiver == OWNER:
                masked.append(outgoing.message.ciphertexts)
    return numbers(np.concatenate(masked))


def test_rows_are_recognised_by_quotients_if_a_third_party_restarts_within_the_session() -> None:
    """The variant that the session identifier forbids: stored uploads and mask sets are used again."""
    view, network = _play(_study())
    stored = [(d.sender, d.message) for d in network.received_by(THIRD)]
    again = _second_output(stored, _study())
    # On average one row stands at the same place twice.
    assert recognised_by_quotients(view, again, KEYS[0].n) >= len(view.masked) - 12


def test_no_row_is_recognised_by_quotients_of_two_runs() -> None:
    view, _ = _play(_study())
    again, _ = _play(_study(), 2)
    assert recognised_by_quotients(view, again.masked, KEYS[0].n) == 0


def test_what_was_stored_in_one_session_is_refused_in_the_next() -> None:
    _, network = _play(_study())
    for delivery in network.delivered:
        with pytest.raises(RemoteProtocolError, match="another session"):
            wire.decode(delivery.data, bytes(32))


# --- condition 6: masks cover every bit -------------------------------------


def rows_by_tag(decrypted: list[Bytes]) -> list[int]:
    """Read the number that the owner put where no column is: in its last slot."""
    last = slice((slots(BITS) - 1) * SLOT_BYTES, slots(BITS) * SLOT_BYTES)
    return [int.from_bytes(row[0, last].tobytes(), "little") for part in decrypted for row in part]


def _tagging(study_of: Callable[[Callable[[PaillierWorkers], object]], Study]) -> tuple[Study, list[Bytes]]:
    decrypted: list[Bytes] = []

    def tagging(real: PaillierWorkers) -> object:
        def encrypt_own(plaintexts: Iterable[Bytes]) -> Iterator[Bytes]:
            row = iter(range(ROWS))
            for part in plaintexts:
                for plaintext in part:
                    plaintext[0, (slots(BITS) - 1) * SLOT_BYTES] = next(row)
                yield from real.encrypt_own([part])

        def decrypt(ciphertexts: Bytes) -> Bytes:
            decrypted.append(real.decrypt(ciphertexts))
            return decrypted[-1]

        return Variant(real, {"encrypt_own": encrypt_own, "decrypt": decrypt})

    key = KEYS[0].modulus
    return study_of(lambda real: tagging(real) if real.modulus == key else real), decrypted


def _masks_of_columns_only(count: int, width: int, bits: int, rng: Callable[[int], bytes]) -> Bytes:
    masks = draw_masks(count, width, bits, rng)
    masks[:, :, width * SLOT_BYTES :] = 0
    return masks


@pytest.mark.parametrize("broken", [True, False])
def test_rows_are_recognised_by_a_tag_only_if_masks_leave_unused_slots_alone(
    monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    if broken:
        monkeypatch.setattr(psi, "draw_masks", _masks_of_columns_only)
    study, decrypted = _tagging(lambda cryptography: _study(cryptography=cryptography))
    view, _ = _play(study)
    tags = rows_by_tag(decrypted)
    assert (tags == view.truth) == broken
    assert broken or not any(tag in range(ROWS) for tag in tags)


# --- what is refused on the way ---------------------------------------------


def test_masks_without_obfuscators_do_not_pass_the_third_party() -> None:
    def encrypt_peer(plaintexts: Iterable[Bytes], key: EncryptionKey) -> Iterator[Bytes]:
        for part in plaintexts:
            yield encrypt_with(part, array([1] * (part.shape[0] * part.shape[1]), key.n), key.n)

    study = _study(cryptography=_of_peer(encrypt_peer=encrypt_peer))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(psi, "_distinct", lambda parts, n: parts)  # their sender would find out first
        with pytest.raises(RemoteProtocolError, match="no obfuscator"):
            study.play()


def test_an_owner_of_a_subgroup_key_notices_masks_from_outside_its_group() -> None:
    def encrypt_peer(plaintexts: Iterable[Bytes], key: EncryptionKey) -> Iterator[Bytes]:
        for part in plaintexts:
            count, n = part.shape[0] * part.shape[1], key.n
            yield encrypt_with(part, array([pow(1 + randbelow(n - 1), n, n * n) for _ in range(count)], n), n)

    study = _study(cryptography=_of_peer(encrypt_peer=encrypt_peer))
    if KEYS[0].subgroup is None:
        study.play()
    else:
        with pytest.raises(RemoteProtocolError, match="outside the group"):
            study.play()


def test_every_masked_row_is_a_row_times_exactly_one_mask_that_was_received() -> None:
    view, network = _play(_study())
    masks = [d.message.ciphertexts for d in network.delivered if _is(d, RandomShare, 1 - OWNER)]
    square = KEYS[0].n ** 2
    products = [
        view.rows[true] * mask % square for true, mask in zip(view.truth, numbers(np.concatenate(masks)), strict=True)
    ]
    assert view.masked == products
