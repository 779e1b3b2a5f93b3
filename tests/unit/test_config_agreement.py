"""The agreement: what is refused and how, what defaults are, what the digest sees."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from studies import write_keys

from pipeline.config import Agreement, Model, Study, canonical_json, check_tolerance, load_agreement, survey
from pipeline.errors import ConfigError
from pipeline.pins import fingerprint, parse_certificate

VECTORS = Path(__file__).parents[1] / "vectors" / "agreement.json"

STUDY = """\
[study]
name = "heart-failure"
min_records = 50

[[party]]
id = 0
name = "hospital"
role = "controller"
url = "https://hospital.example:8440"
certificate = "certificates/hospital.pem"
identifier = ["patient_id"]
identifier_pattern = ["[0-9]{9}"]
features = ["age", "bmi"]
categories = { sex = ["f", "m"], smoker = ["no", "former", "yes"] }
ranges = { age = [0, 120] }
outcome = "days"

[[party]]
id = 1
name = "insurer"
role = "controller"
url = "https://insurer.example:8441"
certificate = "certificates/insurer.pem"
identifier = ["insured_id"]
features = ["income", "claims"]

[[party]]
id = 2
name = "third-party"
role = "third-party"
url = "https://third.example:8442"
certificate = "certificates/third-party.pem"

[join]
paillier_bits = 3072

[model]
kind = "lasso"
alpha = 0.1
standardize = true
fit_intercept = true
tolerance = 1e-6
max_iterations = 1000
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    now = datetime.now(UTC)
    for name in ("hospital", "insurer", "third-party"):
        write_keys(folder, name)
    write_keys(folder, "expired", now=now - timedelta(days=731))
    write_keys(folder, "early", now=now + timedelta(days=3))
    pem = {path.stem: path.read_bytes() for path in (folder / "certificates").iterdir()}
    (folder / "certificates/bundle.pem").write_bytes(pem["hospital"] + pem["insurer"])
    (folder / "certificates/broken.pem").write_bytes(pem["hospital"][:200])
    (folder / "certificates/text.pem").write_bytes(b"\xff\xfe nothing of the kind")
    (folder / "certificates/large.pem").write_bytes(b"x" * (1 << 17))
    (folder / "certificates/empty.pem").write_bytes(b"")
    return folder


def load(folder: Path, text: str | bytes = STUDY, require_certificates: bool = True) -> Agreement:
    path = folder / "study.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_agreement(path, require_certificates)


def faults(folder: Path, text: str | bytes) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load(folder, text)
    return caught.value.faults


def changed(*changes: tuple[str, str]) -> str:
    text = STUDY
    for old, new in changes:
        assert old in text, f"{old!r} is not in the study"
        text = text.replace(old, new, 1)
    return text


# --- one wrong thing, one sentence ----------------------------------------------------------------

