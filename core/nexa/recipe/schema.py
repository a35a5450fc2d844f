"""The recipe: every field, its unit and default, and the rules that hold between fields.

Strict at every depth: an unknown key, a string for a number or a number for a string is an error.
Sections named after plugins are validated by the plugins' own models and kept in `plugin_options`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.json_schema import SkipJsonSchema

from nexa.quantities import DURATION, MEMORY, seconds_of

_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
_SHA256 = r"^(sha256:)?[0-9a-f]{64}$"
MAX_OBSERVERS = 32
PATTERNS = {
    _NAME: "1 to 64 letters, digits, dots, dashes and underscores, the first a letter or digit",
    _SHA256: "a SHA-256 of 64 hexadecimal digits, with or without sha256: before it",
    DURATION: "a time such as 90m, 12h, 1d 6h or 1-06:00:00",
    MEMORY: "a size such as 512M or 64G",
}
"""What each pattern of the schema asks for, in words."""

PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class Section(BaseModel):
    """Base of every recipe section: unknown keys refused, no silent type conversion, immutable.

    The text under a field is its description; `nexa.recipe.jsonschema` reads it from the source when
    asked, because pydantic would read it on every start.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, defer_build=True)

    @classmethod
    def leaf_paths(cls) -> tuple[str, ...]:
        """Dotted paths of the fields that hold values, not sections, in schema order.

        The fields of a section that may be null, or be given by a name alone, count as its leaves.
        """
        paths: list[str] = []
        for name, field in cls.model_fields.items():
            section = section_of(field.annotation)
            if section is not None:
                paths += [f"{name}.{path}" for path in section.leaf_paths()]
            elif not field.exclude:
                paths.append(name)
        return tuple(paths)


def section_of(annotation: Any) -> type[Section] | None:
    """The section that a field of this type holds, also where it may be null; None for a leaf."""
    options = (annotation, *get_args(annotation))
    return next((option for option in options if isinstance(option, type) and issubclass(option, Section)), None)


def looks_existing(name: str) -> bool:
    """Whether a model name can only mean an existing model: a path, a hub id, a GGUF file or a URI."""
    return any(mark in name for mark in "/\\:~") or name.lower().endswith(".gguf")


class RunSection(Section):
    """Who this run is."""

    name: str | None = Field(default=None, pattern=_NAME)
    """Short name, part of the run id. Default: the recipe's name."""


class ModelSection(Section):
    """What is trained: a known architecture by its sizes, or an existing model."""

    name: str
    """Architecture ("llama"; built from the sizes below with random weights), or an existing model:
    a folder, a hub id ("org/model"), a GGUF file, or `pkg:PACKAGE/FILE` shipped in a Python package."""
    revision: str | None = None
    """Branch, tag or commit of a hub model. Default: the hub's main branch."""
    tokenizer: str | None = None
    """Folder, hub id, GGUF file, `pkg:PACKAGE/FILE`, or "bytes" (one token a byte). Default: the model's own."""
    chat_template: str | None = None
    """Jinja file that replaces the tokenizer's chat template. Default: the tokenizer's own."""
    d_model: PositiveInt | None = None
    """Width of the residual stream. Only for an architecture."""
    n_layers: PositiveInt | None = None
    """Number of transformer blocks. Only for an architecture."""
    n_heads: PositiveInt | None = None
    """Number of attention heads; divides d_model. Only for an architecture."""
    n_kv_heads: PositiveInt | None = None
    """Number of key/value heads; divides n_heads. Default: n_heads. Only for an architecture."""
    d_ff: PositiveInt | None = None
    """Width of the feed-forward layer. Default: 8/3 d_model rounded up to 64. Only for an architecture."""
    max_seq_len: PositiveInt | None = None
    """Tokens a training row holds. Default: what the model allows, at most 2048."""

    @property
    def from_scratch(self) -> bool:
        """Whether the model is an architecture built from sizes, not an existing model."""
        return self.d_model is not None

    @model_validator(mode="after")
    def _sizes_belong_together(self) -> Self:
        sizes = {name: getattr(self, name) for name in ("d_model", "n_layers", "n_heads")}
        given = [name for name, value in sizes.items() if value is not None]
        optional = [name for name in ("n_kv_heads", "d_ff") if getattr(self, name) is not None]
        if not given and not optional:
            return self
        if looks_existing(self.name):
            raise ValueError(
                f"{self.name!r} is an existing model and brings its own sizes; "
                f"leave {', '.join(given + optional)} out, or name an architecture such as llama"
            )
        if missing := [name for name in sizes if name not in given]:
            raise ValueError(f"an architecture needs {', '.join(sizes)}; not given: {', '.join(missing)}")
        return self

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.d_model and self.n_heads and self.d_model % self.n_heads:
            raise ValueError(f"d_model {self.d_model} does not divide by n_heads {self.n_heads}")
        if self.n_heads and self.n_kv_heads and self.n_heads % self.n_kv_heads:
            raise ValueError(f"n_heads {self.n_heads} does not divide by n_kv_heads {self.n_kv_heads}")
        return self


