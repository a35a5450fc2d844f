"""What this backend does with every recipe field: honoured, translated how, or refused why."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from nexa.backend import Answer, SettingAnswer
from nexa.recipe.schema import Recipe
from nexa.recipe.sections.training import EarlyStoppingSection
from nexa.settings_report import value_at
from nexa_axolotl import preferences
from nexa_axolotl.names import (
    OPTIMIZER_FIELDS,
    OPTIMIZERS,
    PRECISIONS,
    SCHEDULE_FIELDS,
    SCHEDULES,
)
from nexa_axolotl.options import own_options
from nexa_axolotl.render import MIN_STEPS_OF_A_RISE, encodes_rows
from nexa_torch.unused import UNUSED_BY_SOURCE, UNUSED_BY_STRATEGY

if TYPE_CHECKING:
    from collections.abc import Sequence

_Rule = Callable[[Recipe], "str | None"]

_PREPARED_DATA = (
    *(f"data.{key}" for key in ("format", "split", "dataset_version", "expected_dataset_hash")),
    *(f"data.validation.{key}" for key in ("fraction", "remote_uri", "split", "max_documents")),
    "data.local_cache_root",
    "data.max_documents",
    "data.train_on",
)
"""What Nexa's preparation of the data heeds; nothing of it is left when Axolotl encodes the data itself."""
_OWN_DATA = "the section axolotl names its own data, which Axolotl encodes itself"


def answer_settings(recipe: Recipe) -> Sequence[SettingAnswer]:
    """Answer for every leaf of the recipe schema, in schema order."""
    answers = []
    for path in Recipe.leaf_paths():
        refusal = _REFUSALS[path](recipe) if path in _REFUSALS else _by_section(path, recipe)
        translation = _own_word(path, recipe) or (_TRANSLATIONS[path](recipe) if path in _TRANSLATIONS else None)
        if refusal is not None:
            answers.append(SettingAnswer(path=path, answer=Answer.REFUSED, detail=refusal))
        elif translation is not None:
            answers.append(SettingAnswer(path=path, answer=Answer.TRANSLATED, detail=translation))
        else:
            answers.append(SettingAnswer(path=path, answer=Answer.HONOURED))
    return answers


def _own_word(path: str, recipe: Recipe) -> str | None:
    """What the section `axolotl` says in place of a field that the recipe leaves at its default."""
    own = own_options(recipe)
    said = [f"{key}: {_text(own[key])}" for key in _OWN_WORDS.get(path, ()) if own.get(key) is not None]
    unsaid = [key for key in _OWN_WORDS.get(path, ()) if key in own and own[key] is None]
    if said:
        return f"the section axolotl says {', '.join(said)}"
    return f"the section axolotl leaves {', '.join(unsaid)} to Axolotl" if unsaid else None


def _by_section(path: str, recipe: Recipe) -> str | None:
    """Why a field of a section that this backend has no use for is refused."""
    section, _, _ = path.partition(".")
    return _REFUSED_SECTIONS.get(section)


def _refused(reason: str) -> _Rule:
    return lambda recipe: reason


def _prepared(path: str) -> _Rule:
    """The rule of a field that Nexa's preparation of the data heeds, where the data has it."""

    def rule(recipe: Recipe) -> str | None:
        if not encodes_rows(recipe):
            return _OWN_DATA
        return UNUSED_BY_SOURCE[path](recipe) if path in UNUSED_BY_SOURCE else None

    return rule


def _train_on(recipe: Recipe) -> str | None:
    if recipe.method in preferences.METHODS:
        return "preferences are trained on their answers"
    return None if encodes_rows(recipe) else _OWN_DATA


def _packing_refusal(recipe: Recipe) -> str | None:
    return "preferences are not packed" if recipe.method in preferences.METHODS else None


def _preference_field(field: str) -> _Rule:
    """A rule that refuses a field of the section `preference` that the recipe's method does not heed."""

    def rule(recipe: Recipe) -> str | None:
        users = preferences.USERS[field]
        if recipe.method not in users:
            return f"only {', '.join(users)} heeds it" if users else "Axolotl has no such thing here"
        if field == "label_smoothing" and recipe.preference.loss_type == "ipo":
            return "Axolotl's ipo has none"
        return None

    return rule


