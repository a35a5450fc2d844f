"""A training backend: it answers for every setting, plans without side effects, and trains in a worker."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexa.backend import (
    Answer,
    Backend,
    ChatSession,
    Estimate,
    LaunchSpec,
    Preview,
    PreviewToken,
    Resources,
    RunResult,
    RunState,
    SettingAnswer,
)
from nexa.errors import Problem
from nexa.settings_report import CORE_FIELDS
from nexa_echo.bytecounts import MODEL_NAME, SYMBOLS, ByteCounts, read_documents

if TYPE_CHECKING:
    from nexa.recipe.schema import Recipe
    from nexa.worker.context import RunContext

_BYTES_PER_COUNT = 8

# What `run` reads of a recipe, beside its own section.
_READ = (
    "data.remote_uri", "training.max_steps", "training.microbatch_size_per_gpu", "training.save_every_steps",
    "training.log_every_steps", "training.seed",
)  # fmt: skip
# What is the way it is: these can be left out, or say so.
_FIXED = {
    "model.name": (MODEL_NAME, "echo trains no other model than byte-counts"),
    "data.packing": (True, "echo has no rows to pack"),
    "cluster.threads_per_process": (1, "echo computes with one thread"),
    "cluster.gpus_per_node": (0, "echo uses no GPU"),
    "checkpointing.save_optimizer": (True, "the counts are all there is to save"),
}


class EchoBackend(Backend):
    """Learns byte frequencies from a JSONL file."""

    def check(self, recipe: Recipe) -> Sequence[Problem]:
        """The model and the length must be ones that `run` can use; missing files are the plan's to tell."""
        problems = []
        if recipe.model.name != MODEL_NAME:
            hint = f"write model.name: {MODEL_NAME}"
            problems.append(Problem(path="model.name", message=f"echo can't train {recipe.model.name!r}", hint=hint))
        if recipe.training.max_steps is None:
            problems.append(Problem(path="training.max_steps", message="echo needs the number of steps"))
        return problems

    def settings(self, recipe: Recipe) -> Sequence[SettingAnswer]:
        """What is read is honoured, what is fixed is honoured where it is as it is, all else is refused."""
        return [_answer(recipe, path) for path in recipe.leaf_paths()]

    def effective(self, recipe: Recipe) -> Mapping[str, Any]:
        """What `run` reads, by the recipe's own names."""
        return read_settings(recipe.document())

    def plan(self, recipe: Recipe, resources: Resources) -> LaunchSpec:
        """The worker runs in this environment."""
        return LaunchSpec(
            python=sys.executable,
            factory="nexa_echo.backend:EchoBackend",
            processes_per_node=resources.processes_per_node,
        )

    def estimate(self, recipe: Recipe, resources: Resources) -> Estimate:
        """256 counts, and nothing else."""
        return Estimate(
            parameters=SYMBOLS,
            trainable_parameters=SYMBOLS,
            memory_bytes={"weights": SYMBOLS * _BYTES_PER_COUNT},
            checkpoint_bytes=SYMBOLS * _BYTES_PER_COUNT,
            total_steps=recipe.training.max_steps,
        )

    def preview(self, recipe: Recipe) -> Preview:
        """The bytes of the first microbatch, all of them trained on."""
        documents = read_documents(Path(recipe.data.remote_uri))
        tokens = sum(map(len, documents))
        return Preview(
            rows=[
                [PreviewToken(id=byte, text=chr(byte), trained=True) for byte in document]
                for document in documents[: recipe.training.microbatch_size_per_gpu]
            ],
            documents=len(documents),
            tokens=tokens,
            trained_tokens=tokens,
            total_steps=recipe.training.max_steps or 0,
        )

    def run(self, context: RunContext) -> RunResult:
        """Take one microbatch a step, in an order that the seed decides; the position follows from the step alone."""
        given = read_settings(context.recipe)
        total, size = given["training.max_steps"], given["training.microbatch_size_per_gpu"]
        save_every, log_every = given["training.save_every_steps"], given["training.log_every_steps"]
        documents = read_documents(Path(given["data.remote_uri"]))
        random.Random(given["training.seed"]).shuffle(documents)
        model, step = ByteCounts.load(context.resume_from) if context.resume_from else (ByteCounts(), 0)
        saver = _Saver(context, model, saved_step=step)
        stop, loss = None, 0.0
        while step < total and stop is None:
            batch = [documents[(step * size + row) % len(documents)] for row in range(size)]
            loss = model.loss(batch)
            model.learn(batch)
            step += 1
            if context.rank == 0 and (step % log_every == 0 or step == total):
                context.events.write("metrics", step=step, values={"loss": loss})
                context.events.write("progress", phase="training", step=step, total_steps=total)
            if save_every and step % save_every == 0:
                saver.save(step, loss)
            time.sleep(given["echo.delay_seconds"])
            stop = context.stop_requested()
        saver.save(step, loss)
        state = RunState.COMPLETED if step >= total else RunState.STOPPED
        return RunResult(state=state, step=step, metrics={"loss": loss}, checkpoint=saver.newest)

    def open_chat(self, checkpoint: Path) -> ChatSession:
        """A session over the counts of a checkpoint."""
        model, _ = ByteCounts.load(checkpoint)
        return EchoChat(model)


class EchoChat(ChatSession):
    """Repeats what it is told; continues plain text with the bytes it saw most often."""

    def __init__(self, model: ByteCounts) -> None:
        self._model = model

    def reply(self, messages: Sequence[Mapping[str, str]], *, max_new_tokens: int, temperature: float) -> Iterator[str]:
        """Yield the last message again, word by word."""
        for word in messages[-1]["content"].split()[:max_new_tokens]:
            yield f"{word} "

    def complete(self, text: str, *, max_new_tokens: int, temperature: float) -> Iterator[str]:
        """Yield the likeliest bytes, one at a time."""
        for byte in self._model.likeliest(max_new_tokens):
            yield chr(byte)


class _Saver:
    """Commits checkpoints on rank 0, no step twice."""

    def __init__(self, context: RunContext, model: ByteCounts, *, saved_step: int) -> None:
        self._context = context
        self._model = model
        self._saved_step = saved_step
        self.newest: str | None = None

    def save(self, step: int, loss: float) -> None:
        """Commit the model as it is after `step`."""
        if self._context.rank != 0 or step == self._saved_step:
            return
        staged = self._context.checkpoints.stage(step)
        self._model.save(staged, step)
        self.newest = self._context.checkpoints.commit(step, staged, metrics={"loss": loss})
        self._saved_step = step


def read_settings(document: Mapping[str, Any]) -> dict[str, Any]:
    """The values that training depends on, by dotted key, out of a recipe document."""
    values = {path: _value(document, path) for path in _READ}
    return {**values, "echo.delay_seconds": document.get("echo", {}).get("delay_seconds", 0.0)}


def _value(document: Mapping[str, Any], path: str) -> Any:
    value: Any = document
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _answer(recipe: Recipe, path: str) -> SettingAnswer:
    if path in _FIXED:
        fixed, reason = _FIXED[path]
        value = _value(recipe.document(), path)
        honoured = value is None or value == fixed
        return SettingAnswer(
            path=path, answer=Answer.HONOURED if honoured else Answer.REFUSED, detail="" if honoured else reason
        )
    if path in _READ or path in CORE_FIELDS:
        return SettingAnswer(path=path, answer=Answer.HONOURED)
    return SettingAnswer(path=path, answer=Answer.REFUSED, detail="echo has no such thing")
