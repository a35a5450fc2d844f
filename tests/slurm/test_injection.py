"""Hostile text in every field that reaches Slurm, a shell, the environment or a path: it is refused, or stays text."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from nexa.errors import UserError
from nexa.runs.state import State
from nexa_slurm.options import SlurmOptions

# {canary} is a file that must never come to be.
HOSTILE = [
    "$(touch {canary})",
    "`touch {canary}`",
    "; touch {canary}",
    "&& touch {canary}",
    "|| touch {canary}",
    "| touch {canary}",
    "& touch {canary} &",
    "\ntouch {canary}\n",
    "\r\ntouch {canary}",
    "x\n#SBATCH --wrap='touch {canary}'",
    "x\n#!/bin/sh\ntouch {canary}",
    "'; touch {canary}; '",
    '"; touch {canary}; "',
    "'$(touch {canary})'",
    '"$(touch {canary})"',
    "\\'; touch {canary} #",
    "${{IFS}}touch${{IFS}}{canary}",
    "$((touch {canary}))",
    "<(touch {canary})",
    ">{canary}",
    ">>{canary}",
    "2>{canary}",
    "x >{canary} y",
    "--wrap=touch {canary}",
    "--wrap touch {canary}",
    "-o {canary}",
    "--output={canary}",
    "--error={canary}",
    "--chdir=$(touch {canary})",
    "--export=ALL,BASH_ENV={canary}",
    "--get-user-env --wrap=touch {canary}",
    "x --output={canary}",
    "a,b;touch {canary}",
    "%j$(touch {canary})",
    "../../../..{canary}",
    "{canary}",
    "x\x00touch {canary}",
    "x\x1b]0;touch {canary}\x07",
    "x\x85touch {canary}",
    "x\u2028touch {canary}",
    "*; touch {canary}",
    "~root; touch {canary}",
    "!touch {canary}",
    "() {{ :; }}; touch {canary}",
]


def fields() -> dict[str, object]:
    """Every text field of the section, as a function of the text."""
    return {
        **{
            name: (lambda text, name=name: {name: text})
            for name in (
                "partition",
                "account",
                "qos",
                "constraint",
                "gres",
                "reservation",
                "mail_user",
                "python",
                "host",
            )
        },
        "ssh config": lambda text: {"host": "login", "ssh_config": text},
        "code folder": lambda text: {"host": "login", "code_folder": text},
        "modules": lambda text: {"modules": [text]},
        "options": lambda text: {"options": [text]},
        "comment option": lambda text: {"options": [f"--hint={text}"]},
        "environment name": lambda text: {"environment": {text: "x"}},
        "environment value": lambda text: {"environment": {"HOSTILE": text}},
        "image": lambda text: {"container": {"image": text}},
        "mounts": lambda text: {"container": {"image": "i", "mounts": [text]}},
        "container python": lambda text: {"container": {"image": "i", "python": text}},
        "container options": lambda text: {"container": {"image": "i", "options": [text]}},
    }


def accepted(section: dict) -> bool:
    """Whether the section is a valid one."""
    try:
        SlurmOptions.model_validate(section)
    except ValidationError:
        return False
    return True


def test_there_are_forty_hostile_texts():
    assert len(set(HOSTILE)) >= 40


@pytest.mark.parametrize("field", sorted(fields()))
def test_control_characters_are_refused_everywhere(field):
    for text in HOSTILE:
        if any(ord(character) < 32 or 127 <= ord(character) < 160 for character in text):
            assert not accepted(fields()[field](text)), text


@pytest.mark.parametrize("field", ["partition", "account", "qos", "reservation", "modules", "environment name", "host"])
def test_names_are_nothing_but_names(field):
    assert not any(accepted(fields()[field](text.format(canary="/tmp/canary"))) for text in HOSTILE)


def test_options_that_nexa_decides_are_refused_with_the_key_to_set():
    for option, key in (("--nodes=3", "cluster.num_nodes"), ("--tim=5", "cluster.time_limit"), ("--wrap=x", "")):
        with pytest.raises(ValidationError) as caught:
            SlurmOptions.model_validate({"options": [option]})
        assert "decided by Nexa" in str(caught.value)
        assert key in str(caught.value)


def test_what_is_accepted_stays_text_in_real_jobs(runs, tmp_path, monkeypatch):
    """One job carries all accepted texts in its workers' environment, others one each in the options of sbatch."""
    canary = tmp_path / "canary"
    texts = [text.format(canary=canary) for text in HOSTILE]
    values = {f"HOSTILE_{index}": text for index, text in enumerate(texts)}
    kept = {name: text for name, text in values.items() if accepted({"environment": {name: text}})}
    assert len(kept) > 30
    run = runs.launch(slurm={"environment": kept}, steps=10_000, step_seconds=0.05)
    runs.await_step(run, 1)
    pid = run.attempts[0].read("workers/0")["pid"]
    entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    assert {f"{name}={text}".encode() for name, text in kept.items()} <= set(entries)
    runs.slurm("scancel", runs.job_id(run))
    runs.await_end(run)
    submitted = 0
    for field, section in fields().items():
        for text in texts:
            if field in (
                "environment value",
                "image",
                "mounts",
                "container python",
                "ssh config",
                "code folder",
            ) or not accepted(section(text)):
                continue
            submitted += 1
            # Slurm refuses most of them.
            with contextlib.suppress(UserError):
                runs.launch(slurm={"options": ["--hold"], **section(text)}, steps=1)
    assert submitted > 10
    assert not canary.exists()


@pytest.mark.parametrize("folder", ["a b", "$(touch canary)", "%j %x", "quote'\"", "semi;colon", "back\\slash"])
def test_run_folders_may_have_any_name(cluster, tmp_path, folder):
    from slurm_runs import SlurmRuns

    root = tmp_path / folder
    root.mkdir()
    made = SlurmRuns(root, cluster)
    if "\\" in folder:
        # Slurm knows no way to write such a name.
        with pytest.raises(UserError, match="backslash"):
            made.launch(steps=2)
        return
    try:
        run = made.launch(steps=2)
        assert made.await_end(run).state is State.COMPLETED
        assert json.loads((run.path / "attempts/1/result.json").read_text())["step"] == 2
    finally:
        made.end_all()
    assert not list(tmp_path.rglob("canary"))
