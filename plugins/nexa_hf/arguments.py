"""From a recipe to the keyword arguments of TrainingArguments and TRL's configurations; nothing is imported.

One table holds what every recipe field becomes. The settings report is rendered from it and the worker
trains with it, so that what is reported is what is passed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nexa.batch import resolve_batch
from nexa.errors import RecipeError
from nexa.plan import resources_of
from nexa_hf.methods.base import Arguments, Method, Translation
from nexa_hf.optimizers import (
    beta_arguments,
    eps_arguments,
    momentum_arguments,
    optimizer_arguments,
    schedule_arguments,
)
from nexa_hf.options import hf_options

if TYPE_CHECKING:
    from nexa.recipe.schema import Recipe

SEED_LIMIT = 2**32
"""transformers seeds NumPy's old generator too, which takes 32 bits."""

NEXA_OWN: Mapping[str, str] = {
    "output_dir": "checkpoints go to the run's artifact store",
    "report_to": "set tracking.observers",
    "run_name": "set run.name",
    "disable_tqdm": "progress is in the run's events",
    "save_strategy": "set training.save_every_steps",
    "save_total_limit": "set checkpointing.keep_last",
    "save_only_model": "set checkpointing.save_optimizer",
    "save_on_each_node": "rank 0 commits checkpoints",
    "enable_jit_checkpoint": "stop requests save a checkpoint at the step boundary",
    "load_best_model_at_end": "set training.early_stopping.restore_best with backend torch",
    "greater_is_better": "set checkpointing.mode",
    "restore_callback_states_from_checkpoint": "resumed runs always continue exactly",
    "ignore_data_skip": "resumed runs always continue exactly",
    "resume_from_checkpoint": "type: nexa resume RUN",
    "logging_strategy": "set training.log_every_steps",
    "logging_nan_inf_filter": "a loss that is not a number stops the run",
    "eval_strategy": "set training.eval_every_steps",
    "eval_on_start": "held-out data is always evaluated before the first step",
    "per_device_eval_batch_size": "it is training.microbatch_size_per_gpu",
    "push_to_hub": "a run commits to its artifact store and nowhere else",
    "fsdp": "set distributed.strategy=fsdp",
    "fsdp_config": "set hf.fsdp",
    "deepspeed": "set hf.deepspeed",
    "ddp_backend": "gloo on CPU, nccl on GPUs",
    "max_length": "set model.max_seq_len",
    "data_seed": "set training.seed",
    "do_train": "nexa launch trains",
    "local_rank": "set by the launcher",
}
"""Arguments that Nexa sets for every run, and what to do instead of setting them."""


def _batch(recipe: Recipe) -> Arguments:
    try:
        plan = resolve_batch(recipe.training, resources_of(recipe).world_size)
    except RecipeError:
        # The plan refuses it with the numbers.
        return {}
    return {"gradient_accumulation_steps": plan.accumulation_steps}


def _precision(recipe: Recipe) -> Arguments:
    name = recipe.training.precision
    tf32 = {"tf32": name == "tf32"} if recipe.cluster.gpus_per_node else {}
    return {"bf16": name == "bf16", "fp16": name == "fp16", **tf32}


def _evaluation(recipe: Recipe) -> Arguments:
    every = recipe.training.eval_every_steps
    if not holds_out(recipe):
        return {}
    return {"eval_strategy": "steps", "eval_steps": every} if every else {}


def _duration(recipe: Recipe) -> Arguments:
    return {"max_steps": recipe.training.max_steps} if recipe.training.max_steps else {}


def _passes(recipe: Recipe) -> Arguments:
    return {} if recipe.training.max_steps else {"num_train_epochs": recipe.training.epochs or 1.0}


def _strategy(recipe: Recipe) -> Arguments:
    if recipe.distributed.strategy != "fsdp":
        return {}
    return {
        "fsdp": True,
        "fsdp_config.version": 2,
        "fsdp_config.state_dict_type": "FULL_STATE_DICT",
    }


def _sharded(key: str, name: str) -> Translation:
    def rule(recipe: Recipe) -> Arguments:
        if recipe.distributed.strategy != "fsdp":
            return {}
        return {f"fsdp_config.{name}": getattr(recipe.distributed, key)}

    return rule