HOSPITAL = "party hospital: "
ONE_FAULT = [
    # unknown keys name the nearest known one
    ("[join]", "[joins]", '"joins" is an unknown table', 'known one is "join"'),
    ("alpha = 0.1", "alpha = 0.1\nAlpah = 1", 'model."Alpah" is an unknown key', 'known one is "alpha"'),
    ("paillier_bits = 3072", "pailier_bits = 3072", 'join."pailier_bits" is', '"paillier_bits"'),
    ("min_records", "minimum_records", 'study."minimum_records" is', '"min_records"'),
    ("identifier_pattern", "identifier_patern", HOSPITAL + '"identifier_patern" is', '"identifier_pattern"'),
    # [study]
    ('name = "heart-failure"\n', "", "study.name is missing"),
    ('"heart-failure"', '""', "study.name must not be empty"),
    ('"heart-failure"', '"  "', "study.name must not be empty"),
    ('"heart-failure"', '"a\\nb"', "study.name holds a line break"),
    ('"heart-failure"', f'"{"x" * 201}"', "study.name holds a text longer than 200"),
    ('"heart-failure"', "7", "study.name must be text, not a whole number"),
    ("min_records = 50", "min_records = 9", "study.min_records must be a whole number from 10 "),
    ("min_records = 50", "min_records = true", "study.min_records must be a whole number, not true or false"),
    ("min_records = 50", "min_records = 50.0", "study.min_records must be a whole number, not a number with a dec"),
    ("min_records = 50", 'min_records = "50"', "study.min_records must be a whole number, not text"),
    ("min_records = 50", "min_records = 2026-01-01", "study.min_records", "not a date or time"),
    ("min_records = 50", "min_records = 999999999", "study.min_records must be a whole number from 10 to 16777216"),
    ("min_records = 50", "keep_until = 2999-01-01", "study.keep_until is about kept shares; it needs keep_shares = tr"),
    ("min_records = 50", "max_analyses = 5", "study.max_analyses is about kept shares; it needs keep_shares = true"),
    ("min_records = 50", "keep_shares = 1", "study.keep_shares must be true or false, not a whole number"),
    ("min_records = 50", "keep_shares = 1\nmax_analyses = 5", "study.keep_shares must be true or false"),
    ("min_records = 50", "keep_shares = true\nmax_analyses = 0", "study.max_analyses must be a whole number from 1 to"),
    ("min_records = 50", "keep_shares = true\nmax_analyses = 1001", "study.max_analyses must be a whole number from 1"),
    ("min_records = 50", 'keep_shares = true\nkeep_until = "2999-01-01"', "study.keep_until must be a date such as 20"),
    ("min_records = 50", "revision = 0", "study.revision must be a whole number from 1 to 1000000"),
    ("min_records = 50", "kept_shares = true", 'study."kept_shares" is an unknown key', '"keep_shares"'),
    # [join]
    ("= 3072", "= 1024", "join.paillier_bits must be a whole number from 2048 to 8192"),
    ("= 3072", "= 2047", "join.paillier_bits must be a whole number from 2048 to 8192"),
    ("= 3072", "= 8200", "join.paillier_bits must be a whole number from 2048 to 8192"),
    ("= 3072", "= 3073", "join.paillier_bits must be a multiple of 8"),
    ("= 3072", "= true", "join.paillier_bits must be a whole number, not true or false"),
    ("= 3072", '= 3072\nkeys = "subgroups"', 'join.keys must be "standard" or "subgroup"', 'nearest one is "subgroup"'),
    ("= 3072", '= 3072\nkeys = "Standard"', 'join.keys must be "standard" or', 'the nearest one is "standard"'),
    ("= 3072", "= 3072\nkeys = true", "join.keys must be text, not true or false"),
    ("= 3072", '= 3072\nkey = "standard"', 'join."key" is an unknown key', '"keys"'),
    # [model]
    ("alpha = 0.1\n", "", "model.alpha is missing; give the penalty"),
    ("alpha = 0.1", "alpha = -0.1", "model.alpha must be at least 0"),
    ("alpha = 0.1", "alpha = nan", "model.alpha must be a finite number"),
    ("alpha = 0.1", "alpha = inf", "model.alpha must be a finite number"),
    ("alpha = 0.1", f"alpha = 1{'0' * 400}", "model.alpha must be a finite number"),
    ("alpha = 0.1", "alpha = true", "model.alpha must be a finite number, not true or false"),
    ("alpha = 0.1", 'alpha = "0.1"', "model.alpha must be a finite number, not text"),
    ("alpha = 0.1", "alpha = [0.1]", "model.alpha must be a finite number, not a list"),
    ('"lasso"', '"rigde"', 'model.kind must be "lasso" or "elastic-net" or "ridge" or "ols", not "rigde"'),
    ('"lasso"', '"ols"', 'model.alpha is not for kind = "ols"'),
    ('"lasso"', '"elastic-net"', "model.l1_ratio is missing; give the lasso's part"),
    ("alpha = 0.1", "alpha = 0.1\nl1_ratio = 0.5", 'model.l1_ratio is for kind = "elastic-net" only'),
    ("alpha = 0.1", "alpha = 0.1\npositive = 1", "model.positive must be true or false"),
    (
        "alpha = 0.1",
        'alpha = 0.1\npenalty_factors = { "hospital.agee" = 0 }',
        "model.penalty_factors.hospital.agee is no coefficient or category of this study",
        'the nearest known one is "hospital.age"',
    ),
    (
        "alpha = 0.1",
        'alpha = 0.1\npenalty_factors = { "hospital.age" = -1 }',
        "model.penalty_factors.hospital.age must be at least 0",
    ),
    (
        "alpha = 0.1",
        'alpha = 0.1\npenalty_factors = { "hospital.age" = inf }',
        "model.penalty_factors.hospital.age must be a finite number",
    ),
    ("standardize = true", "standardize = 1", "model.standardize must be true or false, not a whole number"),
    ("fit_intercept = true", 'fit_intercept = "yes"', "model.fit_intercept must be true or false, not text"),
    ("1e-6", "0", "model.tolerance must be above 0"),
    ("1e-6", "-1e-6", "model.tolerance must be above 0"),
    ("1e-6", "nan", "model.tolerance must be a finite number"),
    ("1e-6", "2", "model.tolerance must be above 0 and at most 1"),
    ("iterations = 1000", "iterations = 0", "model.max_iterations must be a whole number from 1"),
    ("iterations = 1000", "iterations = 1e3", "model.max_iterations must be a whole number, not a number with"),
    ("alpha = 0.1", "alphas = [0.1, 0.2]", "model.rule is missing"),
    ("alpha = 0.1", "alpha = 0.1\nfolds = 51", "model.folds could be more folds than records"),
    ("[model]", "[open]\ncv_r2 = true\n[model]", "open.cv_r2 needs cross-validation"),
    ("[model]", "[gate]\nmax_r2 = true\n[model]", "gate.max_r2 must be a number"),
    ("[model]", "[gates]\n[model]", '"gates" is an unknown table', 'known one is "gate"'),
    # a party's own keys
    ("id = 0\n", "", HOSPITAL + "id is missing"),
    ("id = 0\n", "id = false\n", HOSPITAL + "id must be a whole number, not true or false"),
    ("id = 0\n", "id = -1\n", HOSPITAL + "id must be a whole number from 0"),
    ("id = 0\n", "id = 1\n", "id is the same at the parties hospital and insurer"),
    ("id = 0\n", "id = 7\n", "id must be, for now, 0 and 1 at the controllers and 2 at the third party"),
    ('name = "hospital"\n', "", "party table number 1: name is missing"),
    ('name = "hospital"', 'name = "Hospital"', "party table number 1: name must be 1 to 63 of the signs a to z"),
    ('name = "hospital"', 'name = "st. mary"', "party table number 1: name must be"),
    ('name = "hospital"', 'name = "hospital\\n"', "party table number 1: name must be"),
    ('name = "hospital"', 'name = ""', "party table number 1: name must not be empty"),
    ('name = "hospital"', 'name = "insurer"', "name is the same at the parties insurer and insurer"),
    ('role = "controller"\n', "", HOSPITAL + "role is missing"),
    ('role = "controller"', 'role = "owner"', HOSPITAL + 'role must be "controller" or "third-party", not "owner"'),
    ('role = "third-party"', 'role = "controller"\nidentifier=["i"]\nfeatures=["f"]', "role is controller 3 times"),
    # addresses
    ('url = "https://hospital.example:8440"\n', "", HOSPITAL + "url is missing"),
    ("https://hospital.example:8440", "http://hospital.example:8440", HOSPITAL + "url must begin with https://"),
    ("https://hospital.example:8440", "hospital.example:8440", HOSPITAL + "url must begin with https://"),
    ("https://hospital.example:8440", "https://me:pw@hospital.example", HOSPITAL + "url must not hold a user name"),
    ("https://hospital.example:8440", "https://@hospital.example", HOSPITAL + "url must not hold a user name"),
    ("https://hospital.example:8440", "https://hospital.example/?a=b", HOSPITAL + "url must not have a query"),
    ("https://hospital.example:8440", "https://hospital.example/?", HOSPITAL + "url must not have a query"),
    ("https://hospital.example:8440", "https://hospital.example/#a", HOSPITAL + "url must not have a query or frag"),
    ("https://hospital.example:8440", "https://hospital.example:0", HOSPITAL + "url has no valid host and port"),
    ("https://hospital.example:8440", "https://hospital.example:99999", HOSPITAL + "url is not a valid address"),
    ("https://hospital.example:8440", "https://hospital.example:x", HOSPITAL + "url is not a valid address"),
    ("https://hospital.example:8440", "https://[::1", HOSPITAL + "url is not a valid address"),
    ("https://hospital.example:8440", "https://", HOSPITAL + "url has no valid host and port"),
    ("https://hospital.example:8440", "https://:8440", HOSPITAL + "url has no valid host and port"),
    ("https://hospital.example:8440", "https://256.1.1.1", HOSPITAL + "url has no valid host and port"),
    ("https://hospital.example:8440", "https://hôpital.example", HOSPITAL + "url has no valid host and port"),
    ("https://hospital.example:8440", "https://hospital .example", HOSPITAL + "url has no valid host and port"),
    ("https://hospital.example:8440", "https://hospital.example\\\\x", HOSPITAL + "url has no valid host and port"),
    ("https://hospital.example:8440", "https://-a.example", HOSPITAL + "url has no valid host and port"),
    ("https://hospital.example:8440", "https://0.0.0.0:8440", HOSPITAL + "url must be an address that the others"),
    ("https://hospital.example:8440", "https://hospital.example/a/../b", HOSPITAL + "url has a path"),
    ("https://hospital.example:8440", "https://hospital.example/a//b", HOSPITAL + "url has a path"),
    ("https://hospital.example:8440", "https://hospital.example/a b", HOSPITAL + "url has a path"),
    ("https://hospital.example:8440", "https://hos\\npital.example", HOSPITAL + "url has no valid host"),
    ("https://hospital.example:8440", "https://INSURER.example:8441/", "url is the same at the parties hospital and"),
    # certificates
    ('certificate = "certificates/hospital.pem"\n', "", HOSPITAL + "certificate is missing"),
    ("certificates/hospital.pem", "certificates/no.pem", HOSPITAL, '"certificates/no.pem" does not exist'),
    ("certificates/hospital.pem", "x" * 5000, HOSPITAL, "cannot be read (File name too long)"),
    ("certificates/hospital.pem", "certificates", HOSPITAL, '"certificates" is not a file'),
    ("certificates/hospital.pem", "", HOSPITAL + "certificate must not be empty"),
    ('"certificates/hospital.pem"', "[]", HOSPITAL + "certificate must name at least one"),
    ('"certificates/hospital.pem"', "[1]", HOSPITAL + "certificate must hold texts only"),
    ('"certificates/hospital.pem"', "{ path = 1 }", HOSPITAL + "certificate must be text, not a table"),
    ('"certificates/hospital.pem"', '["certificates/hospital.pem", ""]', HOSPITAL + 'certificate "" must not be empty'),
    (
        '"certificates/hospital.pem"',
        '["certificates/hospital.pem", "./certificates/hospital.pem"]',
        HOSPITAL,
        "more than once",
    ),
    ("certificates/hospital.pem", "keys/hospital.key", HOSPITAL, '"keys/hospital.key" holds a private key'),
    ("certificates/hospital.pem", "certificates/bundle.pem", HOSPITAL, "holds 2 certificates"),
    ("certificates/hospital.pem", "certificates/broken.pem", HOSPITAL, "is not a certificate in PEM form"),
    ("certificates/hospital.pem", "certificates/text.pem", HOSPITAL, "is not a certificate in PEM form"),
    ("certificates/hospital.pem", "certificates/empty.pem", HOSPITAL, "is not a certificate in PEM form"),
    ("certificates/hospital.pem", "certificates/large.pem", HOSPITAL, "is too large"),
    ("certificates/hospital.pem", "-----BEGIN CERTIFICATE-----", HOSPITAL + "certificate is not a certificate in PEM"),
    ("certificates/hospital.pem", "certificates/insurer.pem", "certificate is the same at the parties hospital and in"),
    # columns of a controller
    ('identifier = ["patient_id"]\n', "", HOSPITAL + "identifier is missing"),
    ('["patient_id"]', "[]", HOSPITAL + "identifier must name at least one column"),
    ('["patient_id"]', '"patient_id"', HOSPITAL + "identifier must be a list of texts, not text"),
    ('["patient_id"]', "[1]", HOSPITAL + "identifier must hold texts only, not a whole number"),
    ('["patient_id"]', '[" "]', HOSPITAL + "identifier must not hold an empty text"),
    ('["[0-9]{9}"]', f'["{"a" * 1001}"]', HOSPITAL + "identifier_pattern number 1 is not a valid regular expression"),
    ('["[0-9]{9}"]', '["([0-9]"]', HOSPITAL + "identifier_pattern number 1 is not a valid regular expression"),
    ('["[0-9]{9}"]', '[""]', HOSPITAL + "identifier_pattern number 1 is not a valid regular expression"),
    ('["[0-9]{9}"]', '["a", "b"]', HOSPITAL + "identifier_pattern must hold 1 of them"),
    ('["[0-9]{9}"]', '"[0-9]{9}"', HOSPITAL + "identifier_pattern must be a list of texts"),
    ('["insured_id"]', '["name", "born"]', "identifier must name as many columns at one controller as at the other"),
    ('["age", "bmi"]', '["age", "age"]', HOSPITAL + 'features names "age" more than once'),
    ('["age", "bmi"]', '["age", " age "]', HOSPITAL + 'features names "age" more than once'),
    ('["age", "bmi"]', '["caf\\u00e9", "cafe\\u0301", "age"]', HOSPITAL + 'features names "café" more than once'),
    ('["age", "bmi"]', '["age", 3]', HOSPITAL + "features must hold texts only"),
    ('["age", "bmi"]', '["age", "b\\tmi"]', HOSPITAL + "features holds a line break or another sign"),
    ('["age", "bmi"]', '"age"', HOSPITAL + "features must be a list of texts, not text"),
    ('["age", "bmi"]', '["age", "patient_id"]', HOSPITAL + "identifier and features both name", "one use only"),
    ('["age", "bmi"]', '["age", "sex"]', HOSPITAL + "features and categories both name", "one use only"),
    ('["age", "bmi"]', '["age", "days"]', HOSPITAL + "features and outcome both name", "one use only"),
    ('["age", "bmi"]', '["age", "smoker=yes"]', HOSPITAL, 'two coefficients with the name "hospital.smoker=yes"'),
    ('outcome = "days"', 'outcome = "patient_id"', HOSPITAL + "identifier and outcome both name"),
    ('outcome = "days"', 'outcome = ["days"]', HOSPITAL + "outcome must be text, not a list"),
    ('outcome = "days"', 'outcome = ""', HOSPITAL + "outcome must not be empty"),
    ('outcome = "days"\n', "", "outcome is named at no controller; exactly one"),
    ('["income", "claims"]', '["income"]\noutcome="claims"', "outcome is named at hospital and insurer"),
    ('["f", "m"]', '["f"]', HOSPITAL + "categories.sex needs at least two levels"),
    ('["f", "m"]', "[]", HOSPITAL + "categories.sex needs at least two levels"),
    ('["f", "m"]', '["f", " f "]', HOSPITAL + 'categories.sex names "f" more than once'),
    ('["f", "m"]', '["f", ""]', HOSPITAL + "categories.sex must not hold an empty text"),
    ('["f", "m"]', "[0, 1]", HOSPITAL + "categories.sex must hold texts only, not a whole number; put quotes"),
    ('["f", "m"]', '"f"', HOSPITAL + "categories.sex must be a list of texts"),
    ('{ sex = ["f", "m"]', '{ " smoker " = ["f", "m"]', HOSPITAL + "categories.smoker is there more than once"),
    ('{ sex = ["f", "m"]', '{ "" = ["f", "m"]', HOSPITAL + 'categories."" must not hold an empty text'),
    ('{ sex = ["f", "m"], smoker = ["no", "former", "yes"] }', '["sex"]', HOSPITAL + "categories must be a table"),
    ("[0, 120]", "[120, 0]", HOSPITAL + "ranges.age must be two finite numbers, the lower one first"),
    ("[0, 120]", "[5, 5]", HOSPITAL + "ranges.age must be two"),
    ("[0, 120] }", '[0, 120] }\nunits = { age = "" }', HOSPITAL + "units.age must not be empty"),
    ("[0, 120] }", '[0, 120] }\nunits = { age = "years\\nold" }', HOSPITAL + "units.age must be a short text"),
    ("[0, 120] }", "[0, 120] }\nunits = { age = 1 }", HOSPITAL + "units.age must be text"),
    (
        "[0, 120] }",
        '[0, 120] }\nunits = { agee = "years" }',
        HOSPITAL + 'units names "agee", which is no numeric column',
    ),
    ("[0, 120]", "[0]", HOSPITAL + "ranges.age must be two"),
    ("[0, 120]", "[0, 60, 120]", HOSPITAL + "ranges.age must be two"),
    ("[0, 120]", "[0, inf]", HOSPITAL + "ranges.age must be two"),
    ("[0, 120]", "[nan, 1]", HOSPITAL + "ranges.age must be two"),
    ("[0, 120]", "[false, true]", HOSPITAL + "ranges.age must be two"),
    ("[0, 120]", "[-1.7e308, 1.7e308]", HOSPITAL + "ranges.age must be two"),
    ("[0, 120]", '"0-120"', HOSPITAL + "ranges.age must be two"),
    ("{ age = [0", "{ agee = [0", HOSPITAL + 'ranges names "agee"', 'the nearest one is "age"'),
    ("{ age = [0", "{ sex = [0", HOSPITAL + 'ranges names "sex", which is no numeric column'),
    ("{ age = [0", "{ patient_id = [0", HOSPITAL + 'ranges names "patient_id", which is no numeric column'),
    ("{ age = [0, 120] }", "[0, 120]", HOSPITAL + "ranges must be a table, not a list"),
    ('features = ["income", "claims"]\n', "", "party insurer: features is missing or empty"),
    ('["income", "claims"]', "[]", "party insurer: features is missing or empty"),
    # the third party has no table
    *(
        (
            'role = "third-party"',
            f'role = "third-party"\n{key} = {value}',
            f"party third-party: {key} is for controllers only",
        )
        for key, value in {
            "identifier": '["id"]',
            "identifier_pattern": '["[0-9]+"]',
            "features": '["age"]',
            "categories": '{ sex = ["f", "m"] }',
            "ranges": "{ age = [0, 1] }",
            "outcome": '"days"',
        }.items()
    ),
]


