"""From an Axolotl configuration to a recipe: every key gets its neutral name, stays under `axolotl`, or is refused.

The inverse of `render`: what a recipe would say and the file leaves to Axolotl is set to null under `axolotl`, so that
the imported recipe renders to the file it came from, but for what a run of Nexa decides itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nexa.errors import Problem, RecipeError
from nexa.recipe.imports import Imported
from nexa.recipe.node import Node, Origin, OriginKind, merge, nest
from nexa_axolotl.names import DIRECT, OPTIMIZERS, PRECISIONS, SCHEDULES
from nexa_axolotl.options import SECTION
from nexa_axolotl.preferences import METHODS

_MARK = "base_model"
_DECIDED = {
    "output_dir": "a run has a folder of its own, and checkpoints go to the artifact store",
    "dataset_prepared_path": "encoded data is kept in the run's folder",
    "save_total_limit": "checkpointing.keep_last says how many checkpoints are kept",
    "save_only_model": "checkpointing.save_optimizer says it",
    "load_best_model_at_end": "the best checkpoint is kept by checkpointing.keep_best",
    "auto_resume_from_checkpoints": "nexa resume continues a run",
    "strict": "unknown keys are always refused",
}
"""Keys without effect on what is trained, which a run of Nexa decides: left out, with the reason told."""
_REFUSED = {
    "batch_size": "say it as micro_batch_size and gradient_accumulation_steps",
    "resume_from_checkpoint": "start from the checkpoint as base_model, or continue a run of Nexa with nexa resume",
    "use_ray": "Nexa starts the processes itself",
    "auto_find_batch_size": "a recipe's batch is what it says",
}
"""Keys that can't be kept, and what to do instead."""

_FLOATS = ("learning_rate", "weight_decay", "adam_epsilon", "lora_alpha", "lora_dropout", "max_grad_norm", "num_epochs")
_FSDP = "fsdp_"
_UNSET = Origin(OriginKind.DEFAULT)
_EXPLICIT = (
    "sample_packing",
    "eval_sample_packing",
    "max_grad_norm",
    "optimizer",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "lr_scheduler",
    "warmup_steps",
    "bf16",
    "fp16",
    "tf32",
    "attn_implementation",
    "gradient_checkpointing",
    "torch_compile",
    "tokenizer_config",
    "dataloader_num_workers",
    "seed",
    "ddp_timeout",
    "lora_dropout",
    "lora_mlp_kernel",
    "lora_qkv_kernel",
    "lora_o_kernel",
)
"""What a recipe renders in any case: null where the file leaves it to Axolotl."""
_EXPLICIT_OF = {
    "dpo": ("rl_beta", "dpo_loss_type", "dpo_label_smoothing", "precompute_ref_log_probs"),
    "kto": ("rl_beta", "kto_desirable_weight", "kto_undesirable_weight"),
    "orpo": ("orpo_alpha",),
}
"""The same, of methods of preference."""


@dataclass
class _Work:
    """An import under way: keys not dealt with yet, what the recipe says so far, and what to tell."""

    left: dict[str, Node]
    root: Node
    own: dict[str, Node]
    notes: list[str]
    problems: list[Problem]

    def put(self, path: str, node: Node) -> None:
        """Say something in the recipe."""
        self.root = merge(self.root, nest(path, node))

    def keep(self, key: str, node: Node) -> None:
        """Leave a key to Axolotl."""
        self.own[key] = node

    def take(self, key: str) -> Node | None:
        """A key's value, None where it is missing or null."""
        node = self.left.pop(key, None)
        return node if node is not None and node.value is not None else None

    @property
    def method(self) -> str:
        """The recipe's method."""
        node = self.root.child("method")
        return str(node.value) if node is not None else ""

    def value(self, key: str) -> Any:
        """A key's plain value, still to be dealt with."""
        node = self.left.get(key)
        return None if node is None else node.plain()


def import_configuration(root: Node, file: Path) -> Imported | None:
    """The recipe of an Axolotl configuration; None where the file is none.

    Raises RecipeError naming every key that can't be kept, with its line.
    """
    if not isinstance(root.value, dict) or _MARK not in root.value or "model" in root.value:
        return None
    # A key without a value is one that is not there.
    said = {key: node for key, node in root.value.items() if node.value is not None}
    work = _Work(left=dict(said), root=Node({}, root.origin), own={}, notes=[], problems=[])
    for step in _STEPS:
        step(work, file)
    for key, node in work.left.items():
        work.keep(key, node)
    for key in (*_EXPLICIT, *_EXPLICIT_OF.get(work.method, ())):
        if key not in said and _is_rendered(key, work):
            work.keep(key, Node(None, _UNSET))
    if work.problems:
        raise RecipeError(work.problems)
    work.put("backend", Node(SECTION, _UNSET))
    work.root = merge(work.root, Node({SECTION: Node(dict(work.own), root.origin)}, root.origin))
    return Imported(root=work.root, notes=tuple(work.notes))


