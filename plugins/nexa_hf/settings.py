"""What this backend does with every recipe field: honoured, translated into which arguments, or refused why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nexa.backend import Answer, SettingAnswer
from nexa.errors import UserError
from nexa.recipe.schema import Recipe
from nexa_hf.arguments import holds_out, translations
from nexa_hf.methods import find_method
from nexa_hf.methods.base import Refusal
from nexa_hf.methods.users import unused_fields
from nexa_hf.optimizers import OPTIMIZER_FIELDS, OPTIMIZERS, SCHEDULE_FIELDS, SCHEDULES
from nexa_hf.options import hf_options
from nexa_torch.unused import UNUSED_BY_SOURCE, UNUSED_BY_STRATEGY

_OWN_ENGINE = "set backend: torch for it"


def answer_settings(recipe: Recipe) -> Sequence[SettingAnswer]:
    """Answer for every leaf of the recipe schema, in schema order; a field nobody here knows is refused."""
    return [_answer(recipe, path) for path in Recipe.leaf_paths()]


def _answer(recipe: Recipe, path: str) -> SettingAnswer:
    try:
        method = find_method(recipe.method)
    except UserError:
        # An unknown method is told by the plan; its fields are answered as those of fine-tuning.
        method = find_method("sft")
    refusals = {**REFUSALS, **unused_fields(method.name), **method.refusals}
    known = (*HONOURED, *translations(method), *method.honoured, *NOTES)
    if path in refusals and (reason := refusals[path](recipe)) is not None:
        return SettingAnswer(path=path, answer=Answer.REFUSED, detail=reason)
    if not _matches(path, (*known, *refusals)):
        return SettingAnswer(
            path=path, answer=Answer.REFUSED, detail=f"method {method.name} of backend hf heeds no such field"
        )
    arguments = translations(method).get(path, _nothing)(recipe)
    note = {**NOTES, **method.notes}.get(path, _no_note)(recipe)
    said = [*(f"{name}={_shown(value)}" for name, value in arguments.items()), *([note] if note else [])]
    if said:
        return SettingAnswer(path=path, answer=Answer.TRANSLATED, detail=", ".join(said))
    return SettingAnswer(path=path, answer=Answer.HONOURED)


def _nothing(recipe: Recipe) -> Mapping[str, Any]:
    return {}


def _no_note(recipe: Recipe) -> None:
    return None


def _shown(value: Any) -> str:
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def _matches(path: str, keys: Sequence[str]) -> bool:
    return any(path == key or (key.endswith(".*") and path.startswith(key[:-1])) for key in keys)


HONOURED = (
    "schema_version",
    "extends",
    "description",
    "tags",
    "method",
    "backend",
    "scheduler",
    "meta",
    "run.*",
    "model.*",
    *(f"data.{key}" for key in ("remote_uri", "format", "split", "dataset_version", "expected_dataset_hash")),
    *(f"data.{key}" for key in ("local_cache_root", "max_documents", "packing", "train_on", "validation.*")),
    "training.early_stopping.*",
    "training.eval_every_epochs",
    "adapter.*",
    "checkpointing.*",
    "samples.*",
    "cluster.*",
    "environment.*",
    "artifacts.*",
    "tracking.*",
)
"""Fields that mean here what the schema says; what is refused or translated of them stands in the tables."""


def _never(reason: str) -> Refusal:
    return lambda recipe: reason


def _optimizer_field(field: str) -> Refusal:
    """The rule of a field of the optimizer section that only some optimizers use."""

    def rule(recipe: Recipe) -> str | None:
        choice = OPTIMIZERS.get(recipe.optimizer.name)
        if choice is None or field in choice.fields:
            return None
        users = ", ".join(name for name, other in OPTIMIZERS.items() if field in other.fields)
        takes = f"these take one: {users}" if users else _OWN_ENGINE
        return f"transformers' {choice.optim} takes no {field}; {takes}"

    return rule


def _schedule_field(field: str) -> Refusal:
    """The rule of a field of the schedule section that only some schedules use."""

    def rule(recipe: Recipe) -> str | None:
        name = recipe.optimizer.scheduler.name
        if name not in SCHEDULES or field in SCHEDULES[name].fields:
            return None
        users = ", ".join(other for other, choice in SCHEDULES.items() if field in choice.fields)
        return f"transformers' schedule for {name} has no {field}; these have: {users}"

    return rule


def _warmup(recipe: Recipe) -> str | None:
    choice = SCHEDULES.get(recipe.optimizer.scheduler.name)
    return None if choice is None or choice.warms_up else "transformers' reduce_lr_on_plateau does not warm up"


def _precision(recipe: Recipe) -> str | None:
    name = recipe.training.precision
    if name in ("tf32", "fp16") and not recipe.cluster.gpus_per_node:
        return f"{name} needs a CUDA GPU; use fp32 or bf16 on CPU"
    return None


def _activation_offload(recipe: Recipe) -> str | None:
    return None if recipe.cluster.gpus_per_node else "activation offload needs a CUDA GPU; cluster.gpus_per_node=0"


REFUSALS: Mapping[str, Refusal] = {
    **UNUSED_BY_SOURCE,
    "data.streaming": _never(f"transformers shuffles rows it can count; {_OWN_ENGINE}"),
    "data.stream_window": _never("only streamed data has windows"),
    "training.precision": _precision,
    "training.measure_mfu": _never(f"transformers measures no such thing; {_OWN_ENGINE}"),
    "training.profile_steps": _never(f"transformers has no profiler; {_OWN_ENGINE}"),
    "training.checkpoint_every_blocks": _never(f"transformers recomputes every block; {_OWN_ENGINE}"),
    "training.activation_offload": _activation_offload,
    "training.early_stopping.restore_best": _never(
        "the best checkpoint is kept (checkpointing.keep_best) and the run ends with its last weights"
    ),
    "checkpointing.async_save": _never(f"transformers waits for a checkpoint; {_OWN_ENGINE}"),
    **{f"optimizer.{name}": _optimizer_field(name) for name in OPTIMIZER_FIELDS},
    "optimizer.offload": _never("DeepSpeed offloads optimizer state: hf.deepspeed"),
    **{f"optimizer.scheduler.{name}": _schedule_field(name) for name in SCHEDULE_FIELDS},
    "optimizer.scheduler.warmup_steps": _warmup,
    **UNUSED_BY_STRATEGY,
}
"""Fields that are not heeded, for all recipes or for some."""


def _validation(recipe: Recipe) -> str | None:
    return "eval_loss is the mean of the microbatches' means" if holds_out(recipe) else None


def _weight_decay(recipe: Recipe) -> str | None:
    return "norms and biases excepted, embeddings not" if recipe.optimizer.weight_decay else None


def _warmup_note(recipe: Recipe) -> str | None:
    return "the first step's rate is 0" if recipe.optimizer.scheduler.warmup_steps else None


def _log_note(recipe: Recipe) -> str | None:
    every = recipe.training.log_every_steps
    return f"the loss is the mean of {every} steps" if every > 1 else None


def _strategy_note(recipe: Recipe) -> str | None:
    if hf_options(recipe).deepspeed is not None:
        return "DeepSpeed, as hf.deepspeed says"
    return "ddp: a whole copy of the model on each process" if recipe.distributed.strategy == "auto" else None


def _adapter_type(recipe: Recipe) -> str | None:
    if recipe.adapter is None or recipe.adapter.type != "qlora":
        return None
    return "every linear layer but the output head in bitsandbytes NF4, with peft's LoRA on top"


def _target_modules(recipe: Recipe) -> str | None:
    adapter = recipe.adapter
    return (
        "peft: every linear layer but the output head" if adapter and adapter.target_modules == "all-linear" else None
    )


def _keep(recipe: Recipe) -> str | None:
    return None if recipe.checkpointing.save_optimizer else "weights alone are saved"


def _nothing_held_out(recipe: Recipe) -> str | None:
    asked = recipe.training.eval_every_steps or recipe.training.eval_every_epochs
    return "nothing is evaluated without data.validation" if asked and not holds_out(recipe) else None


NOTES: Mapping[str, Refusal] = {
    "training.eval_every_steps": _nothing_held_out,
    "training.eval_every_epochs": _nothing_held_out,
    **{f"data.validation.{key}": _validation for key in ("fraction", "remote_uri")},
    "training.global_batch_size": lambda recipe: "the last step of a pass takes the rows that are left",
    "training.log_every_steps": _log_note,
    "distributed.strategy": _strategy_note,
    "optimizer.weight_decay": _weight_decay,
    "optimizer.scheduler.warmup_steps": _warmup_note,
    "adapter.type": _adapter_type,
    "adapter.target_modules": _target_modules,
    "checkpointing.save_optimizer": _keep,
}
"""What to know of a field besides its arguments; None where nothing is."""
