"""Fields of the form: made from the JSON Schema, each with the control that fits its type."""

from __future__ import annotations

import pytest

from nexa.recipe.jsonschema import recipe_json_schema
from nexa.recipe.render import flow_text
from nexa.tui.forms.fields import HIDDEN, Control, Field, form_fields
from nexa.tui.forms.text import from_text, to_text


@pytest.fixture(scope="module")
def fields() -> dict[str, Field]:
    return {field.path: field for field in form_fields(recipe_json_schema())}


@pytest.mark.parametrize(
    ("path", "control", "default"),
    [
        ("training.max_steps", Control.INTEGER, None),
        ("optimizer.lr", Control.NUMBER, 3e-4),
        ("training.precision", Control.SELECT, "fp32"),
        ("data.packing", Control.SWITCH, True),
        ("data.remote_uri", Control.TEXT, None),
        ("samples.prompts", Control.LIST, []),
        ("adapter", Control.SECTION, None),
        ("adapter.target_modules", Control.YAML, "all-linear"),
        ("meta", Control.YAML, {}),
        ("optimizer.scheduler.warmup_steps", Control.INTEGER, 0),
    ],
)
def test_each_type_has_its_control(fields, path, control, default):
    assert (fields[path].control, fields[path].default) == (control, default)


def test_every_leaf_of_the_recipe_is_a_field_with_its_description(fields):
    from nexa.recipe.schema import Recipe

    for path in Recipe.leaf_paths():
        if path.partition(".")[0] not in HIDDEN:
            assert any(name == path or name.startswith(f"{path}.") for name in fields), path
    assert all(field.about for field in fields.values() if field.control is not Control.SECTION)
    assert "Optimizer steps" in fields["training.max_steps"].about


def test_a_list_of_numbers_knows_its_members(fields):
    assert fields["optimizer.betas"].items == "number"


def test_plugin_sections_are_fields_too():
    schema = recipe_json_schema()
    schema["properties"]["echo"] = {
        "type": "object",
        "properties": {
            "delay_seconds": {"type": "number", "default": 0.0, "description": "Seconds to wait in every step."},
            "loud": {"anyOf": [{"type": "boolean"}, {"type": "null"}], "default": None, "description": "Noise."},
            "mode": {"$ref": "#/$defs/echo.Mode", "default": "a", "description": "Mode."},
        },
    }
    schema["$defs"]["echo.Mode"] = {"enum": ["a", "b"], "type": "string"}
    fields = {field.path: field for field in form_fields(schema)}
    assert fields["echo.delay_seconds"].control is Control.NUMBER
    assert fields["echo.delay_seconds"].about == "Seconds to wait in every step."
    assert fields["echo.loud"].choices == (True, False)
    assert fields["echo.mode"].choices == ("a", "b")


def test_known_names_turn_text_into_a_choice():
    fields = {f.path: f for f in form_fields(recipe_json_schema(), choices={"scheduler": ["local", "slurm"]})}
    assert fields["scheduler"].control is Control.SELECT
    assert fields["scheduler"].choices == ("local", "slurm")


def test_names_come_from_the_installed_plugins():
    from nexa.plugins import get_host
    from nexa.tui.forms.names import known_names

    names = known_names(get_host())
    assert "torch" in names["backend"]
    assert "local" in names["scheduler"]
    assert "sft" in names["method"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("training.max_steps", 20),
        ("optimizer.lr", 1e-4),
        ("optimizer.betas", [0.9, 0.999]),
        ("samples.prompts", ["Who are you?", 'a: "b", c', "# no comment", "- x"]),
        ("data.remote_uri", "hf:org/data"),
        ("data.remote_uri", "1e-4"),
        ("data.packing", False),
        ("training.precision", "bf16"),
        ("adapter.target_modules", ["q_proj", "v_proj"]),
        ("adapter.target_modules", "all-linear"),
        ("meta", {"ticket": "7", "who": {"name": "Ann, B"}}),
    ],
)
def test_text_of_a_value_reads_back_to_it(fields, path, value):
    assert from_text(fields[path], to_text(fields[path], value)) == value


def test_text_that_is_no_number_stays_text_for_validation(fields):
    assert from_text(fields["training.max_steps"], "many") == "many"
    assert from_text(fields["training.max_steps"], " ") is None
    assert from_text(fields["optimizer.lr"], ".inf") == ".inf"
    assert from_text(fields["meta"], "{a: ") == "{a:"


@pytest.mark.parametrize(
    "value",
    ["", " a", "a ", "null", "true", "1", "1e5", "~", "a: b", "a #b", "-x", "=", "é", "\x1b[0m", "x:", "[", "a,b"],
)
def test_flow_text_reads_back_as_an_override(value):
    from nexa.recipe.load import parse_override

    assert parse_override(f"run.name={flow_text(value)}")[1].plain() == value
    assert parse_override(f"run.name={flow_text([value, {'k': value}])}")[1].plain() == [value, {"k": value}]
