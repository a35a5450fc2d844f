"""`TrainingConfig`: the settings people reach for first, as one flat, typed dataclass. No torch.

Every field names the recipe key it stands for, in its metadata; defaults are the recipe's. What has no
field of its own is reached by `overrides`, by recipe key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from nexa.errors import Problem, RecipeError, UserError
from nexa.recipe.chain import problem_at
from nexa.recipe.node import Node, nest
from nexa.recipe.paths import absolute_paths
from nexa.recipe.problems import FOREIGN_NAMES, closest
from nexa.recipe.schema import Recipe
from nexa.recipe.views import field_at, leaf_values
from nexa.recipe.yaml import read_yaml
from nexa_torch.config import Config

if TYPE_CHECKING:
    from collections.abc import Iterator


class TrainingMode(StrEnum):
    """What is trained: every weight on documents or on examples, or an adapter."""

    FULL_FINETUNE = "FULL_FINETUNE"
    LORA = "LORA"
    QLORA = "QLORA"
    PRETRAINING = "PRETRAINING"


MODE_KEYS: Mapping[TrainingMode, Mapping[str, Any]] = {
    TrainingMode.FULL_FINETUNE: {"method": "sft", "adapter": None},
    TrainingMode.LORA: {"method": "sft", "adapter.type": "lora"},
    TrainingMode.QLORA: {"method": "sft", "adapter.type": "qlora"},
    TrainingMode.PRETRAINING: {"method": "pretrain", "adapter": None},
}
"""The recipe keys of each training mode."""

SCHEDULER_NAMES: Mapping[str, str] = {"cosine": "cosine_warmup"}
"""Schedules that a recipe calls by another name."""

_ADAPTED = (TrainingMode.LORA, TrainingMode.QLORA)


_RECIPES_OWN: Any = object()


def setting(key: str, *, default: Any = _RECIPES_OWN) -> Any:
    """A field that stands for a recipe key, with that key's default unless another is given."""
    section = field_at(key)
    assert section is not None, f"{key} is not in the recipe schema"
    if default is _RECIPES_OWN:
        default = None if section.is_required() or key.startswith("adapter.") else section.default
    metadata = {"key": key}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(kw_only=True)