@pytest.mark.parametrize("case", ONE_FAULT, ids=lambda case: f"{case[0]}->{case[1]}"[:60])
def test_one_wrong_thing_is_one_sentence_with_file_and_key(folder: Path, case: tuple[str, ...]) -> None:
    old, new, *expected = case
    found = faults(folder, changed((old, new)))
    assert len(found) == 1, found
    assert found[0].startswith("study.toml: " + expected[0])
    assert all(words in found[0] for words in expected)
    assert "\n" not in found[0]


@pytest.mark.parametrize(("certificate", "words"), [("expired", "expired on"), ("early", "is not valid before")])
def test_a_certificate_out_of_its_time_is_a_fault_with_the_date(folder: Path, certificate: str, words: str) -> None:
    [fault] = faults(folder, changed(("certificates/insurer", f"certificates/{certificate}")))
    assert fault.startswith(f'study.toml: party insurer: certificate "certificates/{certificate}.pem" {words}')
    assert re.search(r"\d{4}-\d\d-\d\d", fault)


def test_an_expired_certificate_beside_a_valid_one_is_no_fault(folder: Path) -> None:
    both = '["certificates/expired.pem", "certificates/hospital.pem"]'
    assert len(load(folder, changed(('"certificates/hospital.pem"', both))).party(0).certificates) == 2


