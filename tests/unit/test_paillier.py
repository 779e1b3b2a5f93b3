"""Paillier: the vectors, agreement with phe, and attacks that must fail.

Each attack is first shown to work on the broken variant it was made for.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import phe
import pytest
from attacks import VECTORS, array, in_group, is_residue, numbers, rows_by_coset, rows_by_residue, shared_divisor_key
from gmpy2 import mpz
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import LocalProtocolError, RemoteProtocolError
from pipeline.messages import Bytes
from pipeline.packing import draw_masks
from pipeline.paillier import (
    BASE_LABEL,
    COMB_ENTRIES,
    Comb,
    CombShape,
    Decryptor,
    DistinctResidues,
    Encryptor,
    KeyPair,
    Modulo,
    ModuloSquare,
    OwnEncryptor,
    PeerEncryptor,
    base,
    check_ciphertexts,
    check_modulus,
    draw_exponents,
    encrypt_with,
    exponent_bytes,
    multiply,
    require_distinct,
    residues,
)

VECTOR = json.loads((VECTORS / "paillier.json").read_text())
BAD_MODULI = json.loads((VECTORS / "modulus_bad.json").read_text())
BITS = 512
SESSION = bytes.fromhex(VECTOR["session"])
PAIR = shared_divisor_key()
N = PAIR.n
H = base(SESSION, N)
KEY = PAIR.encryption_key(SESSION)
PRIVATE = phe.PaillierPrivateKey(phe.PaillierPublicKey(N), PAIR.p, PAIR.q)


def _own(rng: Callable[[int], bytes] = os.urandom) -> OwnEncryptor:
    return OwnEncryptor(PAIR, SESSION, rng)


def _peer(rng: Callable[[int], bytes] = os.urandom) -> PeerEncryptor:
    return PeerEncryptor(KEY, rng)


def _same_each_run(count: int) -> bytes:
    """Of random exponents, one in a million leaves an obfuscator in a coset it should not be in; none of these does."""
    return np.random.default_rng(1).bytes(count)


ENCRYPTORS = [pytest.param(_own, id="own"), pytest.param(_peer, id="peer")]


def _plaintexts(rows: int, parts: int = 1) -> Bytes:
    return draw_masks(rows, 4 * parts, BITS, os.urandom)


def _integers(plaintexts: Bytes) -> list[int]:
    return [int.from_bytes(row.tobytes(), "little") for row in plaintexts.reshape(-1, BITS // 8)]


# --- vectors ----------------------------------------------------------------


def test_the_base_is_that_of_the_vectors() -> None:
    assert BASE_LABEL.decode() == VECTOR["label"]
    assert H == int(VECTOR["base"], 16)


@pytest.mark.parametrize("make", ENCRYPTORS)
@pytest.mark.parametrize("case", VECTOR["cases"])
def test_ciphertexts_are_those_of_the_vectors(make: Any, case: dict[str, str]) -> None:
    encryptor = make(lambda count: bytes.fromhex(case["exponent"])[:count])
    plaintext = np.frombuffer(bytes.fromhex(case["plaintext"]), np.uint8).reshape(1, 1, -1)
    ciphertext = encryptor.encrypt(plaintext)
    assert ciphertext.tobytes().hex() == case["ciphertext"]
    assert Decryptor(PAIR).decrypt(ciphertext).tobytes().hex() == case["plaintext"]


def test_the_base_depends_on_session_and_modulus_and_is_an_nth_residue() -> None:
    other = KeyPair.generate(BITS).n
    assert len({H, base(b"\x01" * 32, N), base(SESSION, other)}) == 3
    assert is_residue(H, PAIR)
    with pytest.raises(LocalProtocolError, match="32 bytes"):
        base(SESSION[1:], N)


# --- phe understands us and we understand phe -------------------------------


def test_keys_are_those_of_phe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phe, "generate_paillier_keypair", lambda n_length: (PRIVATE.public_key, PRIVATE))
    assert KeyPair.generate(BITS) == PAIR


def test_a_new_key_has_the_exact_length_and_passes_the_checks_of_a_receiver() -> None:
    pair = KeyPair.generate(BITS)
    assert check_modulus(pair.modulus, BITS, own=N) == pair.n
    assert pair.n.bit_length() == BITS


def test_a_key_pair_does_not_print_its_primes() -> None:
    assert str(PAIR.p) not in f"{PAIR!r} {PAIR}"
    assert str(PAIR.q) not in f"{PAIR!r} {PAIR}"


@pytest.mark.parametrize("make", ENCRYPTORS)
def test_phe_decrypts_our_ciphertexts(make: Any) -> None:
    plaintexts = _plaintexts(5, parts=2)
    ciphertexts = make().encrypt(plaintexts)
    assert ciphertexts.shape == (5, 2, 128)
    assert [PRIVATE.raw_decrypt(c) for c in numbers(ciphertexts)] == _integers(plaintexts)


def test_we_decrypt_ciphertexts_of_phe_up_to_the_modulus() -> None:
    plaintexts = [0, 1, N // 3, N // 2, N - 1]
    ciphertexts = array([PRIVATE.public_key.raw_encrypt(m) for m in plaintexts], N)
    assert _integers(Decryptor(PAIR).decrypt(ciphertexts)) == plaintexts


def test_decryption_does_not_depend_on_which_prime_is_larger() -> None:
    plaintexts = _plaintexts(3)
    swapped = KeyPair(PAIR.q, PAIR.p)
    ciphertexts = OwnEncryptor(swapped, SESSION, os.urandom).encrypt(plaintexts)
    assert np.array_equal(Decryptor(PAIR).decrypt(ciphertexts), plaintexts)
    assert np.array_equal(Decryptor(swapped).decrypt(ciphertexts), plaintexts)


def test_multiplying_ciphertexts_adds_plaintexts() -> None:
    left, right = _plaintexts(4, parts=2), _plaintexts(4, parts=2)
    product = multiply(_own().encrypt(left), _peer().encrypt(right), N)
    sums = [a + b for a, b in zip(_integers(left), _integers(right), strict=True)]
    assert _integers(Decryptor(PAIR).decrypt(product)) == [total % N for total in sums]
    with pytest.raises(LocalProtocolError, match="shapes"):
        multiply(product, product[:3], N)


@pytest.fixture
def no_phe_numbers(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("phe's encoded numbers carry an exponent in the clear")

    for kind in (phe.EncryptedNumber, phe.EncodedNumber):
        monkeypatch.setattr(kind, "__init__", refuse)
    yield


@pytest.mark.usefixtures("no_phe_numbers")
def test_no_number_of_phe_with_an_exponent_is_ever_made() -> None:
    pair = KeyPair.generate(BITS)
    plaintexts = _plaintexts(2)
    ciphertexts = multiply(
        OwnEncryptor(pair, SESSION, os.urandom).encrypt(plaintexts),
        PeerEncryptor(pair.encryption_key(SESSION), os.urandom).encrypt(plaintexts),
        pair.n,
    )
    Decryptor(pair).decrypt(ciphertexts)


def test_the_exponent_phe_would_need_is_0() -> None:
    plaintext = np.zeros((1, 1, BITS // 8), np.uint8)
    plaintext[0, 0, 0] = 7
    (ciphertext,) = numbers(_own().encrypt(plaintext))
    assert PRIVATE.decrypt(phe.EncryptedNumber(PRIVATE.public_key, ciphertext, exponent=0)) == 7


# --- obfuscators ------------------------------------------------------------


@pytest.mark.parametrize("powers", [1, 30, 1000, 100_000])
@pytest.mark.parametrize("length", [1, 3, 32])
def test_a_comb_of_any_shape_gives_powers(length: int, powers: int) -> None:
    comb = Comb(mpz(7), Modulo(mpz(1_000_003)), length, powers)
    for exponent in (0, 1, 2, 255, 256, 65_536, 0x123456, (1 << 8 * length) - 1):
        exponent %= 1 << 8 * length
        assert comb.power(exponent.to_bytes(length, "little")) == pow(7, exponent, 1_000_003)


@pytest.mark.parametrize("powers", [1, 30, 1000])
def test_a_comb_gives_powers_modulo_a_square(powers: int) -> None:
    n = 1_000_003 * 999_983
    ring = ModuloSquare(mpz(n))
    comb = Comb(ring.pair(mpz(n * n - 5)), ring, 16, powers)
    for exponent in (0, 1, 2, 3, n, n * n, (1 << 128) - 1):
        assert ring.number(comb.power(exponent.to_bytes(16, "little"))) == pow(n * n - 5, exponent, n * n)


@given(st.integers(0, N * N - 1), st.integers(0, N * N - 1))
def test_pairs_are_multiplied_as_numbers_modulo_the_square_are(x: int, y: int) -> None:
    ring = ModuloSquare(mpz(N))
    assert ring.number(ring.product(ring.pair(mpz(x)), ring.pair(mpz(y)))) == x * y % N**2
    assert ring.square(ring.pair(mpz(x))) == ring.pair(mpz(x * x % N**2))


def test_a_comb_for_more_powers_has_larger_tables_and_needs_fewer_products() -> None:
    shapes = [CombShape.best(2128, powers) for powers in (1, 100, 1000, 10_000, 10**6)]
    assert all(shape.teeth * shape.blocks * shape.columns >= 2128 for shape in shapes)
    assert [shape.entries for shape in shapes] == sorted(shape.entries for shape in shapes)
    assert [shape.products for shape in shapes] == sorted((shape.products for shape in shapes), reverse=True)
    assert shapes[-1].entries <= COMB_ENTRIES < shapes[-1].entries * 2


def test_a_comb_refuses_an_exponent_of_another_length() -> None:
    with pytest.raises(LocalProtocolError, match="another length"):
        Comb(mpz(7), Modulo(mpz(1_000_003)), 3).power(b"\x01\x02")


@pytest.mark.parametrize("make", ENCRYPTORS)
def test_an_obfuscator_is_the_base_to_an_exponent_80_bits_longer_than_the_modulus(make: Any) -> None:
    drawn: list[bytes] = []

    def rng(count: int) -> bytes:
        drawn.append(os.urandom(count))
        return drawn[-1]

    obfuscators = numbers(make(rng).obfuscators(3))
    content = b"".join(drawn)
    length = (BITS + 80) // 8
    exponents = [int.from_bytes(content[i : i + length], "little") for i in range(0, len(content), length)]
    assert obfuscators == [pow(H, e, N * N) for e in exponents]


def test_exponents_use_every_bit() -> None:
    bits = np.unpackbits(draw_exponents(200, exponent_bytes(BITS), os.urandom), axis=1)
    assert bits.shape == (200, BITS + 80)
    assert bits.any(axis=0).all()
    assert not bits.all(axis=0).any()


@pytest.mark.parametrize("make", ENCRYPTORS)
def test_encryption_is_the_plaintext_with_the_next_obfuscator(make: Any) -> None:
    stream = os.urandom(4 * exponent_bytes(BITS))
    plaintexts = _plaintexts(2, parts=2)
    obfuscators = make(lambda count: stream[:count]).obfuscators(4)
    assert np.array_equal(
        make(lambda count: stream[:count]).encrypt(plaintexts), encrypt_with(plaintexts, obfuscators, N)
    )


@pytest.mark.parametrize("make", ENCRYPTORS)
def test_no_obfuscator_is_used_twice(make: Any) -> None:
    encryptor = make()
    same = np.repeat(_plaintexts(1), 100, axis=0)
    require_distinct(np.concatenate([encryptor.encrypt(same), encryptor.encrypt(same)]), N)


def test_too_long_a_plaintext_or_too_few_obfuscators_are_refused() -> None:
    obfuscators = _peer().obfuscators(2)
    plaintexts = _plaintexts(2)
    with pytest.raises(LocalProtocolError, match="fit"):
        encrypt_with(plaintexts, obfuscators[:1], N)
    with pytest.raises(LocalProtocolError, match="fit"):
        encrypt_with(plaintexts[:, :, :-1], obfuscators, N)
    plaintexts[1, 0, -1] = 0x40
    with pytest.raises(LocalProtocolError, match="longer"):
        encrypt_with(plaintexts, obfuscators, N)


# --- attacks: the owner of the key looks for its rows -----------------------


class TwoExponents(Encryptor):
    """Broken: independent exponents modulo p - 1 and q - 1."""

    def power(self, exponent: bytes) -> int:
        a, b = exponent[: len(exponent) // 2], exponent[len(exponent) // 2 :]
        p, q = PAIR.p**2, PAIR.q**2
        x, y = pow(H, int.from_bytes(a, "little"), p), pow(H, int.from_bytes(b, "little"), q)
        return y + q * ((x - y) * pow(q, -1, p) % p)


class Uniform(Encryptor):
    """Broken beside masks from <h>: phe's own obfuscators r^n."""

    def power(self, exponent: bytes) -> int:
        return pow(int.from_bytes(exponent, "little"), N, N * N)