class TrainingConfig:
    """How a model is trained; a view of the recipe.

    overrides: further recipe values by dotted key, such as {"data.packing": False}. Raises RecipeError for
    a value that its recipe field does not take, naming the recipe key.
    """

    training_mode: TrainingMode = TrainingMode.FULL_FINETUNE
    model_name: str | None = setting("model.name")
    tokenizer: str | None = setting("model.tokenizer")
    d_model: int | None = setting("model.d_model")
    n_layers: int | None = setting("model.n_layers")
    n_heads: int | None = setting("model.n_heads")
    max_seq_length: int | None = setting("model.max_seq_len")
    dataset: str | None = setting("data.remote_uri")
    validation_dataset: str | None = setting("data.validation.remote_uri")
    validation_fraction: float | None = setting("data.validation.fraction")
    packing: bool = setting("data.packing")
    num_epochs: float | None = setting("training.epochs")
    max_steps: int | None = setting("training.max_steps")
    batch_size: int = setting("training.microbatch_size_per_gpu")
    gradient_accumulation_steps: int | None = setting("training.grad_accumulation_steps")
    global_batch_size: int | None = setting("training.global_batch_size")
    precision: str = setting("training.precision")
    gradient_checkpointing: bool | str = setting("training.activation_checkpointing")
    max_grad_norm: float | None = setting("training.max_grad_norm")
    optimizer: str = setting("optimizer.name")
    learning_rate: float = setting("optimizer.lr")
    weight_decay: float = setting("optimizer.weight_decay")
    betas: list[float] = setting("optimizer.betas")  # noqa: RUF009 - a dataclass field
    scheduler: str = setting("optimizer.scheduler.name")
    warmup_steps: int = setting("optimizer.scheduler.warmup_steps")
    min_lr_ratio: float = setting("optimizer.scheduler.min_lr_ratio")
    lora_r: int | None = setting("adapter.rank")
    lora_alpha: float | None = setting("adapter.alpha")
    lora_dropout: float | None = setting("adapter.dropout")
    lora_target_modules: list[str] | str | None = setting("adapter.target_modules")  # noqa: RUF009 - a dataclass field
    logging_steps: int = setting("training.log_every_steps")
    eval_steps: int | None = setting("training.eval_every_steps")
    save_steps: int | None = setting("training.save_every_steps")
    save_total_limit: int | None = setting("checkpointing.keep_last")
    output_dir: str | None = setting("artifacts.store_uri")
    run_name: str | None = setting("run.name")
    num_nodes: int = setting("cluster.num_nodes")
    gpus_per_node: int | None = setting("cluster.gpus_per_node", default=None)
    """None: with Trainer one GPU for each process where there are GPUs, in a recipe its default, none."""
    seed: int = setting("training.seed")
    overrides: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.training_mode = _mode(self.training_mode)
        self.scheduler = _flat_schedule(self.scheduler)
        if self.training_mode in _ADAPTED:
            for item in fields(self):
                if item.name.startswith("lora_") and getattr(self, item.name) is None:
                    setattr(self, item.name, _default_of(item.metadata["key"]))
        self.to_config()

    @classmethod
    def from_config(cls, config: Config) -> Self:
        """The flat form of a config; what has no field of its own goes to `overrides`."""
        values = leaf_values(config.to_dict())
        mode = _mode_of(values)
        keys = {item.metadata["key"]: item.name for item in fields(cls) if "key" in item.metadata}
        known = {name: values[key] for key, name in keys.items() if key in values and values[key] is not None}
        known["scheduler"] = _flat_schedule(known.get("scheduler", ""))
        told = {*keys, "adapter", "adapter.type", *MODE_KEYS[mode]}
        defaults = leaf_values(Config().to_dict())
        adapter = leaf_values(Config({"adapter.type": "lora"}).to_dict()) if mode in _ADAPTED else {}
        rest = {
            key: value
            for key, value in values.items()
            if key not in told and value != defaults.get(key, adapter.get(key))
        }
        if "method" in values and values["method"] != MODE_KEYS[mode]["method"]:
            rest["method"] = values["method"]
        nulls = {name: None for key, name in keys.items() if key in values and values[key] is None}
        return cls(training_mode=mode, **{**nulls, **known}, overrides=rest)

    @classmethod
    def from_recipe(cls, recipe: Recipe) -> Self:
        """The flat form of a recipe."""
        return cls.from_config(Config.from_recipe(recipe))

    def to_config(self) -> Config:
        """The same settings as nested attributes; complete or not. Raises RecipeError."""
        config = Config()
        problems: list[Problem] = []
        for name, key, value in self._keys():
            try:
                config.set_key(key, value)
            except RecipeError as error:
                problems += [replace(problem, message=f"{problem.message} [{name}]") for problem in error.problems]
        problems += self._contradictions()
        if problems:
            raise RecipeError(problems)
        return config

    def to_recipe(self) -> Recipe:
        """The complete, validated recipe. Raises RecipeError with everything that is wrong or missing."""
        return self.to_config().recipe

    def _keys(self) -> Iterator[tuple[str, str, Any]]:
        """Field, recipe key and value of all that is set away from the recipe's defaults, overrides last."""
        for key, value in MODE_KEYS[_mode(self.training_mode)].items():
            yield "training_mode", key, value
        for item in fields(self):
            value = getattr(self, item.name)
            if "key" not in item.metadata or (value is None and item.default is None):
                continue
            if item.name == "scheduler":
                value = SCHEDULER_NAMES.get(str(value), value)
            yield item.name, item.metadata["key"], value
        for key, value in self.overrides.items():
            yield "overrides", key, value

    def _contradictions(self) -> Iterator[Problem]:
        """Adapter settings where nothing is adapted."""
        if _mode(self.training_mode) in _ADAPTED:
            return
        for item in fields(self):
            if item.name.startswith("lora_") and getattr(self, item.name) is not None:
                yield Problem(
                    path=item.metadata["key"],
                    message=f"{item.name} needs an adapter, and training_mode {self.training_mode} has none",
                    hint="set training_mode to LORA or QLORA",
                )