def test_two_certificates_out_of_time_are_one_fault(folder: Path) -> None:
    both = '["certificates/expired.pem", "certificates/early.pem"]'
    assert len(faults(folder, changed(('"certificates/hospital.pem"', both)))) == 1


def test_all_faults_come_in_one_go(folder: Path) -> None:
    text = changed(
        ("min_records = 50", "min_records = 1"),
        ("https://hospital.example:8440", "http://hospital.example"),
        ('["age", "bmi"]', '["age", 3]'),
        ("[0, 120]", "[120, 0]"),
        ("certificates/insurer.pem", "certificates/none.pem"),
        ("= 3072", "= 512"),
        ("alpha = 0.1", "alhpa = 0.1"),
        ("1e-6", "0"),
    )
    found = faults(folder, text)
    for key in (
        "study.min_records", "party hospital: url", "party hospital: features", "party hospital: ranges.age",
        "party insurer: certificate", "join.paillier_bits", 'model."alhpa"', "model.alpha is missing",
        "model.tolerance",
    ):  # fmt: skip
        assert sum(fault.startswith(f"study.toml: {key}") for fault in found) == 1, key
    assert len(found) == 9


def test_a_party_that_cannot_be_read_does_not_make_names_in_the_model_unknown(folder: Path) -> None:
    more = 'alpha = 0.1\nfeatures = ["hospital.age"]\npenalty_factors = { "hospital.age" = 0 }'
    assert len(faults(folder, changed(("alpha = 0.1", more), ("controller", "controler")))) == 1


