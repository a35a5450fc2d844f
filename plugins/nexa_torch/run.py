"""One worker's way through a run: data, model, optimizer, then the engine, with checkpoints between."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from nexa.backend import RunResult, RunState
from nexa.batch import BatchPlan, resolve_batch
from nexa.errors import UserError
from nexa_torch.batches import TrainingRows
from nexa_torch.checkpoint import Cursor, read_cursor, restore_trainer, save_trainer
from nexa_torch.data.order import run_length
from nexa_torch.data.prepare import PreparedData, prepare_data
from nexa_torch.engine import Engine, Hooks
from nexa_torch.evaluate import evaluate
from nexa_torch.generation import chat_prompt, chat_stop_tokens, decode_stream, generate_tokens, text_prompt
from nexa_torch.kernels import MatmulChoice, choose_cpu_matmul, cpu_flags
from nexa_torch.models import (
    LanguageModel,
    apply_lora,
    documents_stay_apart,
    load_model,
    quiet_libraries,
    restore_weights,
    save_model,
)
from nexa_torch.optimizers import build_optimizer
from nexa_torch.options import recipe_from_document, torch_options
from nexa_torch.parallel import Ranks, process_group
from nexa_torch.schedules import SCHEDULE_FIELDS, build_scheduler

if TYPE_CHECKING:
    from nexa.recipe.schema import Recipe
    from nexa.worker.context import RunContext

_FAST_BF16 = frozenset({"avx512_bf16", "amx_bf16"})


class _Stopped(Exception):  # noqa: N818 - a signal between functions of this module, not an error
    """A stop was requested before training began."""


@dataclass(frozen=True, kw_only=True)
class _Session:
    """What is fixed for the whole run, on this rank."""

    context: RunContext
    recipe: Recipe
    ranks: Ranks
    data: PreparedData
    model: LanguageModel
    plan: BatchPlan
    matmul: MatmulChoice
    loss_chunk: int


def run_training(context: RunContext) -> RunResult:
    """Train as the recipe of `context` says; see `nexa.backend.Backend.run`."""
    quiet_libraries()
    recipe = recipe_from_document(dict(context.recipe))
    cluster = recipe.cluster
    torch.set_num_threads(
        cluster.threads_per_process or _fair_share(cluster.processes_per_node or cluster.gpus_per_node or 1)
    )
    with process_group(context.rank, context.local_rank, context.world_size, gpus=cluster.gpus_per_node) as ranks:
        try:
            session = _prepare(context, recipe, ranks)
        except _Stopped:
            step = read_cursor(context.resume_from).step if context.resume_from else 0
            return RunResult(state=RunState.STOPPED, step=step)
        return _train(session)


def _fair_share(processes: int) -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // processes)


def _prepare(context: RunContext, recipe: Recipe, ranks: Ranks) -> _Session:
    """Load data and model and decide what is decided once. Raises _Stopped and UserError."""

    def on_progress(phase: str, done: int, total: int) -> None:
        if context.stop_requested() is not None and ranks.world_size == 1:
            raise _Stopped
        if ranks.is_main:
            context.events.write("progress", phase=phase, step=done, total_steps=total)

    plan = resolve_batch(recipe.training, ranks.world_size)
    data = prepare_data(recipe, on_progress=on_progress)
    on_progress("loading", 0, 1)
    model = load_model(recipe.model, data.tokenizer, row_length=data.row_length, seed=recipe.training.seed)
    _require_fit(recipe, data, model)
    if recipe.adapter is not None:
        apply_lora(model, recipe.adapter, seed=recipe.training.seed, revision=recipe.model.revision)
    if context.resume_from is not None:
        restore_weights(model, context.resume_from)
    model.network.to(ranks.device)
    if recipe.training.activation_checkpointing:
        model.recompute_activations()
    options = torch_options(recipe)
    wish = read_cursor(context.resume_from).cpu_matmul if context.resume_from else options.cpu_matmul
    matmul = _choose_matmul(wish, recipe, model, data, options.loss_chunk)
    if ranks.any(context.stop_requested() is not None):
        raise _Stopped
    session = _Session(
        context=context,
        recipe=recipe,
        ranks=ranks,
        data=data,
        model=model,
        plan=plan,
        matmul=matmul,
        loss_chunk=options.loss_chunk,
    )
    if ranks.is_main:
        _announce(session)
    return session


def _require_fit(recipe: Recipe, data: PreparedData, model: LanguageModel) -> None:
    """Refuse data that the model can't take. Raises UserError."""
    limit = model.longest_sequence
    if limit is not None and data.row_length > limit:
        raise UserError(
            f"training rows hold {data.row_length} tokens and model {recipe.model.name!r} takes {limit}",
            hint=f"set model.max_seq_len={limit}",
        )
    largest = max(rows.largest_token_id for rows in (data.train, data.validation) if rows is not None)
    if largest >= model.vocabulary:
        raise UserError(
            f"the tokenizer makes token {largest} and model {recipe.model.name!r} knows 0 to {model.vocabulary - 1}",
            hint="model.tokenizer belongs to another model; leave it out to use the model's own",
        )
    if recipe.data.packing and not documents_stay_apart(model):
        raise UserError(
            f"model {recipe.model.name!r} mixes the documents of a packed row", hint="set data.packing=false"
        )


