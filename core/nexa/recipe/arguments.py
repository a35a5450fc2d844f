"""`nexa train`'s command line and variables, as one tree: defaults < recipe < NEXA_TRAIN_* < arguments.

Shared by the command and by `nexa_torch.Config.from_args_and_env`. Every recipe field is a flag
(`--training-max-steps 10`) and a variable (`NEXA_TRAIN_TRAINING_MAX_STEPS=10`); so are the names that
`nexa.recipe.views` adds, and the launch flags (`--lr`, `NEXA_TRAIN_LR`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import click

from nexa.errors import RecipeError, UserError
from nexa.recipe.flags import SEED_FLAGS, OptionalBooleanCommand, SeedFlag, flags_to_keys, seed_flags

if TYPE_CHECKING:
    from nexa.recipe.load import RecipeTree

Command = TypeVar("Command", bound=Callable[..., Any])

VARIABLE_PREFIX = "NEXA_TRAIN_"
_FILE_VARIABLE = f"{VARIABLE_PREFIX}CONFIG"
_TASK_VARIABLE = f"{VARIABLE_PREFIX}TASK"

CONTEXT_SETTINGS = {"ignore_unknown_options": True}
"""Of a command with `train_arguments`: flags of recipe fields are not in its own table."""


def train_arguments(command: Command) -> Command:
    """Add the arguments that make a recipe to a click command whose context has CONTEXT_SETTINGS."""
    command = click.option("--config", metavar="FILE", help="Recipe to start from; the same as RECIPE.")(command)
    command = click.option(
        "--task",
        metavar="NAME",
        help="Method of training: pretrain, sft, regression, or another that a plugin registers. Without RECIPE,"
        " the recipe of this name is where it starts from. [method]",
    )(seed_flags(command))
    return click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[RECIPE] [KEY.PATH=VALUE]...")(
        command
    )


@dataclass(frozen=True, kw_only=True)
class TrainArguments:
    """What a command line says, before any file is read.

    source: recipe, None where none is named. task: method, None likewise. overrides: "key.path=value".
    flags: values of launch flags by recipe key. fields: (flag, text) of every other flag.
    """

    source: str | None
    task: str | None
    overrides: Sequence[str]
    flags: Mapping[str, Any]
    fields: Sequence[tuple[str, str]]

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> TrainArguments:
        """Take a parsed command's parameters apart. Raises UserError."""
        words, overrides, fields = _sorted_words(params["arguments"])
        words += [params[name] for name in ("config", "config_mode") if params.get(name) is not None]
        if len(words) > 1:
            raise UserError(
                f"one run has one recipe, not {' and '.join(map(repr, words))}",
                hint="overrides have the form key.path=value, flags the form --name VALUE",
            )
        return cls(
            source=words[0] if words else None,
            task=params.get("task"),
            overrides=overrides,
            flags=flags_to_keys(params),
            fields=fields,
        )


def parse_command_line(argv: Sequence[str]) -> TrainArguments:
    """Parse arguments as `nexa train` does. Raises UserError, and click's Exit after --help."""

    @click.command(cls=OptionalBooleanCommand, context_settings=CONTEXT_SETTINGS)
    @train_arguments
    def command(**params: Any) -> None:
        """Never called: only its parameters are used."""

    try:
        with command.make_context("train", list(argv)) as context:
            return TrainArguments.from_params(context.params)
    except click.ClickException as error:
        raise UserError(error.format_message()) from None


def read_command(arguments: TrainArguments, environment: Mapping[str, str]) -> RecipeTree:
    """The recipe tree that arguments and variables describe, not yet validated.

    Raises UserError for an unknown flag or variable and where there is no such recipe.
    """
    from nexa.recipe.load import apply_typed, read_tree
    from nexa.recipe.node import Origin, OriginKind, from_plain
    from nexa.recipe.views import parsed_node, put

    task = arguments.task or environment.get(_TASK_VARIABLE) or None
    source = arguments.source or environment.get(_FILE_VARIABLE) or _recipe_of(task)
    tree = _with_variables(read_tree(source), environment)
    tree = apply_typed(tree, arguments.overrides, {})
    problems = list(tree.problems)
    for flag, text in arguments.fields:
        row = _row_of(flag)
        try:
            tree = put(tree, row, parsed_node(row.path, text, Origin(OriginKind.FLAG)))
        except RecipeError as error:
            problems += error.problems
    tree = apply_typed(replace(tree, problems=tuple(problems)), (), arguments.flags)
    if task is not None:
        tree = tree.typed("method", from_plain(task, Origin(OriginKind.FLAG)))
    return tree