def _streaming(recipe: Recipe) -> str | None:
    return "Axolotl is given rows that are encoded before the run"


def _eval_every_epochs(recipe: Recipe) -> str | None:
    training = recipe.training
    if training.eval_every_epochs in (None, 1) and not (training.eval_every_epochs and training.eval_every_steps):
        return None
    return "Axolotl evaluates by steps, or after every epoch: set 1, or training.eval_every_steps"


def _schedule_field(field: str) -> _Rule:
    """A rule that refuses a field of the schedule section where the chosen schedule does not use it."""

    def rule(recipe: Recipe) -> str | None:
        kind = SCHEDULES.get(recipe.optimizer.scheduler.name)
        if kind is None or field in kind.fields:
            return None
        users = ", ".join(name for name, other in SCHEDULES.items() if field in other.fields)
        having = f"; these have: {users}" if users else ""
        return f"Axolotl's schedule for {recipe.optimizer.scheduler.name} has no {field}{having}"

    return rule


def _schedule_name(recipe: Recipe) -> str | None:
    name = recipe.optimizer.scheduler.name
    if name not in SCHEDULES:
        return f"Axolotl has no such schedule; this backend has {', '.join(SCHEDULES)}"
    decay = recipe.optimizer.scheduler.decay_steps
    if name == "wsd" and decay is None and recipe.training.max_steps is None:
        return "wsd needs to know its last steps: set optimizer.scheduler.decay_steps or training.max_steps"
    return None


def _warmup_steps(recipe: Recipe) -> str | None:
    if recipe.optimizer.scheduler.warmup_steps == MIN_STEPS_OF_A_RISE - 1:
        return "Axolotl makes a warm-up of one step one of two; set 0 or 2"
    return None


def _optimizer_name(recipe: Recipe) -> str | None:
    name = recipe.optimizer.name
    if name not in OPTIMIZERS:
        return f"Axolotl has no such optimizer; this backend has {', '.join(OPTIMIZERS)}"
    if OPTIMIZERS[name].needs_gpu and not recipe.cluster.gpus_per_node:
        return f"{OPTIMIZERS[name].name} needs a CUDA GPU; cluster.gpus_per_node=0"
    return None


def _optimizer_field(field: str) -> _Rule:
    """A rule that refuses a field of the optimizer section where Axolotl's optimizer does not use it."""

    def rule(recipe: Recipe) -> str | None:
        if field == "momentum":
            return None if recipe.optimizer.name == "sgd" else "only Axolotl's sgd takes it here"
        kind = OPTIMIZERS.get(recipe.optimizer.name)
        if kind is None or getattr(kind, field, None) is not None:
            return None
        users = ", ".join(name for name, other in OPTIMIZERS.items() if getattr(other, field, None) is not None)
        return f"Axolotl gives {recipe.optimizer.name} no {field}" + (f"; these have: {users}" if users else "")

    return rule


def _precision(recipe: Recipe) -> str | None:
    if recipe.training.precision != "fp32" and not recipe.cluster.gpus_per_node:
        return "on CPU Axolotl trains in fp32 alone: set training.precision=fp32"
    return None


def _activation_checkpointing(recipe: Recipe) -> str | None:
    if recipe.training.activation_checkpointing == "selective":
        return "Axolotl's own selective_checkpointing chooses by names of operators: set it in the section axolotl"
    return None


def _needs_gpu(what: str) -> _Rule:
    return lambda recipe: None if recipe.cluster.gpus_per_node else f"{what} needs a CUDA GPU; cluster.gpus_per_node=0"


def _alpha(recipe: Recipe) -> str | None:
    adapter = recipe.adapter
    return None if adapter is None or adapter.alpha == int(adapter.alpha) else "Axolotl takes whole numbers alone"


def _adapter_type(recipe: Recipe) -> str | None:
    adapter = recipe.adapter
    if adapter is None or adapter.type != "qlora":
        return None
    return None if recipe.cluster.gpus_per_node else "qlora needs a CUDA GPU; set adapter.type=lora"


def _strategy(recipe: Recipe) -> str | None:
    if recipe.distributed.strategy == "fsdp" and not recipe.cluster.gpus_per_node:
        return "Axolotl shards over GPUs alone; cluster.gpus_per_node=0"
    return None