def test_names_in_the_model_are_checked_also_where_a_certificate_is_wrong(folder: Path) -> None:
    wrong = (("certificates/hospital", "certificates/no"), ("alpha = 0.1", 'alpha = 0.1\nfeatures = ["x"]'))
    assert len(faults(folder, changed(*wrong))) == 2


def test_one_fault_does_not_draw_others_after_it(folder: Path) -> None:
    for old, new in (("controller", "controler"), ('["age", "bmi"]', '["age", 3]'), ('"days"', "[]")):
        assert len(faults(folder, changed((old, new)))) == 1, old


# --- files that are no agreement -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (STUDY.replace("= 0.1", "= = 0.1").encode(), "study.toml is not valid TOML: .*line 39"),
        (STUDY.replace("alpha", "kind").encode(), "study.toml is not valid TOML: .*line 39"),
        (STUDY.replace("hospital", "h\xf4pital", 1).encode("latin-1"), r"study.toml is not UTF-8 text \(line 7\)"),
        (b"\x00" * 100, "study.toml is not valid TOML"),
        (b"x = " + b"[" * 5000, "study.toml is not valid TOML"),
        (b"x = " + b"1" * 5000, "study.toml is not valid TOML"),
        (b"# " + b"x" * (1 << 21), "study.toml is larger than 1 MiB"),
    ],
)
def test_what_cannot_be_parsed_is_one_fault_with_the_line(folder: Path, content: bytes, words: str) -> None:
    [fault] = faults(folder, content)
    assert re.match(words, fault), fault


