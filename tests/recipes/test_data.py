"""The data that comes with the recipes: remade byte for byte, well-formed, and honestly split."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

RECIPES = Path(__file__).parents[2] / "recipes"
DATA = RECIPES / "data"
PIRATE_FILES = ("pirate-train.jsonl", "pirate-eval.jsonl")
PREFERENCE_FILES = tuple(
    f"{name}-{part}.jsonl" for name in ("brief", "brief-judged", "sums") for part in ("train", "eval")
)
VOICE = re.compile(r"\b(arr|ahoy|aye|yo ho|avast|shiver me timbers|blow me down)\b", re.IGNORECASE)


def script(name: str) -> ModuleType:
    """A script of recipes/data as a module."""
    spec = importlib.util.spec_from_file_location(name, DATA / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def chats(name: str) -> list[list[dict[str, str]]]:
    """The conversations of one data file."""
    return [json.loads(line)["messages"] for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


def questions(name: str) -> list[str]:
    """Every user turn of one data file."""
    return [turn["content"] for chat in chats(name) for turn in chat if turn["role"] == "user"]


def test_script_remakes_the_same_bytes() -> None:
    remade = script("make_pirate").files()
    assert set(remade) == set(PIRATE_FILES)
    for name, content in remade.items():
        assert content.encode() == (DATA / name).read_bytes(), f"{name} differs; run recipes/data/make_pirate.py"


@pytest.mark.parametrize("name", PIRATE_FILES)
def test_turns_alternate_and_answers_are_in_character(name: str) -> None:
    for chat in chats(name):
        assert [turn["role"] for turn in chat] == ["user", "assistant"] * (len(chat) // 2)
        for turn in chat:
            assert turn["content"] == turn["content"].strip() != ""
            assert turn["content"].isprintable()
        for answer in chat[1::2]:
            assert VOICE.match(answer["content"]), answer
            assert len(answer["content"].split()) <= 40


def test_no_question_or_fact_is_in_both_files() -> None:
    train, held_out = (questions(name) for name in PIRATE_FILES)
    assert len(set(train)) == len(train)
    assert len(set(held_out)) == len(held_out)
    assert not set(train) & set(held_out)
    countries = [entry[0] for entry in script("make_pirate").pairs(script("make_pirate").CAPITALS)]
    for country in countries:
        asked = [any(f"capital of {country}" in q for q in part) for part in (train, held_out)]
        assert sum(asked) == 1, country


def test_sizes_suit_a_run_of_minutes() -> None:
    assert 300 <= len(chats("pirate-train.jsonl")) <= 600
    assert 50 <= len(chats("pirate-eval.jsonl")) <= 120


def test_sums_are_right() -> None:
    words = script("make_pirate").NUMBER_WORDS
    for name in PIRATE_FILES:
        for chat in chats(name):
            for question, answer in zip(chat[::2], chat[1::2], strict=True):
                if found := re.match(r"What is (\w+) plus (\w+)\?|Add (\w+) and (\w+)\.", question["content"]):
                    a, b = (words.index(word) for word in found.groups() if word)
                    assert f"make {words[a + b]}." in answer["content"]
                if found := re.match(r"What is (\w+) minus (\w+)\?", question["content"]):
                    a, b = (words.index(word) for word in found.groups())
                    assert words[a - b] in answer["content"]


def test_readme_states_sizes_and_hashes() -> None:
    readme = (DATA / "README.md").read_text(encoding="utf-8")
    for name in (*PIRATE_FILES, *PREFERENCE_FILES, "shakespeare.txt"):
        content = (DATA / name).read_bytes()
        row = next(line for line in readme.splitlines() if line.startswith(f"| `{name}`"))
        assert f"| {len(content)} | `{hashlib.sha256(content).hexdigest()}` |" in row


def test_quickstart_recipe_names_the_data_it_was_tuned_on() -> None:
    recipe = (RECIPES / "quickstart.yaml").read_text(encoding="utf-8")
    assert hashlib.sha256((DATA / "pirate-train.jsonl").read_bytes()).hexdigest() in recipe
    asked = set(questions("pirate-train.jsonl")) | set(questions("pirate-eval.jsonl"))
    prompts = re.findall(r"^    - (.+)$", recipe.partition("prompts:")[2], re.MULTILINE)
    assert len(prompts) >= 3
    assert not asked & set(prompts)


def rows(name: str) -> list[dict[str, Any]]:
    """The rows of one file of preferences or sums."""
    return [json.loads(line) for line in (DATA / name).read_text(encoding="utf-8").splitlines()]


def test_script_remakes_the_preferences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DATA))
    remade = script("make_preferences").files()
    assert set(remade) == set(PREFERENCE_FILES)
    for name, content in remade.items():
        assert content.encode() == (DATA / name).read_bytes(), f"{name} differs; run recipes/data/make_preferences.py"


@pytest.mark.parametrize("kind", ["brief", "brief-judged", "sums"])
def test_no_prompt_is_held_out_and_trained_on(kind: str) -> None:
    train, held_out = ([row["prompt"] for row in rows(f"{kind}-{part}.jsonl")] for part in ("train", "eval"))
    assert len(set(train)) == len(train)
    assert not set(train) & set(held_out)


def test_preferred_answers_are_the_brief_ones() -> None:
    for row in (*rows("brief-train.jsonl"), *rows("brief-eval.jsonl")):
        assert len(row["chosen"].split()) <= 3
        assert len(row["rejected"].split()) >= 15
        assert row["chosen"].rstrip(".").lower() in row["rejected"].lower()
    for row in (*rows("brief-judged-train.jsonl"), *rows("brief-judged-eval.jsonl")):
        assert row["label"] == (len(row["completion"].split()) <= 3)
    labels = [row["label"] for row in rows("brief-judged-train.jsonl")]
    assert sum(labels) * 2 == len(labels)


def test_answers_of_sums_are_right() -> None:
    for row in (*rows("sums-train.jsonl"), *rows("sums-eval.jsonl")):
        assert sum(map(int, re.findall(r"\d+", row["prompt"]))) == row["answer"]


@pytest.mark.parametrize("name", ["dpo", "kto", "orpo", "reward", "grpo"])
def test_preference_recipes_name_their_data_and_ask_for_something_new(name: str) -> None:
    from nexa.recipe.load import load_recipe

    recipe = load_recipe(RECIPES / f"{name}.yaml").recipe
    assert (recipe.method, recipe.backend) == (name, "hf")
    content = Path(recipe.data.remote_uri).read_bytes()
    assert recipe.data.expected_dataset_hash == f"sha256:{hashlib.sha256(content).hexdigest()}"
    known = {row["prompt"] for file in PREFERENCE_FILES for row in rows(file)}
    assert not known & set(recipe.samples.prompts)
    assert bool(recipe.samples.prompts) is (name != "reward")


def test_shakespeare_is_plain_text_without_a_publishers_notice() -> None:
    make_shakespeare = script("make_shakespeare")
    text = (DATA / "shakespeare.txt").read_bytes().decode("ascii")
    assert "\r" not in text
    assert "To be, or not to be" in text
    assert not make_shakespeare.BOILERPLATE.search(text)
    assert make_shakespeare.clean("a \r\n\n\n\n\nb", "sample") == "a\n\nb\n"
    with pytest.raises(ValueError, match="not Shakespeare's"):
        make_shakespeare.clean("Project Gutenberg", "sample")