def _rows_and_masked(own: Encryptor, row: int) -> tuple[list[int], int]:
    rows = own.encrypt(_plaintexts(20))
    masked = multiply(rows[row : row + 1], _peer().encrypt(_plaintexts(1)), N)
    return numbers(rows), numbers(masked)[0]


@pytest.mark.parametrize("make", ENCRYPTORS)
def test_obfuscators_lie_in_the_group_of_the_base(make: Any) -> None:
    obfuscators = numbers(make().obfuscators(20))
    assert all(is_residue(o, PAIR) and in_group(o % N, H % N, PAIR) for o in obfuscators)


@pytest.mark.parametrize("make", ENCRYPTORS)
def test_obfuscators_lie_in_the_group_of_the_base_for_any_key(make: Any) -> None:
    pair = KeyPair.generate(BITS)
    kinds = (OwnEncryptor(pair, SESSION, os.urandom), PeerEncryptor(pair.encryption_key(SESSION), os.urandom))
    h = base(SESSION, pair.n)
    for encryptor in kinds:
        obfuscators = numbers(encryptor.obfuscators(10))
        assert all(is_residue(o, pair) and in_group(o % pair.n, h % pair.n, pair) for o in obfuscators)


def test_two_independent_exponents_leave_the_group_of_the_base() -> None:
    obfuscators = numbers(TwoExponents(KEY, _same_each_run).obfuscators(20))
    assert all(is_residue(o, PAIR) for o in obfuscators)
    assert not any(in_group(o % N, H % N, PAIR) for o in obfuscators)