@pytest.mark.parametrize("name", ["no/such/study.toml", ".", "x" * 5000])
def test_what_is_no_file_is_one_fault(folder: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"does not exist|is not a file|cannot be read"):
        load_agreement(folder / name)


@pytest.mark.parametrize("content", [b"", b"party = 3", b"party = [1]", b"[party]\nid = 0"])
def test_a_file_without_parties_says_how_to_write_them(folder: Path, content: bytes) -> None:
    assert any(re.match(r"study.toml: party is missing or no list .*\[\[party\]\]", f) for f in faults(folder, content))


def test_a_section_that_is_no_table_says_how_to_write_it(folder: Path) -> None:
    text = 'join = "x"\n' + STUDY.replace("[join]\npaillier_bits = 3072\n", "")
    assert faults(folder, text) == ("study.toml: join must be a table, not text; write [join] on a line of its own",)


def test_a_byte_order_mark_and_windows_line_ends_are_welcome(folder: Path) -> None:
    windows = b"\xef\xbb\xbf" + STUDY.replace("\n", "\r\n").encode()
    assert load(folder, windows).digest == load(folder).digest


def test_a_message_shows_no_control_signs(folder: Path) -> None:
    found = faults(folder, STUDY + '"\\u001b[31m\\n" = 1\n')
    assert len(found) == 1
    assert found[0].isprintable()


# --- what a good one means -------------------------------------------------------------------------


def test_every_key_but_alpha_and_what_names_things_has_a_default(folder: Path) -> None:
    keys = ("min_records", "identifier_pattern", "ranges", "paillier_bits", "kind", "standardize", "fit_intercept")
    optional = re.compile(rf"^({'|'.join((*keys, 'tolerance', 'max_iterations'))}) = .*\n", re.MULTILINE)
    agreement = load(folder, optional.sub("", STUDY).replace("[join]\n", ""))
    assert agreement.study.min_records == 50
    assert (agreement.join.paillier_bits, agreement.join.keys) == (3072, "standard")
    model = agreement.model
    assert (model.kind, model.standardize, model.fit_intercept) == ("lasso", True, True)
    assert (model.tolerance, model.max_iterations) == (1e-6, 1000)
    assert (agreement.party(0).identifier_pattern, agreement.party(0).ranges) == ((), {})


def test_columns_and_names_come_in_the_order_of_the_coefficients(folder: Path) -> None:
    agreement = load(folder, changed(('sex = ["f", "m"], smoker', 'zip = ["a", "b"], smoker')))
    assert agreement.names == (
        "hospital.age", "hospital.bmi", "hospital.smoker=former", "hospital.smoker=yes", "hospital.zip=b",
        "insurer.income", "insurer.claims",
    )  # fmt: skip
    hospital, insurer = agreement.controllers
    assert [column.kind for column in hospital.columns] == ["numeric", "numeric", "category", "category"]
    assert hospital.columns[0].range == (0.0, 120.0)
    assert (hospital.width, insurer.width) == (6, 2)
    assert agreement.outcome_party is hospital
    assert agreement.third_party.columns == ()


def test_the_bounds_themselves_are_allowed(folder: Path) -> None:
    bounds = (("= 0.1", "= 0"), ("= 50", "= 10"), ("= 3072", "= 8192"), ("1e-6", "1"), ("= 1000", "= 1"))
    agreement = load(folder, changed(*bounds))
    assert (agreement.model.alpha, agreement.study.min_records, agreement.model.max_iterations) == (0.0, 10, 1)


def test_a_pattern_that_python_may_read_otherwise_one_day_gives_no_warning(
    folder: Path, recwarn: pytest.WarningsRecorder
) -> None:
    load(folder, changed(("[0-9]{9}", "[[a-z]]")))
    # What an earlier test has left open is found whenever memory is tidied up.
    assert not [warning for warning in recwarn if warning.category is not ResourceWarning]


def test_parties_are_sorted_by_id(folder: Path) -> None:
    blocks = STUDY.split("[[party]]")
    tail = "[join]" + blocks[3].split("[join]")[1]
    third = blocks[3].split("[join]")[0]
    text = "[[party]]".join([blocks[0], third, blocks[2], blocks[1] + tail])
    assert [party.id for party in load(folder, text).parties] == [0, 1, 2]
    assert load(folder, text).digest == load(folder).digest


@pytest.mark.parametrize(
    ("written", "url", "address"),
    [
        ("https://Hospital.Example", "https://hospital.example:443", ("hospital.example", 443)),
        ("https://hospital.example:8440/", "https://hospital.example:8440", ("hospital.example", 8440)),
        ("https://hospital.example/pipe-line/v1/", "https://hospital.example:443/pipe-line/v1", None),
        ("https://[::1]:8440", "https://[::1]:8440", ("::1", 8440)),
        ("https://10.0.0.7:8440", "https://10.0.0.7:8440", ("10.0.0.7", 8440)),
        ("https://third_party:8440", "https://third_party:8440", ("third_party", 8440)),
    ],
)
def test_an_address_is_brought_to_one_form(
    folder: Path, written: str, url: str, address: tuple[str, int] | None
) -> None:
    party = load(folder, changed(("https://hospital.example:8440", written))).party(0)
    assert party.url == url
    assert address in (None, party.address)