class ValidationSection(Section):
    """Held-out data: a fraction of the training data, or a source of its own."""

    fraction: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """Share of training documents held out, chosen by the training seed; of a single text, its end."""
    remote_uri: str | None = None
    """Held-out data, in the forms of data.remote_uri."""
    split: str | None = None
    """Named split of a hub data set."""
    max_documents: PositiveInt | None = None
    """Evaluate on the first so many held-out documents. Default: all."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [name for name in ("fraction", "remote_uri", "split") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} exclude each other; keep one (null takes back an inherited one)")
        return self


class DataSection(Section):
    """What the model is trained on."""

    remote_uri: str
    """File or folder (relative to the recipe), `s3://…`, `gs://…`, `hf:org/dataset`, or
    `pkg:PACKAGE/FILE` shipped in a Python package. JSONL or plain text."""
    format: Literal["auto", "messages", "prompt_response", "instruction", "text", "tokens"] = "auto"
    """Row layout: chat `messages`, `prompt`/`response` pairs, `instruction`/`input`/`output`, `text`, or `tokens`
    (ids, with `labels` or a `mask`). Default: told from the first row."""
    split: str | None = None
    """Named split of a hub data set. Default: "train"."""
    dataset_version: str | None = None
    """Version tag recorded in lineage; for a hub data set also its revision."""
    expected_dataset_hash: str | None = Field(default=None, pattern=_SHA256)
    """SHA-256 of the data file; another hash stops the run before training. Default: not checked."""
    local_cache_root: str | None = None
    """Folder for downloaded and prepared data. Default: the user's cache folder."""
    streaming: bool = False
    """Encode and pack the data in the run, window by window, instead of whole before it; needs max_steps."""
    stream_window: PositiveInt = 8192
    """With streaming: documents that are packed and shuffled together, fewer where they are long."""
    validation: ValidationSection = ValidationSection()
    """Held-out data. Default: none, so nothing is evaluated."""
    max_documents: PositiveInt | None = None
    """Train on the first so many documents. Default: all."""
    packing: bool = True
    """Put several documents into one row, with attention and positions kept apart."""
    train_on: Literal["auto", "assistant", "all"] = "auto"
    """Tokens that carry loss: the assistant's (or response's), or all. Default: assistant for sft, all for pretrain."""
    loader_workers: NonNegativeInt = 0
    """Processes of each worker that load training batches ahead; 0 loads them in the worker itself."""


class EarlyStoppingSection(Section):
    """When training ends before its last step: when a figure has not become better for a while."""

    monitor: str = "eval_loss"
    """Figure of an evaluation that is watched, such as eval_loss; val_loss means the same."""
    patience: PositiveInt = 5
    """Evaluations without an improvement after which training ends."""
    mode: Literal["auto", "min", "max"] = "auto"
    """Whether smaller or larger is better; auto is min for losses, errors and perplexity, else max."""
    min_delta: Annotated[float, Field(ge=0)] = 0.0
    """Smallest change that counts as an improvement, in the figure's own unit."""
    restore_best: bool = False
    """End with the weights of the best evaluation instead of the last step's."""


