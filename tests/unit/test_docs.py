"""The documents against the code: what they list is what there is, and what they show works."""

from __future__ import annotations

import re
import shlex
import tomllib
import typing
from pathlib import Path

import pytest

from pipeline import cli, messages, session
from pipeline.certificates import keygen
from pipeline.config import load_agreement
from pipeline.mpc_runtime import OPENED
from pipeline.psi_states import CONTROLLER, CONTROLLER_TRANSITIONS, THIRD_PARTY, THIRD_PARTY_TRANSITIONS
from pipeline.session import Frame

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
DECISIONS = sorted(ROOT.glob("docs/decisions/*.md"))
MESSAGES = {kind.__name__ for kind in typing.get_args(messages.Message)}
ABOUT = {document: document.read_text(encoding="utf-8") for document in DOCUMENTS}
README, PROTOCOL, LEAKAGE = (ABOUT[ROOT / name] for name in ("README.md", "docs/protocol.md", "docs/leakage.md"))


def table(text: str, heading: str) -> list[tuple[str, ...]]:
    """The rows of the first table below a heading, without the header."""
    section = text.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines[2:]]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


# --- leakage --------------------------------------------------------------------------------------

SHARING = {  # `share_convert.py`: dealer i sends ShareKey to party i+1, ShamirShare to party i+2
    ("controller", "ShareKey", "controller 0"),
    ("third party", "ShareKey", "controller 1"),
    ("third party", "ShamirShare", "controller 0"),
    ("controller", "ShamirShare", "controller 1"),
}


def joining() -> set[tuple[str, str, str]]:
    """Receiver, message and sender of every legal move of the join."""
    at_controller = {(kind.__name__, sender) for (_, kind), (sender, _) in CONTROLLER_TRANSITIONS.items()}
    at_third_party = {(kind.__name__, sender) for (_, kind), (sender, _) in THIRD_PARTY_TRANSITIONS.items()}
    names = {CONTROLLER: "the other controller", THIRD_PARTY: "third party"}
    return {("controller", name, names[sender]) for name, sender in at_controller} | {
        ("third party", name, "each controller") for name, sender in at_third_party if sender == CONTROLLER
    }


def test_every_message_a_party_can_receive_is_in_the_table_of_leakage() -> None:
    rows = table(LEAKAGE, "Messages")
    listed = [(receiver, name.strip("`"), sender) for receiver, name, sender, _ in rows]
    assert sorted(listed) == sorted(joining() | SHARING)
    assert {name for _, name, _ in listed} == MESSAGES
    assert all(says for *_, says in rows)


def test_every_frame_of_a_connection_is_in_the_table_of_leakage() -> None:
    assert {name.strip("`") for _, name, _ in table(LEAKAGE, "On the connections")} == {
        kind.__name__ for kind in typing.get_args(Frame)
    }


def test_every_value_opened_in_step_8_is_in_the_table_of_leakage_with_its_receivers() -> None:
    assert {name.strip("`"): receivers for name, receivers, _ in table(LEAKAGE, "Opened in step 8")} == dict(OPENED)


def test_the_reasons_to_stop_that_travel_say_nothing_beyond_their_name() -> None:
    notice = session.Abort(session.AbortCode.OWN_INPUT, 1, 1)
    assert len(session.encode(notice)) == 6


# --- protocol -------------------------------------------------------------------------------------


def test_the_protocol_names_every_message_in_its_diagram_and_in_a_table() -> None:
    diagram = blocks(PROTOCOL, "mermaid")[0]
    arrows = {
        name for line in diagram.splitlines() if "->>" in line for name in re.findall(r"[A-Z][a-z]+[A-Za-z]+", line)
    }
    assert arrows == MESSAGES
    tables = set(re.findall(r"^\| `(\w+)` \|", PROTOCOL, re.MULTILINE))
    assert tables == MESSAGES