@pytest.mark.parametrize("broken", [Uniform, TwoExponents])
def test_rows_from_outside_the_group_are_recognised_by_their_coset(broken: type[Encryptor]) -> None:
    rows, masked = _rows_and_masked(broken(KEY, _same_each_run), 13)
    assert rows_by_coset(masked, rows, H % N, PAIR) == [13]


def test_every_one_of_our_rows_stays_a_candidate_by_coset() -> None:
    rows, masked = _rows_and_masked(_own(), 13)
    assert rows_by_coset(masked, rows, H % N, PAIR) == list(range(20))


def test_a_mask_added_in_plaintext_leaves_the_row_to_be_recognised() -> None:
    rows = numbers(_own().encrypt(_plaintexts(20)))
    (mask,) = _integers(_plaintexts(1))
    masked = rows[13] * (1 + mask * N) % (N * N)
    assert rows_by_residue(masked, rows, N) == [13]


def test_an_encrypted_mask_leaves_no_row_to_be_recognised() -> None:
    rows, masked = _rows_and_masked(_own(), 13)
    assert rows_by_residue(masked, rows, N) == []


# --- what is received -------------------------------------------------------


@pytest.mark.parametrize("case", [pytest.param(c, id=c["fault"]) for c in BAD_MODULI["cases"]])
def test_a_bad_modulus_is_refused_without_being_quoted(case: dict[str, str]) -> None:
    modulus = bytes.fromhex(case["modulus"])
    with pytest.raises(RemoteProtocolError) as caught:
        check_modulus(modulus, BAD_MODULI["bits"], own=int(BAD_MODULI["own"], 16))
    assert case["modulus"][:20] not in str(caught.value) or not modulus
    assert str(int.from_bytes(modulus, "big"))[:20] not in str(caught.value) or not any(modulus)


