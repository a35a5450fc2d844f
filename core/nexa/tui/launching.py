"""What the Launch screen does off the UI thread: check a form, plan it, start it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nexa.errors import NexaError, Problem, RecipeError
from nexa.tui.threads import defects_told

if TYPE_CHECKING:
    from nexa.plan import Plan
    from nexa.recipe.catalog import CatalogEntry
    from nexa.runs.store import Run
    from nexa.tui.forms.fields import Field
    from nexa.tui.forms.form import RecipeForm
    from nexa.tui.services import Services


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What a form stands for: its problems by field or section ("" for the rest), its texts, its command."""

    problems: Mapping[str, Sequence[Problem]]
    before: str
    after: str
    command: str


def read_recipes(services: Services) -> tuple[list[CatalogEntry], tuple[Field, ...]]:
    """Every recipe that can be named, and the fields of the form with the plugins now installed."""
    from nexa.recipe.catalog import list_recipes
    from nexa.recipe.jsonschema import recipe_json_schema
    from nexa.tui.forms.fields import form_fields
    from nexa.tui.forms.names import known_names

    return list_recipes(), form_fields(recipe_json_schema(), choices=known_names(services.host()))


def check_form(form: RecipeForm) -> Checked:
    """Validate a form as `nexa launch` would, and write its texts."""
    problems: dict[str, list[Problem]] = {}
    try:
        with defects_told("launch"):
            form.load()
    except NexaError as error:
        problems = problems_by_field(form, error)
    return Checked(problems=problems, before=form.original, after=form.yaml(), command=form.command())


def problems_by_field(form: RecipeForm, error: NexaError) -> dict[str, list[Problem]]:
    """The problems in an error by the field or section they belong to."""
    found: dict[str, list[Problem]] = {}
    single = (Problem(message=error.message, hint=error.hint),)
    for problem in error.problems if isinstance(error, RecipeError) else single:
        found.setdefault(form.field_of(problem), []).append(problem)
    return found


def plan_form(form: RecipeForm, services: Services) -> Plan:
    """The plan of what a form would launch. Raises NexaError."""
    from nexa.plan import make_plan

    with defects_told("launch"):
        return make_plan(form.load(), host=services.host(), settings=services.settings)


def launch_form(form: RecipeForm, services: Services) -> Run:
    """Start what a form stands for; its equivalent command is recorded in the run. Raises NexaError."""
    plan = plan_form(form, services)
    plan.require_startable()
    with defects_told("launch"):
        return services.launch(plan, shlex.split(form.command()))


def save_form(form: RecipeForm, name: str) -> Path:
    """Write what a form holds as a new recipe file, comments kept; see `write_recipe`. Raises NexaError."""
    from nexa.recipe.create import write_recipe

    with defects_told("recipe new"):
        return write_recipe(name, form.path, form.yaml())