def test_certificates_may_be_text_or_a_list(folder: Path) -> None:
    pem = (folder / "certificates/hospital.pem").read_text()
    one = load(folder)
    text = load(folder, changed(('"certificates/hospital.pem"', f"'''{pem}'''")))
    both = load(folder, changed(('"certificates/hospital.pem"', f"['''{pem}''', 'certificates/early.pem']")))
    assert one.digest == text.digest
    assert len(both.party(0).certificates) == 2
    assert one.party(0).fingerprints == (fingerprint(parse_certificate(pem.encode())),)


def test_without_certificates_none_is_looked_at(folder: Path) -> None:
    text = changed(("certificates/hospital.pem", "no/such.pem"), ("certificates/insurer.pem", "certificates/text.pem"))
    agreement = load(folder, text, require_certificates=False)
    assert all(party.certificates == () for party in agreement.parties)
    assert agreement.party(0).certificate_files == (folder / "no/such.pem",)


def test_without_certificates_two_parties_still_need_files_of_their_own(folder: Path) -> None:
    text = changed(("certificates/hospital.pem", "certificates/insurer.pem"))
    with pytest.raises(ConfigError, match="certificate is the same at the parties hospital and insurer"):
        load(folder, text, require_certificates=False)


def test_a_party_that_is_not_there_is_named_with_those_that_are(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"party 3 is not in the agreement; its parties are 0 \(hospital\), 1"):
        load(folder).party(3)


def test_shares_are_kept_only_if_the_study_says_so(folder: Path) -> None:
    assert load(folder).study == Study("heart-failure", 50, False, None, 20, 1)
    kept = "keep_shares = true\nkeep_until = 2999-12-31\nmax_analyses = 1000\nrevision = 1000000"
    study = load(folder, changed(("min_records = 50", kept))).study
    assert study == Study("heart-failure", 50, True, date(2999, 12, 31), 1000, 1_000_000)


def test_an_agreement_whose_shares_are_past_their_day_can_be_read(tmp_path: Path) -> None:
    """They are still there, to be refused at all parties and to be destroyed."""
    case = next(case for case in json.loads(VECTORS.read_text()) if case["name"] == "every key")
    path = tmp_path / "study.toml"
    path.write_text(case["toml"])
    assert load_agreement(path, now=datetime(2027, 12, 1, tzinfo=UTC)).study.keep_until == date(2027, 11, 22)


def test_the_analysed_names_are_those_of_the_features_that_take_part(folder: Path) -> None:
    assert load(folder).analysed_names == load(folder).names
    chosen = 'alpha = 0.1\nfeatures = ["insurer.claims", "hospital.smoker", "hospital.age"]'
    names = ("hospital.age", "hospital.smoker=former", "hospital.smoker=yes", "insurer.claims")
    assert load(folder, changed(("alpha = 0.1", chosen))).analysed_names == names
    by_hand = replace(load(folder), model=Model(0.1, features=("insurer.claims", "hospital.smoker")))
    assert by_hand.analysed_names == names[1:]


def test_a_tolerance_need_only_suit_the_features_that_take_part(folder: Path) -> None:
    path = folder / "study.toml"
    path.write_text(changed(("alpha = 0.1", 'alpha = 0.1\nfeatures = ["hospital.smoker", "insurer.claims"]')))
    asked: list[int] = []
    survey(path, 2, smallest_tolerance=lambda features: asked.append(features) or 0.0)
    assert asked == [3]


def test_a_tolerance_that_cannot_be_reached_names_one_that_can(folder: Path) -> None:
    agreement = load(folder)
    check_tolerance(agreement, 1e-6)
    with pytest.raises(ConfigError, match=r"model.tolerance .* at least 1.3e-06"):
        check_tolerance(agreement, 1.23e-6)


# --- the digest -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        ("[study]", "# a comment\n[study]"),
        ("[0, 120]", "[0.0, 1.2e2]"),
        ("[0, 120]", "[-0.0, 120]"),
        ("1e-6", "0.000001"),
        ("tolerance = 1e-6\nmax_iterations = 1000", "max_iterations = 1000\ntolerance = 1e-6"),
        ('id = 0\nname = "hospital"', 'name = "hospital"\nid = 0'),
        ('sex = ["f", "m"], smoker = ["no", "former", "yes"]', 'smoker = ["no", "former", "yes"], sex = ["f", "m"]'),
        ('["f", "m"]', '[" f ", "m"]'),
        ('["age", "bmi"]', '["age ", "bmi"]'),
        ("https://hospital.example:8440", "https://HOSPITAL.example:8440/"),
        ("certificates/hospital.pem", "keys/../certificates/hospital.pem"),
        ("paillier_bits = 3072", ""),
        ("paillier_bits = 3072", 'paillier_bits = 3072\nkeys = "standard"'),
        ("min_records = 50", ""),
        ("min_records = 50", "keep_shares = false\nrevision = 1"),
        (
            "alpha = 0.1",
            'alpha = 0.1\nfeatures = ["insurer.claims", "insurer.income", "hospital.age", "hospital.bmi", '
            '"hospital.smoker", "hospital.sex=m"]',
        ),
        ("[model]", "[open]\nmodel = 'chosen'\ntable1 = false\n[gate]\nmax_r2 = 0.999\nmin_residual_df = 10\n[model]"),
    ],
)
def test_the_digest_does_not_see_spelling(folder: Path, change: tuple[str, str]) -> None:
    assert load(folder, changed(change)).digest == load(folder).digest


