"""What this backend does with every recipe field: honoured, translated how, or refused why."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from nexa.backend import Answer, SettingAnswer
from nexa.errors import PluginError
from nexa.recipe.schema import Recipe
from nexa_torch.architectures import ARCHITECTURES
from nexa_torch.data.locate import PACKAGE_SCHEME
from nexa_torch.tasks.registry import LANGUAGE, find_task

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nexa.specs import TaskSpec

_HUB_DATA = "hf:"
_LANGUAGE_KEYS = (
    *(f"model.{key}" for key in ("revision", "tokenizer", "chat_template", "max_seq_len")),
    *(f"model.{size}" for size in ("d_model", "n_layers", "n_heads", "n_kv_heads", "d_ff")),
    *(f"data.{key}" for key in ("format", "split", "dataset_version", "expected_dataset_hash", "local_cache_root")),
    *(f"data.{key}" for key in ("validation.*", "max_documents", "packing", "train_on")),
    "training.activation_checkpointing",
    "adapter.*",
    "samples.*",
)
"""What language models and text data alone have; another task heeds those that its spec names."""
_WITHOUT_FLOOR = ("constant",)


_Rule = Callable[[Recipe], "str | None"]


def answer_settings(recipe: Recipe) -> Sequence[SettingAnswer]:
    """Answer for every leaf of the recipe schema, in schema order."""
    answers = []
    task = _task(recipe)
    for path in Recipe.leaf_paths():
        refusal = _task_refusal(task, path) if task is not None else None
        if refusal is None and path in _REFUSALS:
            refusal = _REFUSALS[path](recipe)
        translation = _TRANSLATIONS[path](recipe) if path in _TRANSLATIONS else None
        if refusal is not None:
            answers.append(SettingAnswer(path=path, answer=Answer.REFUSED, detail=refusal))
        elif translation is not None:
            answers.append(SettingAnswer(path=path, answer=Answer.TRANSLATED, detail=translation))
        else:
            answers.append(SettingAnswer(path=path, answer=Answer.HONOURED))
    return answers


def _task(recipe: Recipe) -> TaskSpec | None:
    """The recipe's task, None where its method is unknown, which is told elsewhere."""
    try:
        return find_task(recipe.method)
    except PluginError:
        return None


def _task_refusal(task: TaskSpec, path: str) -> str | None:
    """Why a task does not heed a recipe key, None where it does."""
    if LANGUAGE not in task.capabilities and _matches(path, _LANGUAGE_KEYS) and not _matches(path, task.honours):
        return f"task {task.name} has no such thing"
    return f"task {task.name} does not heed it" if _matches(path, task.refuses) else None


def _matches(path: str, keys: Sequence[str]) -> bool:
    return any(path == key or (key.endswith(".*") and path.startswith(key[:-1])) for key in keys)


def _early_stopping(recipe: Recipe) -> str | None:
    stopping = recipe.training.early_stopping
    return f"EarlyStopping(monitor={stopping.monitor!r}, patience={stopping.patience})" if stopping else None


def _architecture_only(recipe: Recipe) -> str | None:
    if recipe.model.name in ARCHITECTURES:
        return None
    return "an existing model brings its own sizes"


def _revision(recipe: Recipe) -> str | None:
    name = recipe.model.name
    if name in ARCHITECTURES or name.startswith(PACKAGE_SCHEME) or name.startswith(("/", ".", "~")):
        return "only hub models have revisions"
    return None


def _data_split(recipe: Recipe) -> str | None:
    return None if recipe.data.remote_uri.startswith(_HUB_DATA) else "only hub data sets have splits"


def _validation_split(recipe: Recipe) -> str | None:
    uri = recipe.data.validation.remote_uri or recipe.data.remote_uri
    return None if uri.startswith(_HUB_DATA) else "only hub data sets have splits"


def _not_streamed(reason: str) -> _Rule:
    """The rule of a field that streamed data rules out."""
    return lambda recipe: reason if recipe.data.streaming else None


def _window(recipe: Recipe) -> str | None:
    return None if recipe.data.streaming else "only streamed data has windows; set data.streaming: true"


def _min_lr_ratio(recipe: Recipe) -> str | None:
    name = recipe.optimizer.scheduler.name
    return f"schedule {name} does not fall" if name in _WITHOUT_FLOOR else None


def _decay_steps(recipe: Recipe) -> str | None:
    name = recipe.optimizer.scheduler.name
    return None if name == "wsd" else f"schedule {name} has no separate decay; wsd has"


def _adam_only(recipe: Recipe) -> str | None:
    return "sgd has no moments" if recipe.optimizer.name == "sgd" else None


def _qlora(recipe: Recipe) -> str | None:
    if recipe.adapter is not None and recipe.adapter.type == "qlora":
        return "4-bit base weights need a CUDA GPU and bitsandbytes; use lora"
    return None


def _precision(recipe: Recipe) -> str | None:
    return "torch.autocast(bfloat16), weights and optimizer in fp32" if recipe.training.precision == "bf16" else None


def _strategy(recipe: Recipe) -> str | None:
    if recipe.distributed.strategy == "auto":
        return "ddp: a whole copy of the model on each process"
    if recipe.distributed.strategy == "fsdp":
        processes = recipe.cluster.num_nodes * (recipe.cluster.processes_per_node or recipe.cluster.gpus_per_node or 1)
        return "torch fully_shard (FSDP2), a group a block" if processes > 1 else "one process holds the whole model"
    return None


def _sharded_only(recipe: Recipe) -> str | None:
    return None if recipe.distributed.strategy == "fsdp" else "only distributed.strategy=fsdp shards"


def _cpu_offload(recipe: Recipe) -> str | None:
    if recipe.distributed.strategy == "fsdp" and not recipe.cluster.gpus_per_node:
        return "training on CPU has everything in CPU memory"
    return _sharded_only(recipe)


def _target_modules(recipe: Recipe) -> str | None:
    adapter = recipe.adapter
    return (
        "peft: every linear layer but the output head" if adapter and adapter.target_modules == "all-linear" else None
    )


_REFUSALS: Mapping[str, _Rule] = {
    "model.revision": _revision,
    **{f"model.{size}": _architecture_only for size in ("d_model", "n_layers", "n_heads", "n_kv_heads", "d_ff")},
    "data.split": _data_split,
    "data.expected_dataset_hash": _not_streamed("streamed data is never read whole before it is trained on"),
    "data.stream_window": _window,
    "data.validation.fraction": _not_streamed("a stream can't be divided; name held-out data in remote_uri"),
    "training.epochs": _not_streamed("a stream does not say how long it is; set training.max_steps"),
    "data.validation.split": _validation_split,
    "optimizer.scheduler.min_lr_ratio": _min_lr_ratio,
    "optimizer.scheduler.decay_steps": _decay_steps,
    "optimizer.betas": _adam_only,
    "optimizer.eps": _adam_only,
    "adapter.type": _qlora,
    "distributed.reshard_after_forward": _sharded_only,
    "distributed.cpu_offload": _cpu_offload,
}

_TRANSLATIONS: Mapping[str, _Rule] = {
    "training.early_stopping": _early_stopping,
    "training.precision": _precision,
    "adapter.target_modules": _target_modules,
    "distributed.strategy": _strategy,
}