_REFUSED_SECTIONS: Mapping[str, str] = {
    "samples": "Axolotl's own generate_samples writes samples: set it in the section axolotl",
    "rollouts": "this backend trains on given answers alone",
    "distill": "this backend has no teacher",
}

_REFUSALS: Mapping[str, _Rule] = {
    **UNUSED_BY_SOURCE,
    **UNUSED_BY_STRATEGY,
    **{path: _prepared(path) for path in _PREPARED_DATA},
    "data.train_on": _train_on,
    "data.packing": _packing_refusal,
    **{f"preference.{name}": _preference_field(name) for name in preferences.USERS},
    "data.streaming": _streaming,
    "data.stream_window": _streaming,
    "training.eval_every_epochs": _eval_every_epochs,
    **{
        f"training.early_stopping.{name}": _refused(
            "Axolotl has its own early_stopping_patience: set it in the section axolotl"
        )
        for name in EarlyStoppingSection.model_fields
    },
    "training.measure_mfu": _refused("Axolotl does not measure it"),
    "training.profile_steps": _refused("set Axolotl's own profiler_steps in the section axolotl"),
    "training.precision": _precision,
    "training.activation_checkpointing": _activation_checkpointing,
    "training.checkpoint_every_blocks": _refused("Axolotl recomputes every block"),
    "training.activation_offload": _needs_gpu("activation offload"),
    "optimizer.name": _optimizer_name,
    **{f"optimizer.{name}": _optimizer_field(name) for name in OPTIMIZER_FIELDS},
    "optimizer.offload": _refused(
        "Axolotl offloads with FSDP or DeepSpeed: distributed.cpu_offload, axolotl.deepspeed"
    ),
    "optimizer.scheduler.name": _schedule_name,
    **{f"optimizer.scheduler.{name}": _schedule_field(name) for name in SCHEDULE_FIELDS},
    "optimizer.scheduler.warmup_steps": _warmup_steps,
    "adapter.type": _adapter_type,
    "adapter.alpha": _alpha,
    "checkpointing.async_save": _refused("Axolotl waits until a checkpoint is written"),
    "distributed.strategy": _strategy,
}


def _named(key: str, path: str) -> _Rule:
    """Axolotl's key with the recipe's own value."""
    return lambda recipe: f"{key}: {_text(value_at(recipe.document(), path))}"


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def _tokenizer(recipe: Recipe) -> str | None:
    return "tokenizer_config: the folder of the tokenizer that encoded the rows"


def _base_model(recipe: Recipe) -> str | None:
    if recipe.model.from_scratch:
        return "base_model: a folder with Nexa's random weights for these sizes, from the same seed"
    if recipe.model.name.endswith(".gguf"):
        return "base_model: a folder with the GGUF file's weights as safetensors"
    return f"base_model: {recipe.model.name}"


def _packing(recipe: Recipe) -> str | None:
    if not recipe.data.packing:
        return "sample_packing: false"
    return (
        "sample_packing: true; Axolotl packs the encoded rows itself, with attention kept apart, in a new order every "
        "epoch, and leaves out an epoch's last incomplete batch; a long document's first token after a cut is not "
        "predicted"
    )


def _epochs(recipe: Recipe) -> str | None:
    return None if recipe.training.max_steps is not None else f"num_epochs: {recipe.training.epochs or 1:g}"


def _precision_switches(recipe: Recipe) -> str | None:
    switches = ", ".join(f"{name}: {_text(on)}" for name, on in PRECISIONS[recipe.training.precision].items())
    kept = {"bf16": "; Axolotl keeps the weights in bf16 too", "fp16": "; Axolotl loads the weights in fp16"}
    return switches + kept.get(recipe.training.precision, "")


def _optimizer(recipe: Recipe) -> str | None:
    kind = OPTIMIZERS.get(recipe.optimizer.name)
    return f"optimizer: {kind.name}" if kind else None


def _schedule(recipe: Recipe) -> str | None:
    kind = SCHEDULES.get(recipe.optimizer.scheduler.name)
    return f"lr_scheduler: {kind.name}" if kind else None