def test_the_faults_of_a_modulus_are_told_apart() -> None:
    own = int(BAD_MODULI["own"], 16)
    reasons = []
    for case in BAD_MODULI["cases"]:
        with pytest.raises(RemoteProtocolError) as caught:
            check_modulus(bytes.fromhex(case["modulus"]), BAD_MODULI["bits"], own)
        reasons.append(str(caught.value).split()[-1])
    assert reasons == ["bits"] * 6 + ["factor"] * 2 + ["prime"] + ["power"] * 2 + ["factor"] * 2


def test_the_third_party_checks_a_modulus_without_having_one() -> None:
    assert check_modulus(PAIR.modulus, BITS, own=None) == N


BAD_CIPHERTEXTS = {
    "zero": 0,
    "the square of the modulus": N * N,
    "all ones": (1 << 1024) - 1,
    "a multiple of the modulus": 5 * N,
    "a multiple of one prime": 5 * PAIR.p,
    "one": 1,
    "a plaintext without obfuscator": 1 + 12345 * N,
}


@pytest.mark.parametrize("fault", BAD_CIPHERTEXTS)
@pytest.mark.parametrize("place", [0, 2])
def test_a_bad_ciphertext_is_refused_wherever_it_stands(fault: str, place: int) -> None:
    good = numbers(_peer().encrypt(_plaintexts(2)))
    good.insert(place, BAD_CIPHERTEXTS[fault])
    ciphertexts = array(good, N)
    for check in (lambda c: check_ciphertexts(c, N), Decryptor(PAIR).decrypt):
        with pytest.raises(RemoteProtocolError) as caught:
            check(ciphertexts)
        assert not any(character.isdigit() for character in str(caught.value))