def load_training_config(path: str | Path) -> TrainingConfig:
    """Read a TrainingConfig from a YAML file: its own fields, or a recipe (or a part of one).

    A file with the key `method`, or with a section of the recipe, is a recipe. Relative paths count from the
    file's folder. Raises UserError when the file can't be read, RecipeError with every problem and its line.
    """
    file = Path(path)
    if not file.exists():
        raise UserError(f"there is no training config {file}")
    root = read_yaml(file)
    if not isinstance(root.value, dict):
        raise RecipeError([problem_at(root.origin, "must be a mapping of settings, such as `learning_rate: 2e-4`")])
    if _is_recipe(root):
        return TrainingConfig.from_config(Config.from_yaml(file))
    known = {item.name: item.metadata.get("key") for item in fields(TrainingConfig)}
    problems = [_unknown_field(name, node, known) for name, node in root.value.items() if name not in known]
    if problems:
        raise RecipeError(problems)
    values = {name: _absolute(known[name], node, file.parent.absolute()) for name, node in root.value.items()}
    try:
        return TrainingConfig(**values)
    except RecipeError as error:
        raise RecipeError([_placed(problem, root, known) for problem in error.problems]) from None


def _is_recipe(root: Node) -> bool:
    assert isinstance(root.value, dict)
    return "method" in root.value or any(
        isinstance(node.value, dict) and name in Recipe.model_fields for name, node in root.value.items()
    )


def _unknown_field(name: str, node: Node, known: Mapping[str, str | None]) -> Problem:
    meant = next((own for own, key in known.items() if key is not None and key == FOREIGN_NAMES.get(name)), None)
    close = meant or closest(name, known)
    hint = f"did you mean {close!r}?" if close else "recipe keys go under `overrides`"
    return problem_at(node.key, "unknown setting", path=name, hint=hint)


def _absolute(key: str | None, node: Node, folder: Path) -> Any:
    """A field's value with a relative path in it made absolute."""
    if key is None:
        return node.plain()
    moved = absolute_paths(nest(key, node), folder).find(key.split("."))
    assert moved is not None
    return moved.plain()


def _placed(problem: Problem, root: Node, known: Mapping[str, str | None]) -> Problem:
    """The problem with the line of the field it belongs to."""
    for name, key in known.items():
        node = root.child(name)
        if node is not None and key is not None and key == problem.path:
            return replace(problem, file=node.origin.file, line=node.origin.line, column=node.origin.column)
    return replace(problem, file=root.origin.file)


def _mode(value: Any) -> TrainingMode:
    """The training mode a value means, in any case of letters. Raises UserError listing the modes."""
    try:
        return TrainingMode(str(value).upper())
    except ValueError:
        close = closest(str(value).upper(), list(TrainingMode))
        suggestion = f"did you mean {close}? " if close else ""
        modes = ", ".join(TrainingMode)
        raise UserError(f"unknown training_mode {value!r}", hint=f"{suggestion}known: {modes}") from None


def _mode_of(values: Mapping[str, Any]) -> TrainingMode:
    adapter = values.get("adapter.type")
    if adapter is not None:
        return TrainingMode.QLORA if adapter == "qlora" else TrainingMode.LORA
    return TrainingMode.PRETRAINING if values.get("method") == "pretrain" else TrainingMode.FULL_FINETUNE


def _flat_schedule(name: str) -> str:
    return next((own for own, recipe in SCHEDULER_NAMES.items() if recipe == name), name)


def _default_of(key: str) -> Any:
    section = field_at(key)
    return None if section is None or section.is_required() else section.default
