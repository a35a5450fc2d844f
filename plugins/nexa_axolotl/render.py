"""From a recipe to an Axolotl configuration: one function a subject, put together by `render`. Pure.

`tests/plugins/axolotl` trains by the rendered file with Nexa and with `axolotl train`, and compares.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nexa.batch import resolve_batch
from nexa.plan import resources_of
from nexa_axolotl import preferences
from nexa_axolotl.layout import Layout
from nexa_axolotl.names import OPTIMIZERS, PRECISIONS, SCHEDULES, wsd_options
from nexa_axolotl.options import own_options

if TYPE_CHECKING:
    from nexa.recipe.schema import Recipe

DATA_KEYS = ("datasets", "test_datasets", "val_set_size", "pretraining_dataset")
"""Own keys that name data: with one of them Axolotl encodes its data itself, not Nexa."""
NEVER = 1_000_000_000
"""Steps between saves or evaluations where only the last step, which always has one, is to have one."""
MIN_STEPS_OF_A_RISE = 2
"""Axolotl turns a warm-up of one step into one of two."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What only the preparation of a run knows.

    base_model: hub id or folder. row_length: most tokens in a row. held_out: whether there are held-out rows.
    """

    base_model: str
    row_length: int
    held_out: bool


def expected_inputs(recipe: Recipe, layout: Layout) -> Inputs:
    """What a preparation will find, as far as the recipe says; for printing a plan."""
    model = recipe.model
    made = model.from_scratch or model.name.endswith(".gguf")
    validation = recipe.data.validation
    return Inputs(
        base_model=str(layout.model) if made else model.name,
        row_length=model.max_seq_len or 2048,
        held_out=bool(validation.fraction or validation.remote_uri or validation.split),
    )


def render(recipe: Recipe, layout: Layout, inputs: Inputs) -> dict[str, Any]:
    """The configuration that Axolotl trains by. The recipe's `axolotl` section has the last word."""
    own = own_options(recipe)
    config = {
        **_model(recipe, layout, inputs),
        **_data(recipe, layout, inputs),
        **preferences.configuration(recipe),
        **_length(recipe),
        **_optimizer(recipe),
        **_schedule(recipe),
        **_arithmetic(recipe),
        **_adapter(recipe),
        **_saving(recipe, layout),
        **_evaluation(recipe, inputs, own),
        **_distributed(recipe),
        "seed": recipe.training.seed,
    }
    for key in superseded(own):
        config.pop(key, None)
    sharding = own.get("fsdp_config")
    if sharding is not None and "fsdp_config" in config:
        # What the recipe says by neutral names stays beside it.
        own = {**own, "fsdp_config": {**config["fsdp_config"], **sharding}}
    # Null is Axolotl's own default.
    return {key: value for key, value in {**config, **own}.items() if value is not None}


def encodes_rows(recipe: Recipe) -> bool:
    """Whether Nexa encodes the data; Axolotl does where the section `axolotl` names its own."""
    own = own_options(recipe)
    return not any(own.get(key) for key in DATA_KEYS)


def model_needs_folder(recipe: Recipe) -> bool:
    """Whether model or tokenizer are of a kind that Axolotl does not read by itself."""
    model = recipe.model
    made = model.from_scratch or model.name.lower().endswith(".gguf")
    return made or model.tokenizer is not None or model.chat_template is not None


def superseded(own: Mapping[str, Any]) -> set[str]:
    """Rendered keys that an own key takes the place of under another name."""
    attention = {"flash_attention", "sdp_attention", "flex_attention", "xformers_attention", "eager_attention"}
    places = {
        "warmup_ratio": {"warmup_steps"},
        "saves_per_epoch": {"save_steps"},
        "save_strategy": {"save_steps"},
        "evals_per_epoch": {"eval_steps", "eval_strategy"},
        "eval_strategy": {"eval_steps"},
        **{name: {"attn_implementation"} for name in attention},
    }
    return {key for name, keys in places.items() if own.get(name) is not None for key in keys}


def _model(recipe: Recipe, layout: Layout, inputs: Inputs) -> dict[str, Any]:
    config: dict[str, Any] = {"base_model": inputs.base_model}
    if encodes_rows(recipe) or model_needs_folder(recipe):
        config["tokenizer_config"] = str(layout.tokenizer)
    if recipe.model.revision is not None:
        config["revision_of_model"] = recipe.model.revision
    return config


def _data(recipe: Recipe, layout: Layout, inputs: Inputs) -> dict[str, Any]:
    config: dict[str, Any] = {
        "sequence_len": inputs.row_length,
        "sample_packing": recipe.data.packing and recipe.method not in preferences.METHODS,
        "dataset_prepared_path": str(layout.cache),
        "dataloader_num_workers": recipe.data.loader_workers,
    }
    if config["sample_packing"]:
        config["eval_sample_packing"] = True
    if not encodes_rows(recipe):
        return config
    # Without a type: the rows are encoded already.
    config["datasets"] = [{"path": str(layout.training_rows), "ds_type": "json", "type": None}]
    if inputs.held_out:
        held_out = {"path": str(layout.held_out_rows), "ds_type": "json", "split": "train", "type": None}
        config["test_datasets"] = [held_out]
    return config


