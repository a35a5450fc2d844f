"""`nexa recipe`: list, show, check and make recipes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from nexa.errors import Problem
    from nexa.recipe.load import LoadedRecipe


@click.group()
def command() -> None:
    """List, show, check and make recipes.

    RECIPE is a recipe's name (see `nexa recipe list`) or the path of a file. KEY=VALUE overrides a
    value, such as training.max_steps=100; KEY+=VALUE adds to a list.
    """


@command.command("list")
@click.option("--tag", help="Only recipes with this tag.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def list_command(tag: str | None, as_json: bool) -> None:
    """List the recipes that can be launched by name."""
    from nexa.cli.output import print_json, table
    from nexa.recipe.catalog import list_recipes

    entries = [entry for entry in list_recipes() if tag is None or tag in entry.tags]
    if as_json:
        print_json(entries)
        return
    table(
        ("NAME", "METHOD", "MODEL", "SOURCE", "DESCRIPTION"),
        [
            (
                entry.name,
                entry.method,
                entry.model,
                entry.source,
                f"broken: {entry.problem}" if entry.problem else entry.description,
            )
            for entry in entries
        ],
    )


@command.command("show")
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--origin", is_flag=True, help="Show every key with the place its value comes from.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
def show_command(recipe: str, overrides: Sequence[str], origin: bool, as_json: bool) -> None:
    """Show a recipe as it would run, everything inherited and every default filled in."""
    from nexa.cli.output import print_json, table
    from nexa.recipe.load import load_recipe
    from nexa.recipe.render import origin_rows, resolved_yaml
    from nexa.text import sanitize

    loaded = load_recipe(recipe, overrides=overrides)
    if as_json:
        print_json(_with_origins(loaded) if origin else loaded.recipe.document())
    elif origin:
        table(("KEY", "VALUE", "FROM"), [(key, _short(value), place) for key, value, place in origin_rows(loaded)])
    else:
        click.echo(sanitize(resolved_yaml(loaded)), nl=False)


@command.command("validate")
@click.argument("recipes", nargs=-1, required=True, metavar="RECIPE...")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
@click.pass_context
def validate_command(context: click.Context, recipes: Sequence[str], as_json: bool) -> None:
    """Check recipes; print every problem with its place, and end with exit code 2 when there is one."""
    from nexa.cli.output import print_json
    from nexa.text import sanitize

    report = {recipe: _problems(recipe) for recipe in recipes}
    if as_json:
        print_json([{"recipe": recipe, "problems": problems} for recipe, problems in report.items()])
    else:
        for recipe, problems in report.items():
            for problem in problems:
                click.echo(sanitize(str(problem)), err=True)
            verdict = "ok" if not problems else f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
            click.echo(f"{sanitize(recipe)}: {verdict}")
    if any(report.values()):
        context.exit(2)


@command.command("schema")
def schema_command() -> None:
    """Print the JSON Schema of recipe files, with the sections of the installed plugins."""
    from nexa.cli.output import print_json
    from nexa.recipe.jsonschema import recipe_json_schema

    print_json(recipe_json_schema())


@command.command("new")
@click.argument("name")
@click.option("--from", "source", default="quickstart", show_default=True, help="Recipe to start from.")
def new_command(name: str, source: str) -> None:
    """Write a recipe of your own: NAME goes to the folder recipes/, a path where it says."""
    from nexa.recipe.create import create_recipe
    from nexa.text import sanitize

    path = sanitize(str(create_recipe(name, source)))
    click.echo(f"wrote {path}")
    click.echo(f"  edit it, then: nexa recipe validate {path}")
    click.echo(f"  and:           nexa launch {path} --dry-run")


@command.command("import")
@click.argument("file")
@click.option("--backend", default="axolotl", show_default=True, help="Whose file it is.")
@click.option("--output", metavar="NAME", help="Write it there, as `nexa recipe new` does, instead of printing it.")
def import_command(file: str, backend: str, output: str | None) -> None:
    """Make a recipe of another trainer's configuration FILE.

    Every key gets the recipe's own name for it, stays in the section of the backend, or is refused by name. Notes on
    what was left out go to stderr.
    """
    from pathlib import Path

    from nexa.recipe.create import write_recipe
    from nexa.recipe.imports import import_recipe, imported_document
    from nexa.recipe.render import to_yaml
    from nexa.text import sanitize

    imported = import_recipe(file, backend)
    for note in imported.notes:
        click.echo(f"note: {sanitize(note)}", err=True)
    text = to_yaml(imported_document(imported))
    if output is None:
        click.echo(sanitize(text), nl=False)
        return
    path = sanitize(str(write_recipe(output, Path(file).expanduser().absolute(), text)))
    click.echo(f"wrote {path}")
    click.echo(f"  check it: nexa launch {path} --explain")


def _problems(recipe: str) -> Sequence[Problem]:
    """Everything wrong with one recipe; empty when it can be used."""
    from nexa.errors import Problem, RecipeError, UserError
    from nexa.recipe.load import load_recipe

    try:
        load_recipe(recipe)
    except RecipeError as error:
        return error.problems
    except UserError as error:
        return [Problem(message=error.message, hint=error.hint)]
    return ()


def _with_origins(loaded: LoadedRecipe) -> Mapping[str, Any]:
    from nexa.recipe.render import origin_rows

    return {key: {"value": value, "origin": loaded.origins[key]} for key, value, _ in origin_rows(loaded)}


def _short(value: Any) -> str:
    """A value on one line."""
    import json

    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:59]}…"