def test_ciphertexts_of_wrong_length_are_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="length"):
        check_ciphertexts(np.ones((1, 1, 127), np.uint8), N)


def test_good_ciphertexts_are_accepted() -> None:
    check_ciphertexts(_own().encrypt(_plaintexts(3, parts=2)), N)
    check_ciphertexts(np.zeros((0, 1, 128), np.uint8), N)


# --- obfuscators that occur twice -------------------------------------------


def test_one_obfuscator_for_two_plaintexts_is_found() -> None:
    obfuscators = _peer().obfuscators(4)
    obfuscators = np.concatenate([obfuscators, obfuscators[1:2]])
    with pytest.raises(RemoteProtocolError, match="share"):
        require_distinct(encrypt_with(_plaintexts(5), obfuscators, N), N)


def test_one_obfuscator_in_two_parts_of_an_upload_is_found() -> None:
    ciphertexts = _own().encrypt(_plaintexts(6))
    distinct = DistinctResidues(LocalProtocolError)
    for row in ciphertexts:
        distinct.add(residues(row[None], N))
    with pytest.raises(LocalProtocolError, match="share"):
        distinct.add(residues(ciphertexts[2:3], N))


def test_residues_that_agree_in_half_their_bytes_are_not_taken_for_equal() -> None:
    first = np.zeros((2, 16), np.uint8)
    first[1, 15] = 1
    second = first.copy()
    second[:, 14] = 1
    distinct = DistinctResidues()
    distinct.add(first)
    distinct.add(second)
    with pytest.raises(RemoteProtocolError):
        distinct.add(first[1:])
