"""Paillier work on a real cluster of two worker processes, with and without TLS."""

from __future__ import annotations

import asyncio
import logging
import pickle
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attacks import shared_divisor_key
from cryptography.exceptions import InvalidTag
from fakes import Study, keypair, shuffled
from running import run_study
from studies import make_study, write_keys

from pipeline import cluster
from pipeline.cluster import Cluster, Sealed
from pipeline.compute import Decrypt, EncryptOwn, Workers
from pipeline.compute_settings import Compute
from pipeline.errors import ConfigError, PipelineError, RemoteProtocolError
from pipeline.packing import draw_masks
from pipeline.paillier import ciphertext_bytes
from pipeline.psi import PaillierWorkers

distributed = pytest.importorskip("distributed")
dask = pytest.importorskip("dask")

IN_MEMORY = {"distributed.worker.memory.target": False, "distributed.worker.memory.spill": False}
PAIR = shared_divisor_key()
SESSION = b"\x06" * 32


@contextmanager
def started(settings: dict[str, Any] = IN_MEMORY, **options: Any) -> Iterator[Any]:
    """A scheduler and two workers in processes of their own."""
    with (
        dask.config.set(settings),
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            processes=True,
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,
            **options,
        ) as running,
    ):
        yield running


@pytest.fixture(scope="module")
def running() -> Iterator[Any]:
    with started() as local:
        yield local


@pytest.fixture
def compute(running: Any) -> Compute:
    return Compute(scheduler=running.scheduler_address)


def held(running: Any) -> list[int]:
    """How many keyrings each worker holds."""
    with distributed.Client(running, set_as_default=False) as client:
        return list(client.run(_count).values())


def _count() -> int:
    return len(cluster._held)


def _rounds(workers: Workers, rows: int = 100) -> None:
    plaintexts = draw_masks(rows, 3, 512, np.random.default_rng(2).bytes)
    encrypted = list(workers.map_parts(EncryptOwn(SESSION), [plaintexts]))
    (decrypted,) = workers.map_parts(Decrypt(), encrypted)
    assert np.array_equal(decrypted, plaintexts)


def test_a_join_on_a_cluster_is_the_join_and_leaves_no_key_behind(running: Any, compute: Compute) -> None:
    pools = {pair.modulus: Cluster.connect(compute).workers(pair) for pair in (keypair(0), keypair(1))}
    assert held(running) == [2, 2]
    study = Study(
        (range(60), range(20, 90)),
        cryptography=lambda real: PaillierWorkers(pools[real.modulus], real.session, real.modulus),
    )
    study.play(shuffled(1))  # each controller closes its workers when it is done
    assert sorted(study.joined_rows()) == study.matched_rows()
    assert held(running) == [0, 0]


def test_errors_come_back_as_errors_that_quote_nothing(compute: Compute) -> None:
    with Cluster.connect(compute).workers(PAIR) as workers:
        with pytest.raises(RemoteProtocolError, match="not coprime"):
            list(workers.map_parts(Decrypt(), [np.zeros((1, 1, ciphertext_bytes(512)), np.uint8)]))
        _rounds(workers)


def test_workers_without_their_keys_say_so_and_the_third_party_has_none(compute: Compute) -> None:
    with Cluster.connect(compute).workers(None) as workers, pytest.raises(PipelineError, match="no Paillier key pair"):
        _rounds(workers)
    with Cluster.connect(compute).workers(PAIR) as workers:
        workers._run = cluster.partial(cluster._run_held, "another token")
        with pytest.raises(PipelineError, match="no longer has the keys"):
            _rounds(workers)


def test_a_party_that_is_gone_leaves_no_key_at_the_workers(
    running: Any, compute: Compute, monkeypatch: pytest.MonkeyPatch
) -> None:
    with distributed.Client(running, set_as_default=False) as client:
        client.run(_lease, 1)
    monkeypatch.setattr(cluster, "RENEW_SECONDS", 3600)
    workers = Cluster.connect(compute).workers(PAIR)
    try:
        deadline = time.monotonic() + 30
        while held(running) != [0, 0] and time.monotonic() < deadline:
            time.sleep(0.2)
        assert held(running) == [0, 0]
    finally:
        workers.close()
        with distributed.Client(running, set_as_default=False) as client:
            client.run(_lease, cluster.LEASE_SECONDS)


def _lease(seconds: int) -> None:
    cluster.LEASE_SECONDS = seconds


