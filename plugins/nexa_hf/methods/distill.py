"""Distillation with transformers' Trainer: from recorded predictions, a teacher beside, or answers of the student."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from nexa.errors import Problem, UserError
from nexa_hf.methods.base import Job, Logits, Method, TrainingData
from nexa_hf.methods.language import (
    PLAIN_TRAINER_REFUSALS,
    TRAINING_ARGUMENTS,
    build_language_model,
    prepare,
    show_rows,
)
from nexa_hf.methods.sft import unpacked
from nexa_hf.methods.users import ANSWERING
from nexa_hf.options import hf_options

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from nexa.backend import Preparation, PrepareProgress, Preview, PreviewToken
    from nexa.recipe.schema import Recipe
    from nexa_hf.methods.base import Refusal
    from nexa_torch.models import LanguageModel


def _read(recipe: Recipe) -> Recipe:
    """The recipe as its data is laid out: a prompt and its answer are a row of their own."""
    return unpacked(recipe) if recipe.distill.mode == "on_policy" else recipe


def _load(recipe: Recipe, on_progress: PrepareProgress) -> TrainingData:
    from nexa_hf.students import student_rows

    return student_rows(_read(recipe), on_progress)


def _preview(recipe: Recipe) -> Preview:
    from nexa_hf.preview import preview_rows

    return preview_rows(_read(recipe))


def _prepare(recipe: Recipe, *, on_progress: PrepareProgress | None = None) -> Preparation:
    return prepare(_read(recipe), on_progress=on_progress)


def _show_rows(recipe: Recipe, start: int, count: int) -> Sequence[Sequence[PreviewToken]]:
    return show_rows(_read(recipe), start, count)


def _build(recipe: Recipe, data: TrainingData, checkpoint: Path | None) -> LanguageModel:
    from nexa_distill.pruning import prune_blocks

    def change(model: LanguageModel) -> None:
        if recipe.distill.student_layers is not None:
            prune_blocks(model.network, recipe.distill.student_layers)

    return build_language_model(recipe, data, checkpoint, change)


def _keywords(job: Job) -> Mapping[str, Any]:
    from nexa_distill.step import StudentLoss
    from nexa_hf.students import collate_student

    recipe, tokenizer = job.recipe, job.data.tokenizer
    dataset = job.data.train.recorded.dataset if recipe.distill.mode == "offline" else None
    loss = StudentLoss(recipe, job.model, tokenizer, dataset)
    writer = None
    if recipe.distill.mode == "on_policy":
        from nexa_hf.trainers.writer import AnswerWriter

        assert loss.teacher is not None, "nothing is recorded"
        _require_room(job, loss.teacher)
        writer = AnswerWriter(recipe, job.model, loss.teacher, tokenizer)
    return {
        "data_collator": collate_student,
        "student_loss": loss,
        "network": job.model.network,
        "writer": writer,
    }


def _require_room(job: Job, teacher: LanguageModel) -> None:
    """Raise UserError where the longest prompt and answer are more than one of the models takes."""
    for who, model in (("student", job.model), ("teacher", teacher)):
        limit = model.longest_sequence
        if limit is not None and job.data.row_length > limit:
            raise UserError(
                f"a prompt of {job.data.train.longest_prompt} tokens and an answer of "
                f"{job.recipe.rollouts.max_completion_length} are more than the {limit} that the {who} takes",
                hint="set rollouts.max_completion_length lower, or model.max_seq_len",
            )


def _check(recipe: Recipe) -> Iterator[Problem]:
    from nexa_distill.checks import student_problems

    yield from student_problems(recipe)
    if recipe.distill.mode == "on_policy" and recipe.data.train_on == "all":
        yield Problem(
            path="data.train_on",
            message="where all tokens are trained on there is no prompt to answer",
            hint="set data.train_on=assistant, or distill.mode=online",
        )
    if recipe.distill.cross_tokenizer != "refuse":
        yield Problem(
            path="distill.cross_tokenizer",
            message="backend hf compares models of one tokenizer alone",
            hint="set backend=torch, or distill.cross_tokenizer=refuse",
        )
    if hf_options(recipe).deepspeed is not None:
        yield Problem(
            path="hf.deepspeed",
            message="a student's head is computed with whole weights, which DeepSpeed may have elsewhere",
            hint="drop hf.deepspeed, or set backend=torch, which shards students",
        )


def _unless(mode: str, reason: str) -> Refusal:
    return lambda recipe: None if recipe.distill.mode == mode else reason


def _strategy(recipe: Recipe) -> str | None:
    if recipe.distributed.strategy == "fsdp":
        return "a student's head is computed with whole weights; set backend: torch, which shards students"
    return None


DISTILL = Method(
    name="distill",
    summary="A student learns a teacher's predictions: recorded, in the step, or over the student's own answers",
    trainer="nexa_hf.trainers.distill:DistillTrainer",
    arguments_class="transformers:TrainingArguments",
    fields=(TRAINING_ARGUMENTS,),
    load=_load,
    build=_build,
    preview=_preview,
    prepare=_prepare,
    show_rows=_show_rows,
    fixed=lambda recipe: {"remove_unused_columns": False, "prediction_loss_only": True},
    honoured=("distill.*", *ANSWERING),
    refusals={
        **PLAIN_TRAINER_REFUSALS,
        **{path: _unless("on_policy", "only distill.mode: on_policy writes answers") for path in ANSWERING},
        "distill.on_policy.share": _unless("on_policy", "only distill.mode: on_policy writes answers"),
        "distill.on_policy.others": _unless("on_policy", "only distill.mode: on_policy writes answers"),
        "data.packing": lambda recipe: (
            "a prompt and its answer are a row of their own"
            if recipe.data.packing and recipe.distill.mode == "on_policy"
            else None
        ),
        "training.compile": lambda recipe: "a student's loss is computed in pieces inside the model's pass",
        "distributed.strategy": _strategy,
    },
    keywords=_keywords,
    check=_check,
    perplexity=True,
    # The loss is computed in pieces, as backend torch does.
    logits=Logits(copies=0, gpu_copies=0),
)