def _files(work: _Work, file: Path) -> None:
    """Paths of files that are there made absolute, since a run has another current folder."""
    for key in ("base_model", "tokenizer_config", "deepspeed", "lora_model_dir", "chat_template_jinja"):
        if (node := work.left.get(key)) is not None:
            work.left[key] = _absolute(node, file.parent)


def _sharding(work: _Work, file: Path) -> None:
    """Names of FSDP's settings as Axolotl itself rewrites them: without the prefix that they had once."""
    node = work.left.get("fsdp_config")
    if node is None or not isinstance(node.value, dict):
        return
    renamed = {key if key == "fsdp_version" else key.removeprefix(_FSDP): member for key, member in node.value.items()}
    if set(renamed) != set(node.value):
        work.notes.append(f"keys of fsdp_config lose the prefix {_FSDP}, which Axolotl takes no more")
        work.left["fsdp_config"] = replace(node, value=renamed)


def _is_rendered(key: str, work: _Work) -> bool:
    """Whether the recipe would say a key by itself that the file does not."""
    if key.startswith("lora_"):
        return work.root.find(("adapter", "type")) is not None
    if key.startswith("adam_beta") and work.root.find(("optimizer", "betas")) is not None:
        return False
    if key == "bf16":
        return work.root.find(("training", "precision")) is None
    return True


def _decided(work: _Work, file: Path) -> None:
    for key, reason in _DECIDED.items():
        if work.take(key) is not None:
            work.notes.append(f"{key} is left out: {reason}")
    for key, instead in _REFUSED.items():
        node = work.take(key)
        if node is not None and node.value is not False:
            work.problems.append(_problem(node, key, "a run of Nexa can't do this", instead))


def _method(work: _Work, file: Path) -> None:
    rl = work.take("rl")
    if rl is not None:
        if rl.value not in METHODS:
            known = f"methods: {', '.join(METHODS)}"
            work.problems.append(_problem(rl, "rl", f"backend axolotl has no method {rl.value!r}", known))
        work.put("method", rl)
        if work.value("sample_packing") is False:
            # Preferences never are packed, and a recipe that says so is told that it can't.
            work.take("sample_packing")
        return
    completion = any(dataset.get("type") == "completion" for dataset in _datasets(work))
    texts = work.value("pretraining_dataset") is not None or completion
    work.put("method", Node("pretrain" if texts else "sft", _UNSET))


def _datasets(work: _Work) -> Iterator[Mapping[str, Any]]:
    for dataset in work.value("datasets") or []:
        if isinstance(dataset, dict):
            yield dataset


def _data(work: _Work, file: Path) -> None:
    """Axolotl encodes its data itself; the recipe names the first source, for people and lineage."""
    for key in ("datasets", "test_datasets", "pretraining_dataset"):
        node = work.take(key)
        if node is None:
            continue
        node = _placed(node, file.parent)
        work.keep(key, node)
        if key != "test_datasets" and work.root.find(("data", "remote_uri")) is None:
            source = node.child(0) if isinstance(node.value, list) else node
            path = source.child("path") if source is not None else None
            name = path or source
            if name is not None and isinstance(name.value, str):
                is_hub = not name.value.startswith("/") and "://" not in name.value
                work.put("data.remote_uri", replace(name, value=f"hf:{name.value}" if is_hub else name.value))


def _placed(node: Node, folder: Path) -> Node:
    """Data sets with the paths of files that are there made absolute."""
    if isinstance(node.value, list):
        return replace(node, value=[_placed(member, folder) for member in node.value])
    if not isinstance(node.value, dict):
        return _absolute(node, folder)
    paths = {key: _placed(node.value[key], folder) for key in ("path", "data_files") if key in node.value}
    return replace(node, value={**node.value, **paths})


def _absolute(node: Node, folder: Path) -> Node:
    """A path relative to the current folder, or else to the file's own, made absolute; other text as it is."""
    for base in (Path.cwd(), folder):
        if isinstance(node.value, str) and node.value and (base / node.value).exists():
            return replace(node, value=str((base / node.value).absolute()))
    return node


def _model(work: _Work, file: Path) -> None:
    tokenizer = work.take("tokenizer_config")
    if tokenizer is not None:
        work.put("model.tokenizer", tokenizer)


def _length(work: _Work, file: Path) -> None:
    """Steps and passes: Axolotl looks at max_steps first."""
    if work.value("max_steps") is not None and work.take("num_epochs") is not None:
        work.notes.append("num_epochs is left out: max_steps is set, and Axolotl ends there")
    for key, wanted in (("save_strategy", "steps"), ("eval_strategy", "steps")):
        if work.value(key) == wanted:
            work.take(key)
    if not any(work.value(key) for key in ("save_steps", "save_strategy", "saves_per_epoch")):
        work.keep("save_strategy", Node("epoch", _UNSET))