class TrainingSection(Section):
    """How long and in which batches."""

    global_batch_size: PositiveInt | None = None
    """Rows in one optimizer step over all processes. Default: microbatch × processes × accumulation."""
    microbatch_size_per_gpu: PositiveInt = 1
    """Rows in one forward pass of one process."""
    grad_accumulation_steps: PositiveInt | None = None
    """Forward passes per optimizer step. Default: global ÷ (microbatch × processes), or 1."""
    max_steps: PositiveInt | None = None
    """Optimizer steps to train. Excludes epochs."""
    epochs: Annotated[float, Field(gt=0)] | None = None
    """Passes over the data. Default: 1 when max_steps is unset. Excludes max_steps."""
    save_every_steps: PositiveInt | None = None
    """Optimizer steps between checkpoints. Default: only the last step is saved."""
    eval_every_steps: PositiveInt | None = None
    """Optimizer steps between evaluations. Default: only before the first and after the last step."""
    eval_every_epochs: PositiveInt | None = None
    """Passes over the data between evaluations, beside those by steps. Default: none by epochs."""
    early_stopping: EarlyStoppingSection | None = None
    """End training when a figure stops improving. Default: train to the last step."""
    log_every_steps: PositiveInt = 1
    """Optimizer steps between metric records."""
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the forward and backward pass; weights stay fp32. tf32 needs a CUDA GPU; fp16 scales the loss."""
    max_grad_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """Gradients are scaled down to this global L2 norm; null turns clipping off."""
    measure_mfu: bool = False
    """Log the share of the device's peak arithmetic that training reaches, as mfu; a CPU's is measured at start."""
    profile_steps: PositiveInt | None = None
    """Optimizer steps recorded with the torch profiler, after two to warm up, into the run's folder. Default: none."""
    activation_checkpointing: bool | Literal["selective"] = False
    """Recompute activations in the backward pass: true keeps each block's input alone (less memory, about a
    third slower); "selective" also keeps the results of matrix products and attention and recomputes the rest."""
    checkpoint_every_blocks: PositiveInt = 1
    """With activation_checkpointing, recompute every so many-th block; the others keep all their activations."""
    activation_offload: bool = False
    """Keep what the backward pass needs in host memory instead of the GPU's; slower. Needs a CUDA GPU."""
    compile: bool = False
    """Compile the model's blocks with torch.compile: half a minute more at the start, faster steps on a GPU."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 42
    """Seed of weights, sample order and dropout."""

    @model_validator(mode="after")
    def _one_duration(self) -> Self:
        if self.max_steps is not None and self.epochs is not None:
            raise ValueError("max_steps and epochs exclude each other; keep one (null takes back an inherited one)")
        return self


class LearningRateSchedule(Section):
    """How the learning rate changes over the run."""

    name: str = "cosine_warmup"
    """Schedule, such as cosine_warmup, linear, constant or wsd; a backend lists its own when the name is unknown."""
    warmup_steps: NonNegativeInt = 0
    """Optimizer steps over which the rate rises from 0 to lr."""
    min_lr_ratio: Fraction = 0.0
    """Rate at the end, as a share of lr."""
    decay_steps: PositiveInt | None = None
    """wsd: optimizer steps of the final decay. Default: a tenth of the run."""
    decay_shape: Literal["linear", "cosine", "1-sqrt"] = "linear"
    """wsd: how the rate falls in the final decay."""
    cycles: PositiveInt = 2
    """cosine_with_restarts: how often the rate falls from the peak to its end value."""
    monitor: str = "eval_loss"
    """plateau: evaluation metric that must fall, or the rate does."""
    patience: NonNegativeInt = 2
    """plateau: evaluations without improvement that are forgiven before the rate falls."""
    factor: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    """plateau: the rate is multiplied by this when it falls, down to min_lr_ratio × lr."""


class OptimizerSection(Section):
    """Which optimizer, and its rates."""

    name: str = "adamw"
    """Optimizer; a backend lists its own when the name is unknown."""
    lr: Annotated[float, Field(gt=0)] = 3e-4
    """Peak learning rate."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled weight decay; not applied to norms, biases and embeddings."""
    betas: Annotated[list[Fraction], Field(min_length=2, max_length=2)] | None = None
    """Decay rates of the first and second moments. Default: 0.9 and 0.95; lion 0.9 and 0.99, sophia 0.965 and 0.99."""
    eps: Annotated[float, Field(gt=0)] | None = None
    """Offset of the denominator. Default: 1e-8; sophia 1e-12, adafactor 1e-3 (of the weights' RMS)."""
    momentum: Fraction | None = None
    """Decay rate of the running gradient of sgd and muon. Default: sgd 0, muon 0.95."""
    hessian_interval: PositiveInt = 10
    """sophia: optimizer steps between estimates of the Hessian's diagonal; each costs one more pass over the batch."""
    hessian_scale: Annotated[float, Field(gt=0)] = 0.05
    """sophia: γ of the paper; the larger, the fewer coordinates are clipped."""
    offload: bool = False
    """Keep the optimizer's state in host memory and update there; slower. Needs a CUDA GPU."""
    scheduler: LearningRateSchedule = LearningRateSchedule()
    """Learning-rate schedule: a name, or a mapping with its numbers."""

    @model_validator(mode="before")
    @classmethod
    def _schedule_by_name(cls, data: Any) -> Any:
        """A schedule without numbers may be given by its name alone."""
        if isinstance(data, dict) and isinstance(data.get("scheduler"), str):
            return {**data, "scheduler": {"name": data["scheduler"]}}
        return data


