"""What this backend does with every recipe field: honoured, translated how, or refused why."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from nexa.backend import Answer, SettingAnswer
from nexa.errors import PluginError
from nexa.recipe.schema import Recipe
from nexa_torch.optimizers import OPTIMIZERS
from nexa_torch.schedules import SCHEDULE_FIELDS, SCHEDULES
from nexa_torch.tasks.registry import LANGUAGE, find_task
from nexa_torch.unused import UNUSED_BY_SOURCE, UNUSED_BY_STRATEGY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nexa.specs import TaskSpec

_Rule = Callable[[Recipe], "str | None"]

_OPTIMIZER_FIELDS = ("betas", "eps", "momentum", "hessian_interval", "hessian_scale")
_AUTOCAST = {"bf16": "bfloat16", "fp16": "float16"}
_LANGUAGE_KEYS = (
    *(f"model.{key}" for key in ("revision", "tokenizer", "chat_template", "max_seq_len")),
    *(f"model.{size}" for size in ("d_model", "n_layers", "n_heads", "n_kv_heads", "d_ff")),
    *(f"data.{key}" for key in ("format", "split", "dataset_version", "expected_dataset_hash", "local_cache_root")),
    *(f"data.{key}" for key in ("validation.*", "max_documents", "packing", "train_on")),
    "training.activation_checkpointing",
    "training.checkpoint_every_blocks",
    "training.compile",
    "adapter.*",
    "samples.*",
)
"""What language models and text data alone have; another task heeds those that its spec names."""
_METHOD_KEYS = ("distill.*",)
"""What belongs to single methods: heeded by the tasks whose spec names it."""


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
    asked = _METHOD_KEYS if LANGUAGE in task.capabilities else (*_METHOD_KEYS, *_LANGUAGE_KEYS)
    if _matches(path, asked) and not _matches(path, task.honours):
        return f"task {task.name} has no such thing"
    return f"task {task.name} does not heed it" if _matches(path, task.refuses) else None


def _matches(path: str, keys: Sequence[str]) -> bool:
    return any(path == key or (key.endswith(".*") and path.startswith(key[:-1])) for key in keys)


def _early_stopping(recipe: Recipe) -> str | None:
    stopping = recipe.training.early_stopping
    return f"EarlyStopping(monitor={stopping.monitor!r}, patience={stopping.patience})" if stopping else None


def _nothing_held_out(recipe: Recipe) -> str | None:
    held, training = recipe.data.validation, recipe.training
    if not (training.eval_every_steps or training.eval_every_epochs) or held.fraction or held.remote_uri or held.split:
        return None
    # Data of other tasks may hold out rows by itself.
    task = _task(recipe)
    language = task is not None and LANGUAGE in task.capabilities
    return "nothing is evaluated without data.validation" if language else None


def _schedule_field(field: str) -> _Rule:
    """A rule that refuses a field of the schedule section where the chosen schedule does not use it."""

    def rule(recipe: Recipe) -> str | None:
        name = recipe.optimizer.scheduler.name
        if name not in SCHEDULES or field in SCHEDULES[name].fields:
            return None
        users = ", ".join(other for other, kind in SCHEDULES.items() if field in kind.fields)
        return f"schedule {name} has no {field}; these have: {users}"

    return rule


def _not_streamed(reason: str) -> _Rule:
    """The rule of a field that streamed data rules out."""
    return lambda recipe: reason if recipe.data.streaming else None


def _other_methods(recipe: Recipe) -> str | None:
    return (
        f"method {recipe.method} of this backend has no use for it; backend hf trains dpo, kto, orpo, reward and grpo"
    )


def _format(recipe: Recipe) -> str | None:
    if recipe.data.format in ("preference", "unpaired", "prompts"):
        return (
            f"rows of the layout {recipe.data.format} are for the methods dpo, kto, orpo, reward and grpo of backend hf"
        )
    return None


def _window(recipe: Recipe) -> str | None:
    return None if recipe.data.streaming else "only streamed data has windows; set data.streaming: true"


def _optimizer_field(field: str) -> _Rule:
    """A rule that refuses a field of the optimizer section where the chosen optimizer does not use it."""

    def rule(recipe: Recipe) -> str | None:
        name = recipe.optimizer.name
        if name not in OPTIMIZERS or field in OPTIMIZERS[name].defaults:
            return None
        users = ", ".join(other for other, kind in OPTIMIZERS.items() if field in kind.defaults)
        return f"optimizer {name} has no {field}; these have: {users}"

    return rule


def _needs_gpu(what: str) -> _Rule:
    """A rule that refuses a field where the run has no GPU."""
    return lambda recipe: None if recipe.cluster.gpus_per_node else f"{what} needs a CUDA GPU; cluster.gpus_per_node=0"


def _checkpoint_every_blocks(recipe: Recipe) -> str | None:
    return None if recipe.training.activation_checkpointing else "activation_checkpointing is off"


def _precision(recipe: Recipe) -> str | None:
    name = recipe.training.precision
    if name == "tf32":
        return "fp32 with CUDA matrix products in tf32"
    dtype = _AUTOCAST.get(name)
    if dtype is None:
        return None
    scaled = ", loss scaled" if name == "fp16" else ""
    return f"torch.autocast({dtype}), weights and optimizer in fp32{scaled}"


def _tf32(recipe: Recipe) -> str | None:
    if recipe.training.precision == "tf32" and not recipe.cluster.gpus_per_node:
        return "tf32 is a mode of CUDA GPUs; use fp32 or bf16 on CPU"
    return None


def _adapter_type(recipe: Recipe) -> str | None:
    if recipe.adapter is None or recipe.adapter.type != "qlora":
        return None
    return "every linear layer but the output head in bitsandbytes NF4, with peft's LoRA on top"


def _strategy(recipe: Recipe) -> str | None:
    if recipe.distributed.strategy == "auto":
        return "ddp: a whole copy of the model on each process"
    if recipe.distributed.strategy == "fsdp":
        processes = recipe.cluster.num_nodes * (recipe.cluster.processes_per_node or recipe.cluster.gpus_per_node or 1)
        return "torch fully_shard (FSDP2), a group a block" if processes > 1 else "one process holds the whole model"
    return None


def _target_modules(recipe: Recipe) -> str | None:
    adapter = recipe.adapter
    return (
        "peft: every linear layer but the output head" if adapter and adapter.target_modules == "all-linear" else None
    )


_REFUSALS: Mapping[str, _Rule] = {
    **UNUSED_BY_SOURCE,
    **{path: _other_methods for path in Recipe.leaf_paths() if path.startswith(("preference.", "rollouts."))},
    "data.format": _format,
    "data.expected_dataset_hash": _not_streamed("streamed data is never read whole before it is trained on"),
    "data.stream_window": _window,
    "data.validation.fraction": _not_streamed("a stream can't be divided; name held-out data in remote_uri"),
    "training.epochs": _not_streamed("a stream does not say how long it is; set training.max_steps"),
    "training.precision": _tf32,
    "training.checkpoint_every_blocks": _checkpoint_every_blocks,
    "training.activation_offload": _needs_gpu("activation offload"),
    **{f"optimizer.scheduler.{name}": _schedule_field(name) for name in SCHEDULE_FIELDS},
    **{f"optimizer.{name}": _optimizer_field(name) for name in _OPTIMIZER_FIELDS},
    "optimizer.offload": _needs_gpu("optimizer offload"),
    **UNUSED_BY_STRATEGY,
}

_TRANSLATIONS: Mapping[str, _Rule] = {
    "training.eval_every_steps": _nothing_held_out,
    "training.eval_every_epochs": _nothing_held_out,
    "training.early_stopping": _early_stopping,
    "training.precision": _precision,
    "adapter.type": _adapter_type,
    "adapter.target_modules": _target_modules,
    "distributed.strategy": _strategy,
}