def _numbers(work: _Work, file: Path) -> None:
    for key, path in DIRECT.items():
        node = work.left.get(key)
        if node is None or node.value is None or not _fits(key, node.value):
            continue
        work.take(key)
        if key in _FLOATS:
            number = _number(node.value)
            if number is None:
                work.problems.append(_problem(node, key, f"{node.value!r} is no number", "write one, such as 2e-4"))
                continue
            node = replace(node, value=number)
        work.put(path, node)


def _number(value: Any) -> float | None:
    """A number, also one that stands in quotes, as Axolotl takes it; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        return float(value)
    except ValueError:
        return None


def _fits(key: str, value: Any) -> bool:
    """Whether a recipe has a word for the value; steps given as a share of the run, it has not."""
    if key in ("save_steps", "eval_steps", "logging_steps"):
        return isinstance(value, int) and value > 0
    if key in ("torch_compile",):
        return isinstance(value, bool)
    if key == "warmup_steps":
        return value != 1
    if key == "max_grad_norm":
        # Zero is transformers' word for no clipping.
        return value != 0
    return True


def _optimizer(work: _Work, file: Path) -> None:
    names = {kind.name: name for name, kind in OPTIMIZERS.items()}
    if work.value("optimizer") in names:
        node = work.take("optimizer")
        assert node is not None
        work.put("optimizer.name", replace(node, value=names[node.value]))
    first, second = work.value("adam_beta1"), work.value("adam_beta2")
    if first is not None and second is not None:
        node = work.take("adam_beta1")
        work.take("adam_beta2")
        assert node is not None
        betas = [replace(node, value=float(first)), replace(node, value=float(second))]
        work.put("optimizer.betas", replace(node, value=betas))


def _schedule(work: _Work, file: Path) -> None:
    names = {kind.name: name for name, kind in SCHEDULES.items() if name != "wsd"}
    if work.value("lr_scheduler") in names:
        node = work.take("lr_scheduler")
        assert node is not None
        work.put("optimizer.scheduler.name", replace(node, value=names[node.value]))
    if work.value("cosine_min_lr_ratio") and work.root.find(("optimizer", "scheduler", "name")) is not None:
        node = work.take("cosine_min_lr_ratio")
        assert node is not None
        work.put("optimizer.scheduler.min_lr_ratio", replace(node, value=float(node.value)))


def _precision(work: _Work, file: Path) -> None:
    """The three switches, where together they are a recipe's precision; else they stay as they are."""
    said = {key: work.value(key) for key in ("bf16", "fp16", "tf32")}
    for name, switches in PRECISIONS.items():
        if all(said[key] is not None and said[key] == on for key, on in switches.items()):
            for key in switches:
                work.take(key)
            work.put("training.precision", Node(name, _UNSET))
    if work.value("gradient_checkpointing") in (True, False):
        node = work.take("gradient_checkpointing")
        assert node is not None
        work.put("training.activation_checkpointing", node)


def _adapter(work: _Work, file: Path) -> None:
    kind = work.value("adapter")
    if kind not in ("lora", "qlora"):
        # An adapter's numbers without one would be ignored.
        work.root = _without_adapter(work)
        return
    node = work.take("adapter")
    assert node is not None
    work.put("adapter.type", node)
    if kind == "qlora" and work.value("load_in_4bit") is True:
        work.take("load_in_4bit")
    everything = work.value("lora_target_linear")
    if everything and work.value("lora_target_modules") is None:
        work.take("lora_target_linear")
    elif not everything and isinstance(work.value("lora_target_modules"), list):
        modules = work.take("lora_target_modules")
        assert modules is not None
        work.put("adapter.target_modules", modules)
        work.left.pop("lora_target_linear", None)


def _without_adapter(work: _Work) -> Node:
    adapter = work.root.child("adapter")
    if adapter is None or not isinstance(work.root.value, dict):
        return work.root
    for key, path in DIRECT.items():
        if path.startswith("adapter.") and (node := adapter.child(path.partition(".")[2])) is not None:
            message = "there is no adapter, so that Axolotl would ignore it"
            work.problems.append(_problem(node, key, message, "set adapter: lora, or remove it"))
    return replace(work.root, value={key: node for key, node in work.root.value.items() if key != "adapter"})


def _problem(node: Node, key: str, message: str, hint: str) -> Problem:
    origin = node.key or node.origin
    return Problem(path=key, message=message, hint=hint, file=origin.file, line=origin.line, column=origin.column)


_STEPS = (
    _decided,
    _files,
    _sharding,
    _method,
    _data,
    _model,
    _length,
    _numbers,
    _optimizer,
    _schedule,
    _precision,
    _adapter,
)
