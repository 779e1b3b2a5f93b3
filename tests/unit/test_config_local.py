"""A party's own file: what is refused and how, and what defaults are."""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from studies import make_study, toml, write_keys

from pipeline.certificates import new_key
from pipeline.compute_settings import Compute
from pipeline.config import MISSING, Local, key_places, load, load_agreement, load_local
from pipeline.errors import ConfigError

HOSPITAL = "patient_id,age,days\n1,50,3\n"
INSURER = "insured_id,income\n1,7\n"


@pytest.fixture
def study(tmp_path: Path) -> Path:
    levels = {"categories": {"smoker": ["no", "former", "n/a"]}}
    return make_study(tmp_path, hospital_csv=HOSPITAL, insurer_csv=INSURER, hospital=levels, ports=(8440, 8441, 8442))


def write(study: Path, party: int = 0, /, **changes: object) -> None:
    values: dict[str, object] = {
        "data": "data/hospital.csv",
        "private_key": "keys/hospital.key",
        "output": "results/hospital",
        **changes,
    }
    lines = [f"{key} = {toml(value)}\n" for key, value in values.items() if value is not None]
    (study.parent / f"party-{party}.toml").write_text("".join(lines), encoding="utf-8")


def local(study: Path, party: int = 0) -> Local:
    return load_local(study, load_agreement(study), party)


def faults(study: Path, party: int = 0) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        local(study, party)
    return caught.value.faults


def test_all_parties_load_with_defaults(study: Path) -> None:
    hospital, insurer, third = (load(study, party)[1] for party in range(3))
    folder = study.parent
    assert hospital.data == folder / "data/hospital.csv"
    assert hospital.private_key == folder / "keys/hospital.key"
    assert hospital.output == folder / "results/hospital"
    assert hospital.listen == ("127.0.0.1", 8440)
    assert (hospital.decimal, hospital.encoding, hospital.missing) == (".", "utf-8", MISSING)
    assert insurer.certificate == load_agreement(study).party(1).certificates[0]
    assert third.data is None


def test_loading_leaves_no_trace(study: Path) -> None:
    before = sorted(study.parent.rglob("*"))
    local(study)
    assert sorted(study.parent.rglob("*")) == before


def test_output_has_a_default(study: Path) -> None:
    write(study, output=None)
    assert local(study).output == study.parent / "results/hospital"


@pytest.mark.parametrize("table", [{}, {"compute": {"workers": 2}}])
def test_a_local_file_in_the_place_of_the_agreement_is_one_fault(study: Path, table: dict[str, object]) -> None:
    write(study, **table)
    for read in (load, key_places):
        for given in (None, study.parent / "party-0.toml"):
            with pytest.raises(ConfigError) as caught:
                read(study.parent / "party-0.toml", 0, given)
            (fault,) = caught.value.faults
            assert fault == (
                "party-0.toml looks like a party's own file; --config must name the agreement, study.toml, "
                "which is the same at all parties"
            )


def test_the_agreement_in_the_place_of_a_local_file_is_one_fault(study: Path) -> None:
    for read in (load, key_places):
        with pytest.raises(ConfigError) as caught:
            read(study, 0, study)
        (fault,) = caught.value.faults
        assert fault == (
            "study.toml looks like the agreement; --local must name this party's own file, such as party-0.toml"
        )