class AdapterSection(Section):
    """Train a small adapter instead of the whole model."""

    type: Literal["lora", "qlora"] = "lora"
    """lora, or qlora (base weights in 4-bit NF4, by bitsandbytes: an eighth of the memory, slower steps)."""
    use_dora: bool = False
    """DoRA: train the length of each weight row besides the low-rank update of its direction."""
    use_rslora: bool = False
    """rsLoRA: scale the update by alpha ÷ √rank instead of alpha ÷ rank, so that high ranks learn as fast."""
    rank: PositiveInt = 16
    """Rank r of the update."""
    alpha: Annotated[float, Field(gt=0)] = 32.0
    """The update is scaled by alpha ÷ rank."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Dropout on the adapter's input."""
    target_modules: list[str] | Literal["all-linear"] = "all-linear"
    """Names of the layers that get an adapter; all-linear is every linear layer but the output head."""


class CheckpointingSection(Section):
    """What happens to checkpoints."""

    keep_last: PositiveInt | None = None
    """Keep only the newest so many checkpoints of the run, and the best. Default: keep all."""
    keep_best: NonNegativeInt = 1
    """Best checkpoints that keep_last does not remove, by `monitor`, where they have that figure."""
    monitor: str = "eval_loss"
    """Figure that tells the best checkpoint, such as eval_loss; val_loss means the same."""
    mode: Literal["auto", "min", "max"] = "auto"
    """Whether smaller or larger is better; auto is min for losses, errors and perplexity, else max."""
    save_optimizer: bool = True
    """Store optimizer, random-number and data state, so that the run can be resumed exactly."""
    async_save: bool = False
    """Go on training while a copy of the step is written and committed; the copy stays in memory until then."""


class SamplesSection(Section):
    """Text generated before, during and after training, so that a person sees the change."""

    prompts: list[str] = []
    """User turns (or text to continue, without a chat template)."""
    max_new_tokens: PositiveInt = 64
    """Longest answer, in tokens; greedy decoding."""


class ClusterSection(Section):
    """Machines the run asks for, in scheduler-neutral words."""

    num_nodes: PositiveInt = 1
    """Number of machines."""
    gpus_per_node: NonNegativeInt = 0
    """GPUs on each machine, one worker process each; 0 trains on CPU."""
    processes_per_node: PositiveInt | None = None
    """Worker processes on each machine. Default: gpus_per_node, at least 1."""
    threads_per_process: PositiveInt | None = None
    """CPU threads of each worker process. Default: the machine's cores ÷ processes."""
    cpus_per_node: PositiveInt | None = None
    """CPU cores asked for on each machine. Default: threads_per_process × processes, else what the scheduler gives."""
    memory_per_node: str | None = Field(default=None, pattern=MEMORY)
    """Memory asked for on each machine, such as "64G" (powers of 1024). Default: what the scheduler gives."""
    time_limit: str | None = Field(default=None, pattern=DURATION)
    """Longest time the run may go on at a stretch: "90m", "12h", "1d 6h" or "1-06:00:00". Default: the scheduler's."""
    stop_lead_seconds: PositiveInt = 120
    """Seconds before the time limit at which a checkpoint is saved and the run stops."""
    max_restarts: NonNegativeInt = 10
    """Times the scheduler may start the run again by itself, from its newest checkpoint, after a time limit,
    a preemption or a lost machine."""

    @property
    def time_limit_seconds(self) -> int | None:
        """`time_limit` in seconds."""
        return None if self.time_limit is None else seconds_of(self.time_limit)

    @model_validator(mode="after")
    def _time_to_train(self) -> Self:
        limit = self.time_limit_seconds
        if limit is not None and limit <= self.stop_lead_seconds:
            raise ValueError(
                f"stop_lead_seconds ({self.stop_lead_seconds}) leaves no time to train within "
                f"time_limit ({limit} s); raise time_limit or lower stop_lead_seconds"
            )
        return self