def test_the_protocol_has_eight_steps() -> None:
    assert re.findall(r"^## Step (\d)", PROTOCOL, re.MULTILINE) == list("12345678")


# --- README ---------------------------------------------------------------------------------------


def test_the_agreement_in_the_readme_is_accepted(tmp_path: Path) -> None:
    agreement, local = blocks(README, "toml")
    (tmp_path / "study.toml").write_text(agreement)
    (tmp_path / "party-0.toml").write_text(local)
    for number, name in ((1, "insurer"), (2, "third-party")):
        (tmp_path / f"party-{number}.toml").write_text(f'private_key = "keys/{name}.key"\noutput = "results"\n')
    for number in range(3):
        keygen(tmp_path / "study.toml", number)
    study = load_agreement(tmp_path / "study.toml")
    assert study.names == (
        *("hospital.age", "hospital.bmi", "hospital.sex=m", "hospital.smoker=former", "hospital.smoker=yes"),
        *("insurer.income", "insurer.prior_claims"),
    )
    assert study.outcome_party.name == "hospital"


def test_the_settings_that_the_readme_shows_as_comments_are_settings(tmp_path: Path) -> None:
    _, local = blocks(README, "toml")
    commented = {line.split("=")[0].strip("# ") for line in local.splitlines() if line.startswith("# ")}
    assert commented == {"decimal", "encoding", "missing"}
    assert tomllib.loads(re.sub("^# ", "", local, flags=re.MULTILINE))["missing"] == ["", "NA", "-9"]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_shown_is_one_the_program_takes(document: Path) -> None:
    for line in re.findall(r"^python -m pipeline (.*)$", ABOUT[document], re.MULTILINE):
        assert cli._parser().parse_args(shlex.split(line))


def test_the_readme_shows_every_command() -> None:
    commands = {"run", "fit", "forget", "keygen", "check", "predict", "demo", "experiment"}
    shown = set(re.findall(r"python -m pipeline (\w+)", README)) | {"demo"}  # by scripts/demo
    assert shown == commands
    assert {name.strip("`") for name, _ in table(README, "Commands")} == commands


@pytest.mark.parametrize("script", sorted(set(re.findall(r"scripts/([a-z-]+)", README))))
def test_every_script_the_readme_names_is_there_and_can_be_run(script: str) -> None:
    assert (ROOT / "scripts" / script).stat().st_mode & 0o111


def test_the_states_in_the_readme_are_those_of_the_errors() -> None:
    from pipeline import errors

    states = {
        kind.exit_state for kind in vars(errors).values() if isinstance(kind, type) and hasattr(kind, "exit_state")
    }
    listed = {int(state) for state, _ in table(README, "A real study on three machines") if state.isdigit()}
    assert listed == states | {0, cli.INTERRUPTED}


# --- all documents --------------------------------------------------------------------------------


def anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", ABOUT[document]):
        path, _, place = target.partition("#")
        linked = (document.parent / path).resolve() if path else document
        assert linked.exists(), target
        if place:
            assert place in {anchor(h) for h in re.findall(r"^#+ (.*)$", ABOUT[linked], re.MULTILINE)}, target


@pytest.mark.parametrize("decision", DECISIONS, ids=lambda path: path.name)
def test_a_decision_has_its_number_status_options_and_consequences(decision: Path) -> None:
    text = ABOUT[decision]
    assert text.startswith(f"# {int(decision.name[:4])}. ")
    assert re.search(r"^Status: (proposed|accepted|replaced by \[\d+\])", text, re.MULTILINE)
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["Question", "Options", "Decision", "Consequences"]


def test_decisions_are_numbered_without_gaps() -> None:
    assert [int(decision.name[:4]) for decision in DECISIONS] == list(range(1, len(DECISIONS) + 1))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_names_in_code_type_that_look_like_modules_are_modules(document: Path) -> None:
    for name in re.findall(r"`(?:pipeline/)?(\w+\.py)`", ABOUT[document]):
        assert (ROOT / "pipeline" / name).is_file(), name