def _recipe_of(task: str | None) -> str | None:
    """The recipe a task starts from when none is named: the one of its own name, where there is one."""
    from nexa.recipe.locate import recipe_files

    return task if task is not None and any(path.stem == task for path, _ in recipe_files()) else None


def _sorted_words(words: Sequence[str]) -> tuple[list[str], list[str], list[tuple[str, str]]]:
    """Recipes, overrides, and flags with their values, as they stand in the words click left over."""
    sources: list[str] = []
    overrides: list[str] = []
    flags: list[tuple[str, str]] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word.startswith("-") and word != "-":
            name, given, value = word.partition("=")
            flags.append((name, value if given else _next_value(name, rest)))
        elif "=" in word:
            overrides.append(word)
        else:
            sources.append(word)
    return sources, overrides, flags


def _next_value(flag: str, rest: list[str]) -> str:
    """The word after a flag; "true" for a flag of a yes-or-no field that stands alone."""
    from nexa.recipe.views import boolean_words

    row = _row_of(flag)
    words = boolean_words(row.path)
    if words:
        return rest.pop(0) if rest and rest[0].lower() in words else "true"
    if not rest:
        raise UserError(f"{flag} needs a value", hint=f"type: {flag} VALUE  [{row.path}]")
    return rest.pop(0)


def flag_of(name: str) -> str:
    """The flag of a dotted name: training.batch_size is --training-batch-size."""
    return f"--{name.replace('.', '-').replace('_', '-')}"


def _row_of(flag: str) -> Any:
    """The view's row for a flag. Raises UserError naming the nearest flag."""
    from nexa.plugins import get_host
    from nexa.recipe.views import all_names, find_name, section_names, unknown_name

    table = {flag_of(name): name for name in all_names()}
    if flag not in table:
        for section in get_host().option_sections():
            table |= {flag_of(f"{section}.{name}"): f"{section}.{name}" for name in section_names(section)}
    if flag not in table:
        raise unknown_name(flag, [*table, *(seed.option for seed in SEED_FLAGS), "--task", "--config"], what="option")
    return find_name(table[flag])


def _with_variables(tree: RecipeTree, environment: Mapping[str, str]) -> RecipeTree:
    """The tree under every NEXA_TRAIN_* variable that is set to something, in alphabetical order."""
    from nexa.recipe.node import Origin, OriginKind, from_plain
    from nexa.recipe.views import parsed_node, put

    seeds = {_variable_of(flag.option): flag for flag in SEED_FLAGS}
    problems = list(tree.problems)
    for variable in sorted(environment):
        text = environment[variable]
        if not variable.startswith(VARIABLE_PREFIX) or not text or variable in (_FILE_VARIABLE, _TASK_VARIABLE):
            continue
        origin = Origin(OriginKind.VARIABLE, f"${variable}")
        if variable in seeds:
            for key, value in _seed_keys(seeds[variable], text, variable).items():
                tree = tree.typed(key.removesuffix("+"), from_plain(value, origin), append=key.endswith("+"))
            continue
        row = _row_of_variable(variable)
        try:
            tree = put(tree, row, parsed_node(row.path, text, origin))
        except RecipeError as error:
            problems += [replace(problem, file=f"${variable}") for problem in error.problems]
    return replace(tree, problems=tuple(problems))


def _variable_of(flag: str) -> str:
    return VARIABLE_PREFIX + flag.removeprefix("--").replace("-", "_").upper()


def _seed_keys(flag: SeedFlag, text: str, variable: str) -> dict[str, Any]:
    """The recipe keys a launch flag sets when a variable gives its value. Raises UserError."""
    try:
        value = flag.type.convert(text, None, None)
    except click.BadParameter as error:
        raise UserError(f"${variable}: {error.message}") from None
    return flags_to_keys({flag.parameter: value})


def _row_of_variable(variable: str) -> Any:
    flag = "--" + variable.removeprefix(VARIABLE_PREFIX).lower().replace("_", "-")
    try:
        return _row_of(flag)
    except UserError as error:
        hint = (error.hint or "").replace("?", "")
        close = hint.removeprefix("did you mean ")
        better = f"did you mean {_variable_of(close)}?" if close.startswith("--") else error.hint
        raise UserError(f"${variable} stands for no setting", hint=better) from None