def _weight_decay(recipe: Recipe) -> str | None:
    value = recipe.optimizer.weight_decay
    return f"weight_decay: {value:g}" + ("; on embeddings too, not on norms and biases" if value else "")


def _target_modules(recipe: Recipe) -> str | None:
    adapter = recipe.adapter
    if adapter is None:
        return None
    if adapter.target_modules == "all-linear":
        return "lora_target_linear: true"
    return f"lora_target_modules: {', '.join(adapter.target_modules)}"


def _when(path: str, text: str) -> _Rule:
    """A translation of a field that has a value."""
    return lambda recipe: text if value_at(recipe.document(), path) else None


def _distributed(recipe: Recipe) -> str | None:
    if recipe.distributed.strategy == "fsdp":
        return "fsdp_version: 2, fsdp_config: a group a block"
    return "DDP where there are several processes"


def _seed(recipe: Recipe) -> str | None:
    return f"seed: {recipe.training.seed}; the order of rows is Axolotl's own"


_OWN_WORDS: Mapping[str, tuple[str, ...]] = {
    "training.precision": ("bf16", "fp16", "tf32"),
    "training.seed": ("seed",),
    "training.compile": ("torch_compile",),
    "training.max_grad_norm": ("max_grad_norm",),
    "training.activation_checkpointing": ("gradient_checkpointing",),
    "training.save_every_steps": ("save_strategy", "saves_per_epoch", "save_steps"),
    "training.eval_every_steps": ("eval_strategy", "evals_per_epoch", "eval_steps"),
    "data.packing": ("sample_packing",),
    "data.loader_workers": ("dataloader_num_workers",),
    "optimizer.name": ("optimizer",),
    "optimizer.weight_decay": ("weight_decay",),
    "optimizer.betas": ("adam_beta1", "adam_beta2"),
    "optimizer.eps": ("adam_epsilon",),
    "optimizer.scheduler.name": ("lr_scheduler",),
    "optimizer.scheduler.warmup_steps": ("warmup_ratio", "warmup_steps"),
    "model.tokenizer": ("tokenizer_config",),
}
"""Axolotl's keys that stand for a field of the recipe, where its section names them."""


def _remote_uri(recipe: Recipe) -> str | None:
    return None if encodes_rows(recipe) else "named for people; Axolotl reads datasets of the section axolotl"


_TRANSLATIONS: Mapping[str, _Rule] = {
    "data.remote_uri": _remote_uri,
    "model.name": _base_model,
    "model.tokenizer": _tokenizer,
    "model.chat_template": _when("model.chat_template", "in the tokenizer's folder; the rows are encoded with it"),
    "model.max_seq_len": _when("model.max_seq_len", "sequence_len"),
    "data.packing": _packing,
    "data.loader_workers": _named("dataloader_num_workers", "data.loader_workers"),
    "training.microbatch_size_per_gpu": _named("micro_batch_size", "training.microbatch_size_per_gpu"),
    "training.grad_accumulation_steps": _when(
        "training.grad_accumulation_steps",
        "gradient_accumulation_steps; the mean of the microbatches' means, whatever their number of trained tokens",
    ),
    "training.global_batch_size": _when("training.global_batch_size", "gradient_accumulation_steps follows from it"),
    "training.epochs": _epochs,
    "training.save_every_steps": _when("training.save_every_steps", "save_steps; committed by Nexa's callback"),
    "training.eval_every_steps": _when("training.eval_every_steps", "eval_steps"),
    "training.log_every_steps": _named("logging_steps", "training.log_every_steps"),
    "training.precision": _precision_switches,
    "training.compile": _named("torch_compile", "training.compile"),
    "training.activation_checkpointing": _named("gradient_checkpointing", "training.activation_checkpointing"),
    "training.seed": _seed,
    "optimizer.name": _optimizer,
    "optimizer.weight_decay": _weight_decay,
    "optimizer.scheduler.name": _schedule,
    "adapter.target_modules": _target_modules,
    "checkpointing.save_optimizer": _when(
        "checkpointing.save_optimizer", "Axolotl's optimizer and random-number state, stored without pickle"
    ),
    "distributed.strategy": _distributed,
    "distributed.timeout_seconds": _when("distributed.timeout_seconds", "ddp_timeout, in whole seconds"),
}