def test_both_files_in_the_place_of_the_other_are_two_faults(study: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(study.parent / "party-0.toml", 0, study)
    assert len(caught.value.faults) == 2


ONE_FAULT: list[tuple[dict[str, object], str, str]] = [
    ({"dat": "x"}, '"dat" is an unknown key', 'the nearest known one is "data"'),
    ({"url": "https://x"}, '"url" is an unknown key', "nearest known one"),
    ({"data": None}, "data is missing", "name this party's table"),
    ({"data": "data/none.csv"}, "data ", "none.csv does not exist"),
    ({"data": "data"}, "data ", "data is not a file"),
    ({"data": "study.toml"}, "data ", "ends neither in .csv nor in .parquet"),
    ({"data": 3}, "data must be text", "not a whole number"),
    ({"data": ""}, "data must not be empty", ""),
    ({"data": "a\nb.csv"}, "data holds a line break", ""),
    ({"data": "a\0b.csv"}, "data holds a line break", ""),
    ({"data": "x" * 5000 + ".csv"}, "data ", "cannot be read"),
    ({"private_key": None}, "private_key is missing", "TLS key"),
    ({"private_key": "keys/none.key"}, "private_key ", "does not exist"),
    ({"private_key": "keys"}, "private_key ", "is not a file"),
    ({"private_key": "keys/insurer.key"}, "private_key ", "does not fit the certificate of party hospital"),
    ({"private_key": "other/certificate.key"}, "private_key ", "is not a private key in PEM form"),
    ({"private_key": "other/text.key"}, "private_key ", "is not a private key in PEM form"),
    ({"private_key": "other/locked.key"}, "private_key ", "is protected by a password"),
    ({"private_key": "other/open.key"}, "private_key ", "run chmod 600 "),
    ({"output": "study.toml"}, "output ", "study.toml is not a folder"),
    ({"output": "study.toml/results"}, "output ", "study.toml is not a folder"),
    ({"output": "/proc/results"}, "output /proc/results ", "cannot be written to"),
    ({"output": False}, "output must be text", "not true or false"),
    ({"listen": "8440"}, "listen must be host and port", ""),
    ({"listen": ":8440"}, "listen must be host and port", ""),
    ({"listen": "127.0.0.1"}, "listen must be host and port", ""),
    ({"listen": "127.0.0.1:0"}, "listen must be host and port", ""),
    ({"listen": "127.0.0.1:65536"}, "listen must be host and port", ""),
    ({"listen": "127.0.0.1:١"}, "listen must be host and port", ""),
    ({"listen": "::1:8440"}, "listen must be host and port", "[::1]:8440"),
    ({"listen": "[::1:8440"}, "listen must be host and port", ""),
    ({"listen": "[localhost]:8440"}, "listen must be host and port", ""),
    ({"listen": "https://127.0.0.1:8440"}, "listen must be host and port", ""),
    ({"listen": 8440}, "listen must be text", ""),
    ({"decimal": ";"}, 'decimal must be "." or ","', ""),
    ({"decimal": ""}, 'decimal must be "." or ","', ""),
    ({"encoding": "cp12520"}, "encoding is not known", "cp1252"),
    ({"encoding": "base64"}, "encoding is not known", ""),
    ({"encoding": "rot13"}, "encoding is not known", ""),
    ({"encoding": "undefined"}, "encoding is not known", ""),
    ({"encoding": "a\0b"}, "encoding is not known", ""),
    ({"encoding": "ü" * 300}, "encoding is not known", ""),
    ({"missing": "NA"}, "missing must be a list of texts", ""),
    ({"missing": [-9]}, "missing must hold texts only", "put quotes around"),
    ({"missing": ["", "N/A "]}, "missing holds", '"n/a", which is an agreed level of "smoker"'),
]


@pytest.mark.parametrize(("changes", "begin", "words"), ONE_FAULT, ids=lambda value: str(value)[:50])
def test_one_wrong_thing_is_one_sentence_with_file_and_key(
    study: Path, changes: dict[str, object], begin: str, words: str
) -> None:
    other_keys(study.parent)
    write(study, 0, **changes)
    found = faults(study)
    assert len(found) == 1, found
    assert found[0].startswith(f"party-0.toml: {begin}")
    assert words in found[0]
    assert found[0].isprintable()


def other_keys(folder: Path) -> None:
    other = folder / "other"
    other.mkdir()
    shutil.copy(folder / "certificates/hospital.pem", other / "certificate.key")
    shutil.copy(folder / "keys/hospital.key", other / "open.key")
    (other / "text.key").write_text("nothing of the kind")
    locked = new_key().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
    )
    (other / "locked.key").write_bytes(locked)
    for path in other.iterdir():
        path.chmod(0o640 if path.name == "open.key" else 0o600)


def test_a_default_missing_mark_that_is_a_level_is_a_fault(tmp_path: Path) -> None:
    levels = {"categories": {"smoker": ["no", "NA"]}}
    study = make_study(tmp_path, hospital_csv=HOSPITAL, insurer_csv=INSURER, hospital=levels)
    [fault] = faults(study)
    assert fault.startswith('party-0.toml: missing is not given and by default holds "NA", which is an agreed level')
    write(study, missing=[""])
    assert local(study).missing == ("",)


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o601, 0o700, 0o660, 0o4600])
def test_a_key_that_others_may_use_is_a_fault(study: Path, mode: int) -> None:
    (study.parent / "keys/hospital.key").chmod(mode)
    [fault] = faults(study)
    assert f"run chmod 600 {study.parent}/keys/hospital.key" in fault


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_key_for_its_owner_only_is_fine(study: Path, mode: int) -> None:
    (study.parent / "keys/hospital.key").chmod(mode)
    assert local(study).private_key == study.parent / "keys/hospital.key"


def test_a_key_may_be_a_symbolic_link_as_secrets_in_containers_are(study: Path) -> None:
    (study.parent / "link.key").symlink_to("keys/hospital.key")
    write(study, private_key="link.key")
    assert local(study).private_key == study.parent / "link.key"


def test_the_third_party_has_no_table(study: Path) -> None:
    write(study, 2, private_key="keys/third-party.key", data="data/hospital.csv")
    assert faults(study, 2) == ("party-2.toml: data is for controllers only; the third party has no table",)


