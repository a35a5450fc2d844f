"""A recipe changed in a form: edits, undo, YAML with its comments, and the command that does the same."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from nexa.errors import RecipeError
from nexa.recipe.jsonschema import recipe_json_schema
from nexa.recipe.load import load_recipe
from nexa.recipe.locate import own_recipe_folder
from nexa.tui.forms.fields import form_fields
from nexa.tui.forms.form import Mark, RecipeForm

RECIPE = """\
# What this is for.
method: sft
model: {name: some/model, max_seq_len: 64}

# Rows of the help desk.
data:
  remote_uri: rows.jsonl  # exported on Friday

training:
  max_steps: 32
  seed: 7  # lucky

adapter:
  rank: 8

# Where text comes from.
samples:
  prompts:
    - Who are you?
"""


@pytest.fixture
def form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RecipeForm:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes").mkdir()
    path = tmp_path / "recipes" / "desk.yaml"
    path.write_text(RECIPE)
    return RecipeForm(path, form_fields(recipe_json_schema()))


def _document_of_command(form: RecipeForm) -> dict:
    """The recipe that the equivalent command resolves to, as a shell would read it."""
    program, verb, source, *arguments = shlex.split(form.command())
    assert (program, verb) == ("nexa", "launch")
    return load_recipe(source, overrides=arguments).recipe.document()


def _document_of_yaml(form: RecipeForm) -> dict:
    copy = form.path.with_name("copy.yaml")
    copy.write_text(form.yaml())
    return load_recipe(copy).recipe.document()


def test_values_come_from_the_recipe_else_from_the_default(form):
    assert (form.value("training.max_steps"), form.mark("training.max_steps")) == (32, Mark.RECIPE)
    assert (form.value("training.precision"), form.mark("training.precision")) == ("fp32", Mark.DEFAULT)


def test_an_edit_can_be_undone(form):
    form.set_text("training.max_steps", "20")
    assert (form.value("training.max_steps"), form.mark("training.max_steps")) == (20, Mark.EDITED)
    assert form.undo("training.max_steps")
    assert form.value("training.max_steps") == 32
    assert not form.undo("training.max_steps")


def test_the_recipes_own_value_is_no_edit(form):
    form.set_text("training.max_steps", "20")
    form.set_text("training.max_steps", "32")
    form.set_text("training.precision", "fp32")
    assert form.edits == {}
    assert form.diff() == ""
    assert form.yaml() == RECIPE


EDITS = [
    {"training.max_steps": "20", "optimizer.lr": "1e-4"},
    {"training.seed": ""},
    {"training.max_grad_norm": "null"},
    {"samples.prompts": 'it\'s me: hello, "you"\n# not a comment\n- dash'},
    {"artifacts.labels": "{'a b': x, c: '1'}", "meta": "{ticket: 7}"},
    {"run.name": "trial-1", "scheduler": "local", "data.packing": "false"},
    {"optimizer.scheduler.name": "linear", "optimizer.scheduler.warmup_steps": "5"},
    {"adapter.rank": "4", "adapter.target_modules": "[q_proj]"},
    {"data.remote_uri": "other.jsonl"},
    {"tracking.observers": "tensorboard", "wandb.project": "it's"},
]


@pytest.mark.parametrize("edits", EDITS, ids=lambda edits: ",".join(edits))
def test_command_and_yaml_resolve_to_what_the_form_launches(form, edits):
    for path, text in edits.items():
        form.set_text(path, text)
    document = form.load().recipe.document()
    assert document != load_recipe(form.path).recipe.document()
    assert _document_of_command(form) == document
    assert _document_of_yaml(form) == document


def test_a_section_is_switched_off_and_on(form):
    form.set("adapter", None)
    assert form.value("adapter.rank") is None
    assert not form.is_visible("adapter.rank")
    assert form.load().recipe.adapter is None
    assert _document_of_command(form)["adapter"] is None
    assert "# Where text comes from." in form.yaml()
    assert _document_of_yaml(form)["adapter"] is None
    form.undo("adapter")
    assert form.value("adapter.rank") == 8


def test_a_section_that_an_edit_switched_on_can_be_switched_off(form):
    form.path.write_text(RECIPE.replace("adapter:\n  rank: 8\n", ""))
    form = RecipeForm(form.path, list(form.fields.values()))
    form.set_text("adapter.rank", "4")
    assert form.value("adapter") == {}
    form.set("adapter", None)
    assert form.load().recipe.adapter is None


def test_comments_stay_through_form_yaml_form(form):
    form.set_text("training.max_steps", "20")
    form.set_text("optimizer.lr", "1e-4")
    text = form.yaml()
    for comment in ("# What this is for.", "# Rows of the help desk.", "# exported on Friday", "# lucky"):
        assert comment in text
    written = text.replace("# lucky", "# not so lucky").replace("seed: 7", "seed: 8")
    form.take_yaml(written)
    assert form.value("training.seed") == 8
    assert form.value("training.max_steps") == 20
    assert form.value("optimizer.lr") == 1e-4
    form.set_text("training.max_steps", "21")
    assert form.yaml() == written.replace("max_steps: 20", "max_steps: 21")
    assert _document_of_command(form) == form.load().recipe.document() == _document_of_yaml(form)


def test_a_key_taken_out_of_the_text_falls_back(form):
    form.take_yaml(RECIPE.replace("  seed: 7  # lucky\n", "").replace("adapter:\n  rank: 8\n", ""))
    assert form.value("training.seed") == 42
    assert form.load().recipe.adapter is None
    assert _document_of_command(form) == form.load().recipe.document()


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("max_steps: 32", "max_step: 32", "did you mean 'max_steps'"),
        ("max_steps: 32", "max_steps: many", "must be a whole number"),
        ("training:", "training", "mapping"),
        ("method: sft", "method: sft\nextends: quickstart", "can't be changed in a form"),
    ],
)
def test_text_with_a_problem_changes_nothing(form, before, after, message):
    form.set_text("training.max_steps", "20")
    with pytest.raises(RecipeError) as refused:
        form.take_yaml(RECIPE.replace(before, after))
    assert message in str(refused.value) or "could not find expected ':'" in str(refused.value)
    assert refused.value.problems[0].line is not None
    assert form.edits == {"training.max_steps": 20}


def test_problems_find_their_field(form):
    form.set_text("training.max_steps", "many")
    form.set_text("cluster.num_nodes", "0")
    form.set_text("tracking.observers", "nobody")
    with pytest.raises(RecipeError) as refused:
        form.load()
    found = {form.field_of(problem): problem.message for problem in refused.value.problems}
    assert found["training.max_steps"] == "must be a whole number, not the text 'many'"
    assert found["cluster.num_nodes"] == "must be greater than 0, not 0"
    assert "nobody" in found["tracking.observers"]


def test_a_problem_between_fields_belongs_to_their_section(form):
    form.set_text("training.epochs", "2")
    with pytest.raises(RecipeError) as refused:
        form.load()
    assert [form.field_of(problem) for problem in refused.value.problems] == ["training"]


def test_a_value_of_an_extended_recipe_is_taken_back_with_null(form, tmp_path):
    child = tmp_path / "recipes" / "child.yaml"
    child.write_text("extends: desk  # all but the length\ntraining:\n  max_steps: 5\n")
    form = RecipeForm(child, list(form.fields.values()))
    assert form.value("training.seed") == 7
    form.set_text("training.seed", "")
    form.set("adapter", None)
    assert "adapter: null" in form.yaml()
    assert _document_of_command(form) == form.load().recipe.document() == _document_of_yaml(form)


def test_paths_typed_in_count_from_the_current_folder(form, tmp_path):
    form.set_text("data.remote_uri", "other.jsonl")
    assert form.load().recipe.data.remote_uri == str(tmp_path / "other.jsonl")
    assert str(tmp_path / "other.jsonl") in form.yaml()


@pytest.mark.parametrize("path", sorted(own_recipe_folder().glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_recipes_survive_an_edit_line_by_line(path):
    form = RecipeForm(path, form_fields(recipe_json_schema()))
    form.set_text("training.max_steps", "12345")
    form.set_text("training.epochs", "")
    before, after = path.read_text().splitlines(), form.yaml().splitlines()
    assert [line for line in after if line not in before and "12345" not in line and line != "training:"] == []
    assert [line for line in before if line not in after and "max_steps" not in line and "epochs" not in line] == []
    assert _document_of_command(form) == form.load().recipe.document()