SHARED: Mapping[str, Translation] = {
    "data.loader_workers": lambda recipe: {"dataloader_num_workers": recipe.data.loader_workers},
    "training.microbatch_size_per_gpu": lambda recipe: {
        "per_device_train_batch_size": recipe.training.microbatch_size_per_gpu,
        "per_device_eval_batch_size": recipe.training.microbatch_size_per_gpu,
    },
    "training.global_batch_size": _batch,
    "training.grad_accumulation_steps": _batch,
    "training.max_steps": _duration,
    "training.epochs": _passes,
    "training.save_every_steps": lambda recipe: (
        {"save_strategy": "steps", "save_steps": recipe.training.save_every_steps}
        if recipe.training.save_every_steps
        else {}
    ),
    "training.eval_every_steps": _evaluation,
    "training.log_every_steps": lambda recipe: {"logging_steps": recipe.training.log_every_steps},
    "training.precision": _precision,
    "training.max_grad_norm": lambda recipe: {"max_grad_norm": recipe.training.max_grad_norm or 0.0},
    "training.activation_checkpointing": lambda recipe: {
        "gradient_checkpointing": bool(recipe.training.activation_checkpointing)
    },
    "training.compile": lambda recipe: {"torch_compile": recipe.training.compile},
    "training.seed": lambda recipe: {"seed": recipe.training.seed % SEED_LIMIT},
    "optimizer.name": optimizer_arguments,
    "optimizer.lr": lambda recipe: {"learning_rate": recipe.optimizer.lr},
    "optimizer.weight_decay": lambda recipe: {"weight_decay": recipe.optimizer.weight_decay},
    "optimizer.betas": beta_arguments,
    "optimizer.eps": eps_arguments,
    "optimizer.momentum": momentum_arguments,
    "optimizer.scheduler.name": schedule_arguments,
    "optimizer.scheduler.warmup_steps": lambda recipe: {"warmup_steps": recipe.optimizer.scheduler.warmup_steps},
    "cluster.gpus_per_node": lambda recipe: {} if recipe.cluster.gpus_per_node else {"use_cpu": True},
    "distributed.strategy": _strategy,
    "distributed.timeout_seconds": lambda recipe: {"ddp_timeout": int(recipe.distributed.timeout_seconds)},
    "distributed.reshard_after_forward": _sharded("reshard_after_forward", "reshard_after_forward"),
    "distributed.cpu_offload": _sharded("cpu_offload", "cpu_offload"),
}
"""Recipe fields that become arguments of every method."""

_ALWAYS: Arguments = {
    "report_to": "none",
    "disable_tqdm": True,
    "save_strategy": "no",
    "eval_strategy": "no",
    "logging_strategy": "steps",
    # A loss that is not a number ends the run; by default transformers logs an average in its place.
    "logging_nan_inf_filter": False,
    "dataloader_pin_memory": False,
}


def holds_out(recipe: Recipe) -> bool:
    """Whether the recipe keeps data to evaluate on."""
    held = recipe.data.validation
    return bool(held.fraction or held.remote_uri or held.split)


def translations(method: Method) -> Mapping[str, Translation]:
    """What every recipe field becomes for a method, the method's own first."""
    return {**SHARED, **method.arguments}


def training_arguments(recipe: Recipe, method: Method) -> dict[str, Any]:
    """Keyword arguments of the method's argument class, as far as the recipe alone tells them."""
    flat: dict[str, Any] = {**_ALWAYS, "dataloader_pin_memory": bool(recipe.cluster.gpus_per_node)}
    flat |= method.fixed(recipe)
    for translate in translations(method).values():
        flat |= translate(recipe)
    if holds_out(recipe):
        flat["eval_on_start"] = True
    options = hf_options(recipe)
    if recipe.distributed.strategy == "fsdp":
        flat |= {f"fsdp_config.{key}": value for key, value in options.fsdp.items()}
    if options.deepspeed is not None:
        flat["deepspeed"] = options.deepspeed
    return {**nested(flat), **options.arguments}


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments with the keys of their mappings put together: "a.b" is key b of a."""
    whole: dict[str, Any] = {}
    for name, value in flat.items():
        argument, _, key = name.partition(".")
        if key:
            whole.setdefault(argument, {})[key] = value
        else:
            whole[argument] = value
    return whole


def owners(recipe: Recipe, method: Method) -> dict[str, str]:
    """Which recipe field stands for each argument, and what to do about those that Nexa sets itself."""
    owned = dict(NEXA_OWN)
    for path, translate in translations(method).items():
        owned |= {name.partition(".")[0]: f"set {path}" for name in _possible(path, translate(recipe))}
    return {**dict.fromkeys(method.fixed(recipe), f"method {method.name} sets it"), **owned}


_OFTEN_EMPTY: Mapping[str, tuple[str, ...]] = {
    "training.max_steps": ("max_steps",),
    "training.epochs": ("num_train_epochs",),
    "training.eval_every_steps": ("eval_strategy", "eval_steps"),
    "training.save_every_steps": ("save_strategy", "save_steps"),
    "training.precision": ("bf16", "fp16", "tf32"),
    "cluster.gpus_per_node": ("use_cpu",),
}
"""Arguments of fields whose translation is empty for some recipes."""


def _possible(path: str, arguments: Arguments) -> tuple[str, ...]:
    return (*arguments, *_OFTEN_EMPTY.get(path, ()))