@pytest.mark.parametrize(
    ("changes", "attribute", "value"),
    [
        ({"listen": "0.0.0.0:9000"}, "listen", ("0.0.0.0", 9000)),  # noqa: S104
        ({"listen": "[::]:9000"}, "listen", ("::", 9000)),
        ({"listen": "LocalHost:9000"}, "listen", ("localhost", 9000)),
        ({"decimal": ","}, "decimal", ","),
        ({"encoding": "CP1252"}, "encoding", "cp1252"),
        ({"encoding": "latin-1"}, "encoding", "iso8859-1"),
        ({"encoding": "utf-16"}, "encoding", "utf-16"),
        ({"missing": ["", " -9 ", "-9"]}, "missing", ("", "-9")),
        ({"missing": []}, "missing", ()),
    ],
)
def test_what_is_written_is_read(study: Path, changes: dict[str, object], attribute: str, value: object) -> None:
    write(study, 0, **changes)
    assert getattr(local(study), attribute) == value


def test_without_a_port_in_the_url_443_is_listened_at(tmp_path: Path) -> None:
    study = make_study(
        tmp_path, hospital_csv=HOSPITAL, insurer_csv=INSURER, hospital={"url": "https://hospital.example/a"}
    )
    assert local(study).listen == ("hospital.example", 443)


def test_paths_count_from_the_folder_of_the_file_that_has_them(study: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    write(study)
    (study.parent / "party-0.toml").rename(elsewhere / "mine.toml")
    shutil.copytree(study.parent / "keys", elsewhere / "keys")
    shutil.copytree(study.parent / "data", elsewhere / "data")
    read = load(study, 0, elsewhere / "mine.toml")[1]
    assert read.data == elsewhere / "data/hospital.csv"
    assert read.output == elsewhere / "results/hospital"


def test_relative_paths_on_the_command_line_work(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(study.parent)
    assert load(Path("study.toml"), 0)[1].data == study.parent / "data/hospital.csv"


def test_a_local_file_that_is_not_there_is_named(study: Path) -> None:
    (study.parent / "party-0.toml").unlink()
    [fault] = faults(study)
    assert fault.startswith(f"{study.parent / 'party-0.toml'} does not exist; ")
    assert "--local" in fault


def test_a_local_file_that_is_no_toml_is_one_fault(study: Path) -> None:
    (study.parent / "party-0.toml").write_text("data = data.csv\n")
    [fault] = faults(study)
    assert fault.startswith("party-0.toml is not valid TOML: ")
    assert "line 1" in fault


def test_faults_of_both_files_come_in_one_go(study: Path) -> None:
    study.write_text(study.read_text().replace("alpha = 0.1", "alpha = -1"))
    write(study, data="none.csv", decimal="x", private_key="none.key")
    with pytest.raises(ConfigError) as caught:
        load(study, 0)
    files = [fault.split(":")[0] for fault in caught.value.faults]
    assert files == ["study.toml", "party-0.toml", "party-0.toml", "party-0.toml"]


def test_an_unknown_party_and_a_tolerance_too_fine_come_in_one_go(study: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(study, 5, study.parent / "party-0.toml", smallest_tolerance=lambda features: 1e-5 * features)
    [tolerance, unknown] = caught.value.faults
    assert unknown.startswith("party 5 is not in the agreement")
    assert "at least 4e-05" in tolerance  # age, smoker=former, smoker=n/a, income


def test_of_two_certificates_the_one_that_fits_the_key_is_taken(study: Path) -> None:
    write_keys(study.parent, "renewed", now=datetime.now(UTC))
    both = '["certificates/hospital.pem", "certificates/renewed.pem"]'
    study.write_text(study.read_text().replace('"certificates/hospital.pem"', both))
    old, renewed = load_agreement(study).party(0).certificates
    assert local(study).certificate == old
    write(study, private_key="keys/renewed.key")
    assert local(study).certificate == renewed


def test_a_key_whose_certificate_has_expired_is_a_fault_even_beside_a_valid_one(study: Path) -> None:
    write_keys(study.parent, "expired", now=datetime.now(UTC) - timedelta(days=800))
    both = '["certificates/hospital.pem", "certificates/expired.pem"]'
    study.write_text(study.read_text().replace('"certificates/hospital.pem"', both))
    write(study, private_key="keys/expired.key")
    [fault] = faults(study)
    assert "fits a certificate that expired on 20" in fault


@pytest.mark.skipif(os.geteuid() == 0, reason="root may do everything")
def test_what_this_user_may_not_read_or_write_is_a_fault(study: Path) -> None:
    (study.parent / "data/hospital.csv").chmod(0)
    (study.parent / "results").mkdir(mode=0o500)
    assert len(faults(study)) == 2


def test_how_to_compute_is_read_with_the_rest(study: Path) -> None:
    write(study, compute={"workers": 3})
    assert local(study).compute == Compute(3)
    write(study, compute={"workers": 3, "schedular": "x"})
    assert faults(study) == (
        'party-0.toml: compute."schedular" is an unknown key; the nearest known one is "scheduler"',
    )