class DistributedSection(Section):
    """How a model is spread over the processes of a run; a strategy may be given by its name alone."""

    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    """ddp: a whole copy of the model on each process. fsdp: each process keeps a part of weights, gradients and
    optimizer state. auto: ddp."""
    timeout_seconds: Annotated[float, Field(ge=1.0)] = 600.0
    """Seconds that processes wait for one another: to meet at the start, and in every exchange after it."""
    reshard_after_forward: bool = True
    """fsdp: let a block's weights go after its forward pass and gather them again for the backward pass; less
    memory, more traffic."""
    cpu_offload: bool = False
    """fsdp on GPUs: keep weights, gradients and optimizer state in CPU memory."""


class ArtifactsSection(Section):
    """Where checkpoints go."""

    store_uri: str | None = None
    """Folder or URI of the artifact store. Default: the user setting `store_uri`."""
    labels: dict[str, str] = {}
    """Free labels recorded in every artifact's manifest."""


class TrackingSection(Section):
    """Who else hears of this run's events."""

    observers: Annotated[list[str], Field(max_length=MAX_OBSERVERS)] = []
    """Observer plugins, by name: tensorboard, wandb, …; their options are in sections of these names."""


class Recipe(Section):
    """One training job, complete: what is trained, on what, how, where."""

    schema_version: Literal[1] = 1
    """Version of this schema."""
    extends: str | None = None
    """Recipe this one builds on: a path relative to this file, or a recipe's name."""
    description: str = ""
    """One line for `nexa recipe list`."""
    tags: list[str] = []
    """Words to find the recipe by."""
    method: str
    """What is done: pretrain, sft, or another method of the backend."""
    backend: str = "torch"
    """Trainer plugin."""
    scheduler: str = "local"
    """Scheduler plugin. Default: the user setting `scheduler`."""
    run: RunSection = RunSection()
    model: ModelSection
    data: DataSection
    training: TrainingSection = TrainingSection()
    optimizer: OptimizerSection = OptimizerSection()
    adapter: AdapterSection | None = None
    """Train an adapter. Default: train all weights."""
    checkpointing: CheckpointingSection = CheckpointingSection()
    samples: SamplesSection = SamplesSection()
    cluster: ClusterSection = ClusterSection()
    distributed: DistributedSection = DistributedSection()
    artifacts: ArtifactsSection = ArtifactsSection()
    tracking: TrackingSection = TrackingSection()
    meta: dict[str, Any] = {}
    """The user's own keys; recorded, never interpreted."""
    plugin_options: SkipJsonSchema[dict[str, dict[str, Any]]] = Field(default={}, exclude=True)
    """Validated sections of plugins, by plugin name; in YAML they stand at the top level."""

    @model_validator(mode="before")
    @classmethod
    def _strategy_by_name(cls, data: Any) -> Any:
        """A strategy without settings may be given by its name alone."""
        if isinstance(data, dict) and isinstance(data.get("distributed"), str):
            return {**data, "distributed": {"strategy": data["distributed"]}}
        return data

    def document(self) -> dict[str, Any]:
        """The recipe as plain JSON values, plugin sections at the top level."""
        return {**self.model_dump(mode="json"), **self.plugin_options}

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Self:
        """The recipe that `document` came from; keys that are no field of a recipe are plugin sections.

        For documents Nexa wrote itself: plugin sections are not validated again. Raises pydantic's
        ValidationError.
        """
        own = {key: value for key, value in document.items() if key in cls.model_fields}
        options = {key: value for key, value in document.items() if key not in cls.model_fields}
        return cls.model_validate({**own, "plugin_options": options})