def _choose_matmul(wish: str, recipe: Recipe, model: LanguageModel, data: PreparedData, chunk: int) -> MatmulChoice:
    if model.network.device.type != "cpu":
        return MatmulChoice(library="native", reason="only CPU training has a choice")
    if recipe.training.precision != "fp32":
        return MatmulChoice(library="native", reason="only fp32 training has a choice")
    config = model.network.config
    width = int(getattr(config, "hidden_size", 512))
    inner = int(getattr(config, "intermediate_size", 4 * width))
    rows = min(recipe.training.microbatch_size_per_gpu * data.row_length, 2048)
    return choose_cpu_matmul(wish, [(rows, width, inner), (rows, inner, width), (chunk, width, model.vocabulary)])


def _announce(session: _Session) -> None:
    """Write what a person should know before the first step."""
    write = session.context.events.write
    total, trained = session.model.parameter_counts()
    write(
        "message",
        level="info",
        text=f"{total:,} parameters, {trained:,} trained; {session.plan}; {torch.get_num_threads()} threads",
    )
    write("message", level="info", text=f"fp32 matrix products: {session.matmul.library} ({session.matmul.reason})")
    write("message", level="info", text=session.data.summary)
    for warning in session.data.warnings:
        write("message", level="warning", text=warning)
    if (
        session.recipe.training.precision == "bf16"
        and session.ranks.device.type == "cpu"
        and not cpu_flags() & _FAST_BF16
    ):
        write(
            "message", level="warning", text="this processor has no bf16 unit: precision bf16 is slower than fp32 here"
        )


def _train(session: _Session) -> RunResult:
    recipe, context, data, network = session.recipe, session.context, session.data, session.model.network
    length = run_length(recipe.training, len(data.train), session.plan.global_batch_size)
    rows = TrainingRows(
        data.train, session.plan, session.ranks, seed=recipe.training.seed, total_rows=length.total_rows
    )
    optimizer = build_optimizer(recipe.optimizer, network)
    schedule = recipe.optimizer.scheduler
    scheduler = build_scheduler(
        schedule.name,
        optimizer,
        total_steps=length.total_steps,
        warmup_steps=schedule.warmup_steps,
        **{name: getattr(schedule, name) for name in SCHEDULE_FIELDS},
    )
    step = tokens = 0
    metrics: dict[str, float] = {}
    if context.resume_from is not None:
        cursor = read_cursor(context.resume_from)
        _require_same_run(session, cursor, length.total_steps)
        restore_trainer(context.resume_from, network, optimizer, scheduler)
        step, tokens, metrics = cursor.step, cursor.tokens_seen, cursor.metrics

    def save(at: int, figures: dict[str, float]) -> str | None:
        return _save(session, engine, at, figures, length.total_steps)

    engine = Engine(
        model=session.model,
        optimizer=optimizer,
        schedule=scheduler,
        rows=rows,
        ranks=session.ranks,
        training=recipe.training,
        total_steps=length.total_steps,
        loss_chunk=session.loss_chunk,
        events=context.events,
        stop_requested=context.stop_requested,
        hooks=Hooks(
            evaluate=lambda at: _evaluate(session, engine, at), sample=lambda at: _sample(session, at), save=save
        ),
        run_dir=context.run_dir,
    )
    engine.metrics.update(metrics)
    return engine.run(step, tokens)


