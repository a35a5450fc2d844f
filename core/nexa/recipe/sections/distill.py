"""The recipe section `distill`: what a student learns from a teacher, and how the teacher is recorded."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from nexa.recipe.sections.base import Fraction, PositiveInt, Section

MAX_DRAWS = 63
"""Draws that a record's 6-bit count can tell."""
MAX_ENTRIES = 255
"""Entries that a row's 8-bit count can tell."""


class CaptureSection(Section):
    """How `nexa distill capture` records a teacher's predictions."""

    record: Literal["sampled", "top_k", "hybrid"] = "sampled"
    """sampled: draws from the teacher, an unbiased picture of all of it. top_k: the likeliest tokens exactly, all
    others as one sum. hybrid: the likeliest tokens exactly, and draws from the others, unbiased again."""
    draws: Annotated[int, Field(ge=1, le=MAX_DRAWS)] = 20
    """Tokens drawn at each position (sampled, hybrid). About half of them are different tokens, 3 bytes each; more
    draws make the gradient less noisy by the square root of their number."""
    head: Annotated[int, Field(ge=1, le=MAX_ENTRIES - MAX_DRAWS)] = 12
    """Likeliest tokens recorded exactly at each position (top_k, hybrid)."""
    forward_tokens: PositiveInt | None = None
    """Tokens that the teacher reads in one pass. Part of what the recorded bytes depend on, since sums of another
    shape round differently. Default: one row a pass on CPU, 16384 on a GPU."""
    shard_tokens: PositiveInt = 32_768
    """Tokens after which a file is closed; a kill loses at most the work on one file a process."""
    processes: PositiveInt | None = None
    """Processes that share the work, each with the teacher in memory. Default: a GPU each, or on CPU a core each as far
    as memory allows."""


class TextSection(Section):
    """How `nexa distill text` lets a teacher write answers to train on."""

    endpoint: str | None = None
    """Address of an OpenAI-compatible service, such as "http://localhost:8000/v1". Default: the teacher runs here."""
    endpoint_model: str | None = None
    """The service's name of the model. Default: distill.teacher."""
    api_key_variable: str = "OPENAI_API_KEY"
    """Environment variable with the service's key; never written anywhere."""
    requests_per_minute: PositiveInt | None = None
    """Most requests to the service a minute. Default: as fast as it answers."""
    retries: Annotated[int, Field(ge=0, le=20)] = 6
    """Times a request is sent again after an error of the service, each time after a longer wait."""
    timeout_seconds: Annotated[float, Field(gt=0.0)] = 120.0
    """Longest wait for one answer."""
    max_new_tokens: PositiveInt = 512
    """Longest answer, in tokens; a longer one is cut short and not used."""
    sampling_temperature: Annotated[float, Field(ge=0.0, le=5.0)] = 0.7
    """0 takes the likeliest token; higher varies more."""
    attempts: PositiveInt = 3
    """Answers asked for until one passes filter and judge; then the prompt is left out."""
    min_characters: PositiveInt = 1
    """Shorter answers are not used."""
    judge: bool = False
    """Let the teacher mark every answer from 1 to 5."""
    judge_threshold: Annotated[int, Field(ge=1, le=5)] = 4
    """Answers marked lower are not used; the next attempt is told the mark."""


class OnPolicySection(Section):
    """Whose answers a student learns from with mode on_policy; `rollouts` says how they are drawn and how long."""

    share: Fraction = 0.5
    """Share of microbatches whose prompts the student answers; lambda of Agarwal et al. 2024."""
    others: Literal["data", "teacher"] = "data"
    """Answers of the other microbatches: those of the data, or the teacher's."""


class DistillSection(Section):
    """How a student learns from a teacher (method distill)."""

    mode: Literal["offline", "online", "sequence", "on_policy"] = "offline"
    """offline: from predictions recorded before. online: the teacher predicts in every step. sequence: from text that
    the teacher wrote. on_policy: the student answers prompts and the teacher predicts every token (backend hf)."""
    teacher: str | None = None
    """Model to learn from: a folder, a hub id, a GGUF file or `pkg:PACKAGE/FILE`. Default: model.name."""
    teacher_revision: str | None = None
    """Branch, tag or commit of a hub teacher. Default: the hub's main branch."""
    teacher_precision: Literal["fp32", "bf16"] = "fp32"
    """Arithmetic of the teacher; its probabilities are always taken in fp32."""
    distiller: str = "logits"
    """Plugin that records the teacher."""
    dataset: str | None = None
    """Recorded predictions to learn from (offline): the folder that `nexa distill capture` wrote, its
    distilled_dataset.json, or a dataset of the artifact store: its name, its URI or `latest`."""
    alpha: Fraction = 0.5
    """Weight of the divergence from the teacher; 1 − alpha is that of the cross-entropy to the data. Answers that the
    student wrote have no cross-entropy, and weight 1."""
    temperature: Annotated[float, Field(ge=0.1, le=20.0)] = 1.0
    """Temperature T of both distributions. The divergence is scaled by T², so that its gradient keeps its size."""
    divergence: Literal["forward_kl", "reverse_kl", "jsd"] = "forward_kl"
    """KL(teacher ‖ student), KL(student ‖ teacher), or the generalised Jensen-Shannon divergence. The last two need
    the whole teacher (online)."""
    jsd_beta: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    """Weight of the teacher in the mixture that jsd compares both with."""
    hidden_weight: Annotated[float, Field(ge=0.0)] = 0.0
    """Weight of the mean squared distance of hidden states, layers matched evenly (online, equal widths)."""
    attention_weight: Annotated[float, Field(ge=0.0)] = 0.0
    """Weight of KL(teacher ‖ student) of attention maps, layers matched evenly (online, equal heads)."""
    student_layers: PositiveInt | None = None
    """Make the student from model.name with so many of its blocks, evenly chosen, the first and last among them.
    Default: all."""
    cross_tokenizer: Literal["refuse", "uld"] = "refuse"
    """What to do where teacher and student have other tokenizers: refuse, or compare sorted probabilities wherever
    tokens of both end at the same byte of the text (universal logit distillation; online)."""
    on_policy: OnPolicySection = OnPolicySection.defaults()
    capture: CaptureSection = CaptureSection.defaults()
    text: TextSection = TextSection.defaults()

    @model_validator(mode="after")
    def _whole_teacher(self) -> Self:
        if self.mode in ("online", "on_policy"):
            return self
        wanting = [
            name
            for name, default in (("hidden_weight", 0.0), ("attention_weight", 0.0), ("cross_tokenizer", "refuse"))
            if getattr(self, name) != default
        ]
        if self.mode == "offline" and self.divergence != "forward_kl":
            wanting.append("divergence")
        if wanting:
            raise ValueError(f"{', '.join(wanting)}: only mode: online has the whole teacher; mode is {self.mode}")
        return self
