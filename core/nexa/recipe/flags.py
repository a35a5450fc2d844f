"""The launch flags that stand for recipe keys, as click options, and their translation.

`seed_flags` adds them to a command; `flags_to_keys` turns what click parsed into
`{dotted key: value}` for `load_recipe(flags=…)`. A key that ends in "+" appends to a list.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])

CONFIG_MODES = ("v1", "v2", "v3")
MODEL_SIZES = {
    "small": {"d_model": 2048, "n_layers": 24, "n_heads": 16},
    "medium": {"d_model": 3072, "n_layers": 32, "n_heads": 24},
    "large": {"d_model": 4096, "n_layers": 36, "n_heads": 32},
}


@dataclass(frozen=True, kw_only=True)
class SeedFlag:
    """One flag: its option, the keys it sets, its click type and help.

    keys: dotted keys that get the flag's value. resets: keys set to null along with them, since
    they would contradict it. append: value appended to the list at a key.
    """

    option: str
    keys: tuple[str, ...]
    type: click.ParamType[Any]
    help: str
    metavar: str | None = None
    resets: tuple[str, ...] = ()
    append: tuple[str, str] | None = None

    @property
    def parameter(self) -> str:
        """Name of the click parameter."""
        return self.option.removeprefix("--").replace("-", "_")


POSITIVE = click.IntRange(min=1)
WANDB = ("tracking.observers", "wandb")

SEED_FLAGS: tuple[SeedFlag, ...] = (
    SeedFlag(option="--run-name", keys=("run.name",), type=click.STRING, help="Name of the run."),
    SeedFlag(
        option="--model-size",
        keys=(),
        type=click.Choice(list(MODEL_SIZES)),
        help="Size of a model built from scratch: d_model/n_layers/n_heads "
        + ", ".join(f"{name} {'/'.join(map(str, sizes.values()))}" for name, sizes in MODEL_SIZES.items())
        + ".",
    ),
    SeedFlag(option="--max-seq-len", keys=("model.max_seq_len",), type=POSITIVE, help="Tokens a training row holds."),
    SeedFlag(
        option="--dataset",
        keys=("data.remote_uri",),
        resets=("data.dataset_version", "data.expected_dataset_hash"),
        type=click.STRING,
        metavar="PATH|URI",
        help="Training data: a file or folder, s3://…, gs://…, hf:org/dataset, pkg:PACKAGE/FILE. Held-out data"
        " stays the recipe's, see --val-split.",
    ),
    SeedFlag(
        option="--dataset-version",
        keys=("data.dataset_version",),
        type=click.STRING,
        help="Version tag of the training data.",
    ),
    SeedFlag(
        option="--expected-hash",
        keys=("data.expected_dataset_hash",),
        type=click.STRING,
        metavar="SHA256",
        help="SHA-256 the training data must have.",
    ),
    SeedFlag(
        option="--val-split",
        keys=("data.validation.fraction",),
        resets=("data.validation.remote_uri", "data.validation.split"),
        type=click.FLOAT,
        metavar="FRACTION",
        help="Share of the training documents held out for evaluation, in place of the recipe's own held-out data.",
    ),
    SeedFlag(
        option="--local-cache",
        keys=("data.local_cache_root",),
        type=click.STRING,
        metavar="FOLDER",
        help="Folder for downloaded data.",
    ),
    SeedFlag(option="--nodes", keys=("cluster.num_nodes",), type=POSITIVE, help="Number of machines."),
    SeedFlag(
        option="--gpus-per-node",
        keys=("cluster.gpus_per_node",),
        type=click.IntRange(min=0),
        help="GPUs on each machine; 0 trains on CPU.",
    ),
    SeedFlag(
        option="--microbatch",
        keys=("training.microbatch_size_per_gpu",),
        type=POSITIVE,
        help="Rows in one forward pass of one process.",
    ),
    SeedFlag(
        option="--global-batch",
        keys=("training.global_batch_size",),
        type=POSITIVE,
        help="Rows in one optimizer step over all processes.",
    ),
    SeedFlag(
        option="--grad-accum",
        keys=("training.grad_accumulation_steps",),
        type=POSITIVE,
        help="Forward passes per optimizer step.",
    ),
    SeedFlag(
        option="--steps",
        keys=("training.max_steps",),
        resets=("training.epochs",),
        type=POSITIVE,
        help="Optimizer steps to train.",
    ),
    SeedFlag(
        option="--epochs",
        keys=("training.epochs",),
        resets=("training.max_steps",),
        type=click.FLOAT,
        help="Passes over the training data.",
    ),
    SeedFlag(option="--lr", keys=("optimizer.lr",), type=click.FLOAT, help="Peak learning rate."),
    SeedFlag(
        option="--warmup",
        keys=("optimizer.scheduler.warmup_steps",),
        type=click.IntRange(min=0),
        help="Optimizer steps of learning-rate warm-up.",
    ),
    SeedFlag(
        option="--save-every",
        keys=("training.save_every_steps",),
        type=POSITIVE,
        help="Optimizer steps between checkpoints.",
    ),
    SeedFlag(
        option="--eval-every",
        keys=("training.eval_every_steps",),
        type=POSITIVE,
        help="Optimizer steps between evaluations.",
    ),
    SeedFlag(
        option="--log-every",
        keys=("training.log_every_steps",),
        type=POSITIVE,
        help="Optimizer steps between metric records.",
    ),
    SeedFlag(
        option="--activation-checkpointing",
        keys=("training.activation_checkpointing",),
        type=click.BOOL,
        help="Recompute activations in the backward pass: less memory, slower.",
    ),
    SeedFlag(
        option="--checkpoint-dir",
        keys=("artifacts.store_uri",),
        type=click.STRING,
        metavar="FOLDER|URI",
        help="Artifact store that checkpoints go to.",
    ),
    SeedFlag(
        option="--wandb-project",
        keys=("wandb.project",),
        append=WANDB,
        type=click.STRING,
        help="Weights & Biases project; turns that tracker on.",
    ),
    SeedFlag(
        option="--wandb-run",
        keys=("wandb.run",),
        append=WANDB,
        type=click.STRING,
        help="Weights & Biases run name; turns that tracker on.",
    ),
    SeedFlag(option="--backend", keys=("backend",), type=click.STRING, help="Trainer plugin."),
    SeedFlag(option="--scheduler", keys=("scheduler",), type=click.STRING, help="Scheduler plugin."),
)


def seed_flags(command: Command) -> Command:
    """Add `--config-mode` and every flag of `SEED_FLAGS` to a click command; unset flags are None."""
    for flag in reversed(SEED_FLAGS):
        if flag.type is click.BOOL:
            option = optional_boolean(flag.option, flag.parameter, help=_help(flag))
        else:
            option = click.option(flag.option, flag.parameter, type=flag.type, metavar=flag.metavar, help=_help(flag))
        command = option(command)
    return click.option(
        "--config-mode",
        type=click.Choice(CONFIG_MODES),
        help="Use a shipped recipe: v1 checks stability (short, small), v2 performance, v3 is the full run.",
    )(command)


def flags_to_keys(params: Mapping[str, Any]) -> dict[str, Any]:
    """Recipe keys set by the parsed parameters; parameters that are None or no seed flag are left out."""
    keys: dict[str, Any] = {}
    if params.get("model_size") is not None:
        sizes = MODEL_SIZES[params["model_size"]]
        keys |= {f"model.{name}": value for name, value in sizes.items()}
        keys |= {"model.n_kv_heads": None, "model.d_ff": None}
    resets: dict[str, None] = {}
    for flag in SEED_FLAGS:
        value = params.get(flag.parameter)
        if value is None:
            continue
        keys |= dict.fromkeys(flag.keys, value)
        resets |= dict.fromkeys(flag.resets)
        if flag.append is not None:
            keys[f"{flag.append[0]}+"] = [flag.append[1]]
    return {**resets, **keys}


def optional_boolean(*names: str, help: str, default: bool | None = None) -> Callable[[Command], Command]:
    """An option that may stand alone or take true or false; its command is an `OptionalBooleanCommand`."""
    return click.option(*names, type=click.BOOL, default=default, metavar="[true|false]", help=help)


class OptionalBooleanCommand(click.Command):
    """A command whose boolean options also stand alone: `--dry-run`, `--dry-run true`, `--dry-run=false`.

    Only the words true and false right after such an option count as its value, so that an argument
    that follows a bare `--dry-run` stays an argument.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Give every bare boolean option its value, then parse as usual."""
        names = {
            name
            for option in self.params
            if isinstance(option, click.Option) and option.type is click.BOOL and not option.is_flag
            for name in option.opts
        }
        return super().parse_args(ctx, _join_booleans(args, names))


def _join_booleans(args: Sequence[str], names: set[str]) -> list[str]:
    """Rewrite `--x` to `--x=true` and `--x false` to `--x=false` for the named options, up to a bare `--`."""
    joined: list[str] = []
    rest = list(args)
    while rest and rest[0] != "--":
        argument = rest.pop(0)
        if argument in names:
            has_value = bool(rest) and rest[0].lower() in ("true", "false")
            argument = f"{argument}={rest.pop(0) if has_value else 'true'}"
        joined.append(argument)
    return [*joined, *rest]


def _help(flag: SeedFlag) -> str:
    return f"{flag.help} [{', '.join(flag.keys) or 'model.*'}]"