def _require_same_run(session: _Session, cursor: Cursor, total_steps: int) -> None:
    """Refuse to continue with other data or batches. Raises UserError."""
    now: dict[str, Any] = {
        "dataset_hash": session.data.dataset_hash,
        "rows": len(session.data.train),
        "global_batch_size": session.plan.global_batch_size,
        "seed": session.recipe.training.seed,
        "total_steps": total_steps,
    }
    changed = [
        f"{key} was {getattr(cursor, key)} and is {value}"
        for key, value in now.items()
        if getattr(cursor, key) != value
    ]
    if changed:
        raise UserError(
            f"the run can't continue exactly: {'; '.join(changed)}",
            hint="restore the data and recipe of the run, or start a new run with its checkpoint as model.name",
        )


def _evaluate(session: _Session, engine: Engine, step: int) -> dict[str, float]:
    if session.data.validation is None:
        return {}
    values = evaluate(
        session.model,
        session.data.validation,
        session.ranks,
        batch_size=session.plan.microbatch_size,
        loss_chunk=session.loss_chunk,
        autocast=engine.autocast,
        should_stop=engine.should_stop,
    )
    if values and session.ranks.is_main:
        session.context.events.write("eval", step=step, values=values)
    return values


def _sample(session: _Session, step: int) -> None:
    """Write one `sample` event for each prompt of the recipe; rank 0 generates, the others wait."""
    samples, context, tokenizer, network = (
        session.recipe.samples,
        session.context,
        session.data.tokenizer,
        session.model.network,
    )
    if not samples.prompts:
        return
    if session.ranks.is_main:
        network.eval()
        stopping: Callable[[], bool] = lambda: context.stop_requested() is not None  # noqa: E731
        stop_ids = chat_stop_tokens(network, tokenizer)
        context.events.write("progress", phase="sampling", step=step, total_steps=None)
        for prompt in samples.prompts:
            if stopping():
                break
            chat = session.recipe.method == "sft" and tokenizer.chat_template
            ids = (
                chat_prompt(tokenizer, [{"role": "user", "content": prompt}])
                if chat
                else text_prompt(tokenizer, prompt)
            )
            tokens = generate_tokens(
                network,
                ids,
                max_new_tokens=samples.max_new_tokens,
                temperature=0.0,
                stop_ids=stop_ids,
                should_stop=stopping,
            )
            context.events.write("sample", step=step, prompt=prompt, text="".join(decode_stream(tokenizer, tokens)))
    session.ranks.barrier()


def _save(session: _Session, engine: Engine, step: int, metrics: dict[str, float], total_steps: int) -> str | None:
    """Commit a checkpoint of `step` on rank 0; the others wait for it."""
    name = None
    if session.ranks.is_main:
        folder: Path = session.context.checkpoints.stage(step)
        save_model(session.model, session.data.tokenizer, folder)
        if session.recipe.checkpointing.save_optimizer:
            cursor = Cursor(
                step=step,
                tokens_seen=engine.tokens_seen,
                total_steps=total_steps,
                dataset_hash=session.data.dataset_hash,
                rows=len(session.data.train),
                global_batch_size=session.plan.global_batch_size,
                seed=session.recipe.training.seed,
                cpu_matmul=session.matmul.library,
                metrics=metrics,
            )
            save_trainer(folder, cursor, session.model.network, engine.optimizer, engine.schedule)
        name = session.context.checkpoints.commit(
            step,
            folder,
            metrics=metrics,
            inputs=[f"sha256:{session.data.dataset_hash}"],
            lineage={"dataset": {"hash": f"sha256:{session.data.dataset_hash}", "documents": session.data.documents}},
        )
    session.ranks.barrier()
    return name