@pytest.mark.parametrize(
    "change",
    [
        ("heart-failure", "heart-failures"),
        ("min_records = 50", "min_records = 51"),
        ("alpha = 0.1", "alpha = 0.10000000000000002"),
        ("standardize = true", "standardize = false"),
        ("iterations = 1000", "iterations = 1001"),
        ("= 3072", "= 2048"),
        ('["age", "bmi"]', '["bmi", "age"]'),
        ('["f", "m"]', '["m", "f"]'),
        ('["f", "m"]', '["F", "m"]'),
        ("[0, 120]", "[0, 121]"),
        ("ranges = { age = [0, 120] }", ""),
        ("[0-9]{9}", "[0-9]{8}"),
        ('"patient_id"', '"person_id"'),
        ('"days"', '"nights"'),
        ("hospital.example:8440", "hospital.example:8443"),
        ("hospital.example:8440", "hospital.example:8440/a"),
        ("certificates/hospital.pem", "certificates/bundle2.pem"),
    ],
)
def test_the_digest_sees_every_change_of_content(folder: Path, change: tuple[str, str]) -> None:
    write_keys(folder, "bundle2")
    original = load(folder).digest
    write_keys(folder, "bundle2", now=datetime.now(UTC))  # another key
    assert load(folder, changed(change)).digest != original


SEVERAL = changed(("alpha = 0.1", "alphas = [1, 2]\nfolds = 5"))


@pytest.mark.parametrize(
    "change",
    [
        ("[1, 2]", "[1, 3]"),
        ("alphas = [1, 2]", "n_alphas = 2"),
        ("alphas = [1, 2]", "n_alphas = 2\nalpha_min_ratio = 0.5"),
        ("folds = 5", "folds = 6"),
        ("folds = 5", 'folds = 5\nrule = "1se"'),
        ("folds = 5", 'folds = 5\nfeatures = ["hospital.age"]'),
    ],
)
def test_the_digest_sees_every_change_of_the_model_but_that_of_the_join_none(
    folder: Path, change: tuple[str, str]
) -> None:
    original, other = load(folder, SEVERAL), load(folder, SEVERAL.replace(*change))
    assert other.digest != original.digest
    assert other.join_digest == original.join_digest != original.digest


@pytest.mark.parametrize(
    "change",
    [
        ("min_records = 50", "min_records = 51"),
        ("min_records = 50", "keep_shares = true"),
        ("min_records = 50", "keep_shares = true\nkeep_until = 2999-12-31"),
        ("min_records = 50", "keep_shares = true\nmax_analyses = 21"),
        ("min_records = 50", "revision = 2"),
        ("= 3072", "= 2048"),
        ("[0, 120]", "[0, 121]"),
        ("certificates/hospital.pem", "certificates/bundle2.pem"),
        *(
            ("[model]", f"[open]\n{key} = {value}\n[model]")
            for key, value in {"model": "'path'", "cv_curve": "true", "cv_r2": "true"}.items()
        ),
        ("[model]", "[open]\ntable1 = true\n[model]"),
        ("[model]", "[open]\nrefused_column = true\n[model]"),
        ("[model]", "[gate]\nmin_residual_df = 11\n[model]"),
        ("[model]", "[gate]\nmin_residual_df = false\n[model]"),
        ("[model]", "[gate]\nmax_parameters_ratio = 0.34\n[model]"),
        ("[model]", "[gate]\nmin_level_count = 11\n[model]"),
        ("[model]", "[gate]\nrare_levels = 'drop'\n[model]"),
        ("[model]", "[gate]\nmax_r2 = 1\n[model]"),
    ],
)
def test_both_digests_see_every_change_of_what_does_not_belong_to_the_model(
    folder: Path, change: tuple[str, str]
) -> None:
    write_keys(folder, "bundle2")
    original, other = load(folder, SEVERAL), load(folder, SEVERAL.replace(*change, 1))
    assert other.digest != original.digest
    assert other.join_digest != original.join_digest


def test_a_penalty_that_is_known_at_the_end_only_is_null_in_the_canonical_form(folder: Path) -> None:
    model = load(folder, SEVERAL).canonical()["model"]
    assert isinstance(model, dict)
    assert (model["alpha"], model["alphas"]) == (None, [2.0, 1.0])
    assert load(folder, SEVERAL.replace("[1, 2]", "[2, 1.0]")).digest == load(folder, SEVERAL).digest


def test_whole_numbers_and_others_of_one_value_have_one_digest(folder: Path) -> None:
    digests = {load(folder, changed(("alpha = 0.1", f"alpha = {one}"))).digest for one in ("1", "1.0", "10e-1", "0x1")}
    assert len(digests) == 1


@pytest.mark.parametrize("case", json.loads(VECTORS.read_text()), ids=lambda case: case["name"])
def test_vector(tmp_path: Path, case: dict[str, str]) -> None:
    path = tmp_path / "study.toml"
    path.write_text(case["toml"])
    agreement = load_agreement(path, now=datetime.fromisoformat(case["now"]))
    assert canonical_json(agreement.canonical()).decode() == case["canonical"]
    assert (agreement.digest, agreement.join_digest) == (case["sha256"], case["join_sha256"])
