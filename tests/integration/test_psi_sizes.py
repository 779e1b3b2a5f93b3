"""The join at a size a study may have, with worker processes."""

from __future__ import annotations

from fakes import THIRD, Study, shuffled

from pipeline.compute import Workers
from pipeline.messages import MaskedShare
from pipeline.paillier import KeyPair
from pipeline.psi import PaillierWorkers

BITS = 2048


def test_a_join_with_keys_of_2048_bits_and_processes_adds_up() -> None:
    keys = KeyPair.generate(BITS), KeyPair.generate(BITS)
    pools = {key.modulus: Workers.spawn(1, key) for key in keys}
    study = Study(
        (range(60), range(20, 90)),
        widths=(16, 18),  # one ciphertext a row, and one column more than that
        min_records=40,
        keypairs=keys,
        bits=BITS,
        cryptography=lambda real: PaillierWorkers(pools[real.modulus], real.session, real.modulus),
    )
    try:
        network = study.play(shuffled(1))
    finally:
        for pool in pools.values():
            pool.close()
    assert sorted(study.joined_rows()) == study.matched_rows()
    shapes = {
        d.receiver: d.message.ciphertexts.shape[1:] for d in network.delivered if isinstance(d.message, MaskedShare)
    }
    assert shapes == {0: (1, 512), 1: (2, 512)}
    assert study.third_party.result is not None
    assert study.setting.third_party == THIRD