def test_the_scheduler_passes_the_private_key_on_without_seeing_it(
    running: Any, compute: Compute, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed_on: list[bytes] = []
    run = distributed.Client.run

    def listening(self: Any, function: Any, *arguments: Any, **options: Any) -> Any:
        passed_on.append(pickle.dumps(arguments))  # as `run` sends them
        return run(self, function, *arguments, **options)

    monkeypatch.setattr(distributed.Client, "run", listening)
    with Cluster.connect(compute).workers(PAIR) as workers:
        _rounds(workers)
    secrets = [prime.to_bytes(prime.bit_length() // 8 + 1, "little")[:-1] for prime in (PAIR.p, PAIR.q)]
    assert pickle.dumps(PAIR).count(secrets[0]) == 1
    assert len(passed_on) > 2
    assert not any(secret in content for secret in secrets for content in passed_on)


def test_a_key_for_one_worker_is_for_no_other() -> None:
    publics = [cluster._offer("here"), cluster._offer("there")]
    first, second = cluster._encrypted(PAIR, publics).values()
    assert first != second
    with pytest.raises(InvalidTag):
        cluster._hold("here", {publics[0]: second})
    for _ in range(2):  # as by two workers in one process
        cluster._hold("there", {publics[1]: second})
    try:
        assert cluster._held["there"].keyring._own() == PAIR
        assert not cluster._offered
    finally:
        cluster._drop("there")


def test_what_crosses_the_cluster_shows_nothing_of_itself() -> None:
    assert str(PAIR.p) not in repr(Sealed(PAIR))
    assert "content" not in repr(Sealed(np.arange(3)))


def test_workers_that_may_write_to_a_disk_are_refused() -> None:
    settings = {"distributed.worker.memory.target": 0.6, "distributed.worker.memory.spill": 0.7}
    with started(settings) as spilling, pytest.raises(ConfigError, match="write results to a disk"):
        Cluster.connect(Compute(scheduler=spilling.scheduler_address))


def test_workers_that_come_to_a_tls_scheduler_by_another_way_are_refused(tmp_path: Path) -> None:
    write_keys(tmp_path, "cluster")
    own = _files(tmp_path, "cluster", "cluster")
    security = distributed.Security(
        tls_ca_file=str(own["ca"]),
        **{f"tls_{role}_cert": str(own["certificate"]) for role in ("client", "scheduler", "worker")},
        **{f"tls_{role}_key": str(own["key"]) for role in ("client", "scheduler", "worker")},
        require_encryption=False,
    )
    up, over = threading.Event(), threading.Event()
    address: list[str] = []

    async def two_ways() -> None:
        options = {"host": "127.0.0.1", "dashboard": False, "security": security}
        async with distributed.Scheduler(protocol=["tls", "tcp"], port=[0, 0], **options) as scheduler:
            address[:] = [listener.contact_address for listener in scheduler.listeners]
            async with distributed.Worker(address[1], nthreads=1, security=security):
                up.set()
                await asyncio.to_thread(over.wait, 60)

    with dask.config.set(IN_MEMORY):
        thread = threading.Thread(target=asyncio.run, args=(two_ways(),))
        thread.start()
        try:
            assert up.wait(30)
            assert [place.partition(":")[0] for place in address] == ["tls", "tcp"]
            with pytest.raises(ConfigError, match="do not all encrypt"):
                Cluster.connect(Compute(scheduler=address[0], **own))
        finally:
            over.set()
            thread.join()


def test_a_cluster_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 1)
    with pytest.raises(ConfigError, match="no connection to tcp://"):
        Cluster.connect(Compute(scheduler="tcp://127.0.0.1:9"))


def test_over_tls_only_who_holds_a_certificate_of_the_cluster_gets_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("cluster", "stranger"):
        write_keys(tmp_path, name)
    own = _files(tmp_path, "cluster", "cluster")
    security = distributed.Security(
        tls_ca_file=str(own["ca"]),
        **{f"tls_{role}_cert": str(own["certificate"]) for role in ("client", "scheduler", "worker")},
        **{f"tls_{role}_key": str(own["key"]) for role in ("client", "scheduler", "worker")},
        require_encryption=True,
    )
    with started(security=security, protocol="tls") as local:
        assert local.scheduler_address.startswith("tls://")
        with Cluster.connect(Compute(scheduler=local.scheduler_address, **own)).workers(PAIR) as workers:
            _rounds(workers)
        monkeypatch.setattr(cluster, "CONNECT_SECONDS", 2)
        for files in (_files(tmp_path, "stranger", "cluster"), _files(tmp_path, "cluster", "stranger")):
            with pytest.raises(ConfigError, match="no connection"):
                Cluster.connect(Compute(scheduler=local.scheduler_address, **files))


def _files(folder: Path, name: str, ca: str) -> dict[str, Path]:
    return {
        "certificate": folder / f"certificates/{name}.pem",
        "key": folder / f"keys/{name}.key",
        "ca": folder / f"certificates/{ca}.pem",
    }


def test_a_whole_run_with_one_party_on_a_cluster(tmp_path: Path, running: Any) -> None:
    rng = np.random.default_rng(4)
    rows = [f"{i},{a:.4f},{b:.4f}" for i, (a, b) in enumerate(rng.normal(size=(40, 2)))]
    path = make_study(
        tmp_path,
        hospital_csv="\n".join(["id,a,y", *rows]) + "\n",
        insurer_csv="\n".join(["id,b", *(row.rsplit(",", 1)[0] for row in rows)]) + "\n",
        join={"keys": "subgroup"},
        local={0: {"compute": {"scheduler": running.scheduler_address}}, 1: {"compute": {"workers": 1}}},
    )
    ended = run_study(path)
    assert [end.state for end in ended.values()] == [0, 0, 0], ended
    assert held(running) == [0, 0]
