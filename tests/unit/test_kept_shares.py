"""The folder of kept shares: what is in it, who may read it, and what of it is never seen."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import stat
from dataclasses import replace

import numpy as np
import pytest
from sharing import Study as Sharing
from sharing import interpolate, seeded

from pipeline import kept_shares
from pipeline.agreement import Agreement, Join, Model, Party, Study
from pipeline.errors import ConfigError, SharesMissing
from pipeline.field import FIELD_127
from pipeline.kept_shares import About, KeptShares, NewShares, ShareWriter, UnnamedFile, destroy, find
from pipeline.share_convert import ControllerSharing, ThirdPartySharing

AGREEMENT = Agreement(
    Study("small", keep_shares=True),
    (
        Party(0, "hospital", "controller", "https://h:1", (b"h",), ("id",), features=("x",), outcome="days"),
        Party(1, "insurer", "controller", "https://i:1", (b"i",), ("id",), features=("a", "b", "c")),
        Party(2, "third-party", "third-party", "https://t:1", (b"t",)),
    ),
    Join(),
    Model(alpha=0.1),
)
ABOUT = About(
    study="small",
    revision=1,
    party=0,
    join="ab" * 32,
    join_digest=AGREEMENT.join_digest,
    field=FIELD_127.name,
    records=40,
    widths=(2, 3),
    exponents=(40, 40, 39, 38, 43),
    offsets=(1 << 70, -3),
    two_valued=((0.0, 1.5), None),
    read=50,
    dropped={"x": 10},
    created="2026-11-28T12:00:00Z",
    keep_until=None,
    analyses=0,
    opened=0,
    sha256="",
)


def rows(seed=1, records=40):
    return FIELD_127.from_ints(np.random.default_rng(seed).integers(0, 1 << 60, (records, 5)).astype(object) ** 2)


def written(folder, shares, about=ABOUT) -> NewShares:
    content = UnnamedFile.inside(folder)
    writer = ShareWriter(content, len(shares), 5, FIELD_127)
    for piece in np.split(shares, [7, 8]):
        writer(piece)
    return NewShares(folder, content, replace(about, sha256=writer.end()))


def keep(folder, shares=None, about=ABOUT) -> KeptShares:
    new = written(folder, rows() if shares is None else shares, about)
    new.count(replace(new.statement, analyses=1, opened=18))
    new.content.close()
    return find(folder, AGREEMENT, about.party)


# What is kept


def test_shares_come_back_as_they_were_written(tmp_path):
    kept = keep(tmp_path)
    assert (np.load(tmp_path / "shares" / f"{ABOUT.join}.npy") == rows()).all()
    assert kept.about == replace(ABOUT, analyses=1, opened=18, sha256=kept.about.sha256)
    assert kept.statement.join == b"\xab" * 32
    assert kept.about.sha256 == hashlib.sha256((tmp_path / "shares" / kept.about.file).read_bytes()).hexdigest()


@pytest.mark.parametrize("folds", [1, 3])
@pytest.mark.parametrize("step", [1, 5, 1000])
def test_the_gram_matrices_of_kept_shares_are_those_of_their_rows(tmp_path, monkeypatch, folds, step):
    monkeypatch.setattr(kept_shares, "CHUNK", 5 * step)
    z = np.concatenate([np.ones((40, 1), object), FIELD_127.to_ints(rows())], axis=1)
    share = keep(tmp_path).gram(folds)
    assert (share.folds, share.records) == (folds, 40)
    assert (FIELD_127.to_ints(share.gram) == [z[i::folds].T.dot(z[i::folds]) % FIELD_127.p for i in range(folds)]).all()


def test_the_share_of_the_third_party_has_neither_scales_nor_offsets(tmp_path):
    about = replace(ABOUT, party=2, exponents=None, offsets=None, two_valued=None, read=0, dropped={})
    assert keep(tmp_path, about=about).about.exponents is None


def play(folder, ones=False, n=400):
    """Step 7 at all parties, with shares kept by each in a folder of its own; the study and the kept shares."""
    values = {0: np.ones((n, 2), np.int64) if ones else np.arange(2 * n).reshape(n, 2), 1: np.ones((n, 3), np.int64)}
    study = Sharing(values, part_bytes=5 * 16 * 90, folds=2)
    contents = {party: UnnamedFile.inside(folder / str(party)) for party in range(3)}
    writers = {party: ShareWriter(contents[party], n, 5, FIELD_127) for party in range(3)}
    for party in (0, 1):
        study.roles[party] = ControllerSharing(
            party,
            study.settings[party],
            *study.inputs[party],
            seeded(f"study/{party}"),
            part_bytes=study.part_bytes,
            keep=writers[party],
        )
    study.roles[2] = ThirdPartySharing(study.settings[2], keep=writers[2])
    results = study.play()
    kept = []
    for party in range(3):
        about = replace(ABOUT, party=party, records=n, sha256=writers[party].end())
        NewShares(folder / str(party), contents[party], about).count(about.statement)
        kept.append(find(folder / str(party), AGREEMENT, party))
    return study, results, kept


def test_what_each_party_keeps_of_step_7_gives_the_same_gram_matrices_again(tmp_path):
    study, results, kept = play(tmp_path, n=40)
    for party in range(3):
        assert (kept[party].gram(2).gram == results[party].gram).all()
    whole = {party: FIELD_127.to_ints(kept[party].gram(1).total) for party in range(3)}
    assert (interpolate(FIELD_127, whole) == study.gram).all()


@pytest.mark.parametrize("party", [0, 1, 2])
def test_one_partys_folder_says_nothing_whatever_the_values(tmp_path, party):
    """Chi-square with 15 degrees of freedom on the top bits; keys are fixed, and so is the outcome."""
    _, _, kept = play(tmp_path, ones=True)
    shares = FIELD_127.to_ints(np.load(tmp_path / str(party) / "shares" / kept[party].about.file)).ravel()
    counts = np.bincount([share >> 123 for share in shares], minlength=16)
    expected = len(shares) / 16
    assert ((counts - expected) ** 2 / expected).sum() < 50
    assert len(set(shares)) == len(shares)


def test_the_folders_of_two_parties_open_the_table(tmp_path):
    study, _, kept = play(tmp_path, n=40)
    for pair in ((0, 1), (0, 2), (1, 2)):
        files = {party: np.load(tmp_path / str(party) / "shares" / kept[party].about.file) for party in pair}
        shares = {party: FIELD_127.to_ints(file) for party, file in files.items()}
        assert (interpolate(FIELD_127, shares) == study.table).all()


# Who may read it


def test_the_folder_and_its_files_are_for_their_owner_alone(tmp_path):
    (tmp_path / "shares").mkdir(mode=0o755)
    old = os.umask(0)
    try:
        keep(tmp_path)
    finally:
        os.umask(old)
    folder = tmp_path / "shares"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()] == [0o600, 0o600]


@pytest.mark.parametrize("which", [".", "kept.json", f"{ABOUT.join}.npy"])
def test_shares_that_others_may_read_are_not_used(tmp_path, which):
    keep(tmp_path)
    (tmp_path / "shares" / which).chmod(0o740)
    with pytest.raises(SharesMissing, match="by others"):
        find(tmp_path, AGREEMENT, 0)


def test_nothing_shows_offsets_or_values(tmp_path):
    kept = keep(tmp_path)
    assert str(1 << 70) not in repr(kept) and "1.5" not in repr(kept)


# What is never seen


def test_a_join_that_is_not_over_leaves_nothing(tmp_path):
    content = UnnamedFile.inside(tmp_path)
    writer = ShareWriter(content, 40, 5, FIELD_127)
    writer(rows()[:30])
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="missing"):
        writer.end()
    content.close()
    assert not list(tmp_path.iterdir())


def test_shares_are_seen_only_when_they_are_counted(tmp_path):
    new = written(tmp_path, rows())
    assert not list(tmp_path.iterdir())
    with pytest.raises(SharesMissing, match="no shares are kept"):
        find(tmp_path, AGREEMENT, 0)
    new.count(new.statement)
    find(tmp_path, AGREEMENT, 0)


def test_until_new_shares_are_counted_the_older_ones_are_there(tmp_path, monkeypatch):
    keep(tmp_path)
    new = written(tmp_path, rows(2), replace(ABOUT, join="cd" * 32))
    assert find(tmp_path, AGREEMENT, 0).about.join == ABOUT.join

    def fails(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", fails)
        with pytest.raises(ConfigError, match="No space left"):
            new.count(new.statement)
    assert find(tmp_path, AGREEMENT, 0).gram(1).records == 40
    new.count(new.statement)
    assert find(tmp_path, AGREEMENT, 0).about.join == "cd" * 32
    assert {file.name for file in (tmp_path / "shares").iterdir()} == {"kept.json", f"{'cd' * 32}.npy"}


def test_a_file_system_that_cannot_name_an_open_file_gets_a_copy(tmp_path, monkeypatch):
    def fails(*_, **__):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", fails)
    kept = keep(tmp_path)
    assert kept.gram(1).records == 40
    assert stat.S_IMODE((tmp_path / "shares" / kept.about.file).stat().st_mode) == 0o600


def write(content: UnnamedFile) -> None:
    ShareWriter(content, 40, 5, FIELD_127)(rows())


def test_another_process_can_write_the_file_and_end(tmp_path):
    content = UnnamedFile.inside(tmp_path)
    process = multiprocessing.get_context("spawn").Process(target=write, args=(content,))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    content.link(tmp_path / "shares.npy")
    assert (np.load(tmp_path / "shares.npy") == rows()).all()


def test_rows_that_do_not_belong_to_the_table_are_not_written(tmp_path):
    writer = ShareWriter(UnnamedFile.inside(tmp_path), 3, 5, FIELD_127)
    for wrong in (rows(records=4), FIELD_127.zeros(1, 4), np.zeros((1, 5, 3), np.uint64)):
        with pytest.raises(ValueError, match="belong"):
            writer(wrong)


# Counts


def test_a_count_is_there_after_it_and_the_shares_are_the_same(tmp_path):
    kept = keep(tmp_path)
    kept.count(replace(kept.statement, analyses=5, opened=90))
    again = find(tmp_path, AGREEMENT, 0)
    assert (again.about.analyses, again.about.opened) == (5, 90)
    assert (again.gram(1).gram == kept.gram(1).gram).all()


def test_a_count_that_cannot_be_written_is_an_error_and_leaves_the_older_one(tmp_path, monkeypatch):
    kept = keep(tmp_path)

    def fails(_):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fails)
        with pytest.raises(ConfigError, match="Input/output error"):
            kept.count(replace(kept.statement, analyses=5))
    assert find(tmp_path, AGREEMENT, 0).about.analyses == 1
    assert len(list((tmp_path / "shares").iterdir())) == 2


# What is not used


def test_shares_of_another_study_or_party_are_not_used(tmp_path):
    keep(tmp_path)
    with pytest.raises(SharesMissing, match="of the study small, not of other"):
        find(tmp_path, replace(AGREEMENT, study=replace(AGREEMENT.study, name="other")), 0)
    with pytest.raises(SharesMissing, match="those of party 0"):
        find(tmp_path, AGREEMENT, 1)
    with pytest.raises(ConfigError, match="shares of the study small"):
        kept_shares.refuse_other_study(tmp_path, "other")
    kept_shares.refuse_other_study(tmp_path, "small")


def test_a_changed_byte_is_noticed(tmp_path):
    kept = keep(tmp_path)
    file = tmp_path / "shares" / kept.about.file
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(SharesMissing, match="not as they were written"):
        kept.gram(1)


@pytest.mark.parametrize(
    "change",
    [
        {"records": 41},
        {"widths": [2, 2]},
        {"widths": "x"},
        {"analyses": -1},
        {"join": "ab"},
        {"join_digest": "zz"},
        {"field": "2^61-1"},
        {"exponents": [1]},
        {"more": 1},
        {"offsets": {}},
        {"two_valued": [None]},
    ],
    ids=str,
)
def test_what_does_not_belong_together_is_no_share(tmp_path, change):
    keep(tmp_path)
    file = tmp_path / "shares" / "kept.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(SharesMissing):
        find(tmp_path, AGREEMENT, 0).gram(1)


def test_shares_written_by_another_version_are_not_guessed_at(tmp_path):
    keep(tmp_path)
    file = tmp_path / "shares" / "kept.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": 2}))
    with pytest.raises(SharesMissing, match="another version"):
        find(tmp_path, AGREEMENT, 0)


# Forgetting


def test_destroyed_shares_were_overwritten_and_are_gone(tmp_path):
    kept = keep(tmp_path)
    spy = (tmp_path / "shares" / kept.about.file).open("rb")
    words = destroy(tmp_path, "small")
    assert not (tmp_path / "shares").exists()
    assert not any(spy.read()) and spy.tell() > 40 * 5 * 16
    spy.close()
    assert "40 matched records in 5 columns" in words and "backup" in words
    with pytest.raises(SharesMissing):
        find(tmp_path, AGREEMENT, 0)


def test_where_nothing_is_kept_nothing_is_destroyed_and_that_is_said(tmp_path):
    assert "nothing to destroy" in destroy(tmp_path, "small")
    keep(tmp_path)
    assert "of the study small stay" in destroy(tmp_path, "other")
    find(tmp_path, AGREEMENT, 0)


def test_damaged_shares_can_be_destroyed(tmp_path):
    keep(tmp_path)
    (tmp_path / "shares" / "kept.json").write_text("{")
    assert destroy(tmp_path, "small").startswith("Destroyed")
    assert not (tmp_path / "shares").exists()


def test_what_a_link_in_the_folder_leads_to_is_left_alone(tmp_path):
    keep(tmp_path)
    outside = tmp_path / "outside"
    outside.write_text("mine")
    (tmp_path / "shares" / "link").symlink_to(outside)
    destroy(tmp_path, "small")
    assert outside.read_text() == "mine" and not (tmp_path / "shares").exists()


def test_of_two_sessions_with_the_same_counts_one_is_refused(tmp_path):
    keep(tmp_path)
    one, other = (find(tmp_path, AGREEMENT, 0) for _ in range(2))
    counted = replace(one.statement, analyses=2, opened=36)
    one.count(counted)
    with pytest.raises(SharesMissing, match="another session"):
        other.count(counted)
    assert find(tmp_path, AGREEMENT, 0).about.analyses == 2


def test_counts_of_an_earlier_join_are_not_written_over_a_new_one(tmp_path):
    old = keep(tmp_path)
    keep(tmp_path, about=replace(ABOUT, join="cd" * 32))
    with pytest.raises(SharesMissing, match="another session"):
        old.count(replace(old.statement, analyses=2, opened=36))
    assert find(tmp_path, AGREEMENT, 0).about.join == "cd" * 32


def test_the_file_that_gets_a_name_is_the_one_that_was_written(tmp_path):
    """Not a copy: what is left of a copied one on the disk would not be overwritten by `destroy`."""
    content = UnnamedFile.inside(tmp_path)
    content.file.write(b"share")
    content.link(tmp_path / "named")
    assert os.fstat(content.file.fileno()).st_ino == (tmp_path / "named").stat().st_ino
    assert (tmp_path / "named").read_bytes() == b"share"


def test_a_copy_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    content = UnnamedFile.inside(tmp_path)
    monkeypatch.setattr(kept_shares.os, "link", full)
    monkeypatch.setattr(kept_shares.shutil, "copyfileobj", full)
    with pytest.raises(OSError, match="No space left"):
        content.link(tmp_path / "named")
    assert not list(tmp_path.iterdir())


def test_shares_that_cannot_be_counted_are_not_left_and_those_before_stay(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    written(tmp_path, rows()).count(ABOUT.statement)
    before = {path.name: path.read_bytes() for path in (tmp_path / "shares").iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(kept_shares.os, "replace", full)
        with pytest.raises(ConfigError, match=r"cannot be written to .*/shares"):
            written(tmp_path, rows(2), replace(ABOUT, join="cd" * 32)).count(ABOUT.statement)
    assert {path.name: path.read_bytes() for path in (tmp_path / "shares").iterdir()} == before
