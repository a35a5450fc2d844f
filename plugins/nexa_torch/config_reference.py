"""`python -m nexa_torch.config_reference > docs/reference/config.md`: the views' names and the keys they stand for."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import MISSING, Field, fields
from typing import Any

from nexa.recipe.arguments import VARIABLE_PREFIX, flag_of
from nexa.recipe.flags import SEED_FLAGS
from nexa.recipe.views import CONFIG_NAMES
from nexa_torch.training_config import MODE_KEYS, SCHEDULER_NAMES, TrainingConfig

_INTRODUCTION = f"""\
# Config, TrainingConfig and the flags of `nexa train`

<!-- Made by `make docs` from the code; do not edit. -->

`Config`, `TrainingConfig` and the flags and variables of `nexa train` are views of the [recipe](recipe.md): each of
their names stands for a recipe key, whose type, default and rules hold. A wrong name is an error that says the nearest.
How they are used: [Train from Python](../how-to/train-from-python.md).

## Config

Every recipe key is an attribute (`config.optimizer.lr`), a flag (`--optimizer-lr`) and a variable
(`{VARIABLE_PREFIX}OPTIMIZER_LR`) by its own name. These names stand beside them:
"""


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    lines = [f"| {' | '.join(header)} |"]
    lines.append("|" + "---|" * (lines[0].count("|") - 1))
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows)]


def _code(text: str) -> str:
    return f"`{text}`"


def _default(item: Field[Any]) -> str:
    if item.default is not MISSING:
        return _code(str(item.default))
    assert item.default_factory is not MISSING, f"{item.name} has no default"
    return _code(str(item.default_factory()))


def page() -> str:
    """The page as Markdown."""
    names = [
        (_code(row.name), _code(flag_of(row.name)), _code(row.path), ", ".join(map(_code, row.resets)))
        for row in CONFIG_NAMES
    ]
    launch = [
        (_code(flag.option), ", ".join(map(_code, flag.keys)) or "`model.*`", ", ".join(map(_code, flag.resets)))
        for flag in SEED_FLAGS
    ]
    flat = [
        (_code(item.name), _code(item.metadata["key"]), _default(item))
        for item in fields(TrainingConfig)
        if "key" in item.metadata
    ]
    modes = [
        (
            _code(mode.name),
            ", ".join(_code(f"{key}: {'null' if value is None else value}") for key, value in keys.items()),
        )
        for mode, keys in MODE_KEYS.items()
    ]
    lines = [
        _INTRODUCTION,
        *_table(("Attribute", "Flag", "Recipe key", "Takes back"), names),
        "",
        '"Takes back": these keys return to their defaults along with it, since they would contradict it.',
        "",
        "The flags of `nexa launch` are flags of `nexa train`, too, and variables (`--log-every 5`,"
        f" `{VARIABLE_PREFIX}LOG_EVERY=5`):",
        "",
        *_table(("Flag", "Recipe key", "Takes back"), launch),
        "",
        f"`--task` and `{VARIABLE_PREFIX}TASK` set `method`; `--config` and `{VARIABLE_PREFIX}CONFIG` name the file."
        " Strongest first: flags, `key.path=value`, variables, the file, defaults.",
        "",
        "## TrainingConfig",
        "",
        *_table(("Field", "Recipe key", "Default"), flat),
        "",
        '`overrides` reaches every other recipe key, such as `{"data.packing": False}`. The default `None` of'
        " `gpus_per_node` lets `Trainer` take one GPU for each process where there are GPUs.",
        "",
        "`training_mode`:",
        "",
        *_table(("Mode", "Recipe keys"), modes),
        "",
        "`scheduler` and `optimizer` take the recipe's names; "
        + ", ".join(f"`{own}` stands for `{name}`" for own, name in SCHEDULER_NAMES.items())
        + ".",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