def _length(recipe: Recipe) -> dict[str, Any]:
    training = recipe.training
    batch = resolve_batch(training, resources_of(recipe).world_size)
    config: dict[str, Any] = {
        "micro_batch_size": batch.microbatch_size,
        "gradient_accumulation_steps": batch.accumulation_steps,
        "logging_steps": training.log_every_steps,
        # Zero is transformers' word for no clipping; a missing key would clip at 1.
        "max_grad_norm": training.max_grad_norm or 0.0,
    }
    if training.max_steps is not None:
        return {**config, "max_steps": training.max_steps}
    return {**config, "num_epochs": training.epochs or 1}


def _optimizer(recipe: Recipe) -> dict[str, Any]:
    section = recipe.optimizer
    kind = OPTIMIZERS.get(section.name)
    config: dict[str, Any] = {
        "optimizer": kind.name if kind else section.name,
        "learning_rate": section.lr,
        "weight_decay": section.weight_decay,
    }
    if kind is not None and kind.betas is not None:
        config["adam_beta1"], config["adam_beta2"] = section.betas or kind.betas
    if kind is not None and kind.eps is not None:
        config["adam_epsilon"] = section.eps if section.eps is not None else kind.eps
    if section.name == "sgd" and section.momentum:
        config["optim_args"] = {"momentum": section.momentum}
    return config


def _schedule(recipe: Recipe) -> dict[str, Any]:
    schedule = recipe.optimizer.scheduler
    kind = SCHEDULES.get(schedule.name)
    config: dict[str, Any] = {
        "lr_scheduler": kind.name if kind else schedule.name,
        "warmup_steps": schedule.warmup_steps,
    }
    if schedule.name == "cosine_warmup" and schedule.min_lr_ratio:
        config["cosine_min_lr_ratio"] = schedule.min_lr_ratio
    if schedule.name == "cosine_with_restarts":
        config["lr_scheduler_kwargs"] = {"num_cycles": schedule.cycles}
    if schedule.name == "wsd":
        decay = schedule.decay_steps or max(1, (recipe.training.max_steps or 0) // 10)
        config["lr_scheduler_kwargs"] = wsd_options(decay, schedule.decay_shape, schedule.min_lr_ratio)
    return config


def _arithmetic(recipe: Recipe) -> dict[str, Any]:
    training = recipe.training
    config: dict[str, Any] = {
        **PRECISIONS[training.precision],
        "attn_implementation": "sdpa",
        "gradient_checkpointing": training.activation_checkpointing is True,
        "torch_compile": training.compile,
    }
    if training.activation_offload:
        config["activation_offloading"] = True
    return config


def _adapter(recipe: Recipe) -> dict[str, Any]:
    adapter = recipe.adapter
    if adapter is None:
        return {}
    config: dict[str, Any] = {
        "adapter": adapter.type,
        "lora_r": adapter.rank,
        "lora_alpha": int(adapter.alpha),
        "lora_dropout": adapter.dropout,
    }
    if adapter.target_modules == "all-linear":
        config["lora_target_linear"] = True
    else:
        config["lora_target_modules"] = list(adapter.target_modules)
    if adapter.type == "qlora":
        config["load_in_4bit"] = True
    if adapter.use_dora:
        config["peft_use_dora"] = True
    if adapter.use_rslora:
        config["peft_use_rslora"] = True
    if not recipe.cluster.gpus_per_node:
        # Triton kernels, which Axolotl turns on by itself.
        config |= {f"lora_{part}_kernel": False for part in ("mlp", "qkv", "o")}
    return config


def _saving(recipe: Recipe, layout: Layout) -> dict[str, Any]:
    every = recipe.training.save_every_steps
    return {
        "output_dir": str(layout.output),
        "save_steps": every or recipe.training.max_steps or NEVER,
        # Nexa commits each to the artifact store; none is needed here.
        "save_total_limit": 1,
        "save_only_model": not recipe.checkpointing.save_optimizer,
        "load_best_model_at_end": False,
    }


def _evaluation(recipe: Recipe, inputs: Inputs, own: Mapping[str, Any]) -> dict[str, Any]:
    training = recipe.training
    if not inputs.held_out and not any(own.get(key) for key in ("test_datasets", "val_set_size")):
        return {}
    if training.eval_every_steps is not None:
        return {"eval_steps": training.eval_every_steps}
    if training.eval_every_epochs == 1:
        return {"eval_strategy": "epoch"}
    return {"eval_steps": training.max_steps or NEVER}


def _distributed(recipe: Recipe) -> dict[str, Any]:
    section = recipe.distributed
    config: dict[str, Any] = {"ddp_timeout": max(1, round(section.timeout_seconds))}
    if section.strategy == "fsdp":
        config["fsdp_version"] = 2
        config["fsdp_config"] = {
            "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "state_dict_type": "FULL_STATE_DICT",
            "reshard_after_forward": section.reshard_after_forward,
            "offload_params": section.cpu_offload,
        }
        if recipe.training.activation_checkpointing is True:
            # FSDP2 checkpoints whole blocks itself; both at once would recompute twice.
            config["gradient_checkpointing"] = False
            config["fsdp_config"]["activation_checkpointing"] = True
    return config


def effective(recipe: Recipe, layout: Layout) -> dict[str, Any]:
    """What a run of this recipe is made of: Axolotl's configuration, and what Nexa does before and around it."""
    return {
        "config": render(recipe, layout, expected_inputs(recipe, layout)),
        "rows": {
            "model": recipe.model.model_dump(mode="json"),
            "data": recipe.data.model_dump(mode="json", exclude={"packing", "loader_workers"}),
            "method": recipe.method,
        },
        "worker": {
            "threads": recipe.cluster.threads_per_process,
            "save_optimizer": recipe.checkpointing.save_optimizer,
        },
    }
