"""A plan and a first batch as text for people."""

from __future__ import annotations

import shlex
import textwrap
from typing import TYPE_CHECKING

from nexa import units
from nexa.backend import Answer
from nexa.text import sanitize

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nexa.backend import Preview, PreviewToken
    from nexa.plan import Plan
    from nexa.scheduler import Submission

_LABEL_WIDTH = 12
_WIDTH = 118
_MAX_ROWS = 2
_MAX_TOKENS = 400


def plan_text(plan: Plan) -> str:
    """The plan in aligned lines: what is trained, in which batches, and what it is expected to need."""
    lines = [f"Plan for {plan.run_name} ({plan.recipe_path})"]
    lines += [f"  {label:<{_LABEL_WIDTH}}{text}" for label, text in plan_facts(plan)]
    lines += _settings(plan)
    if plan.estimate.notes:
        lines.append("The estimates assume")
        lines += [f"  {note}" for note in plan.estimate.notes]
    return sanitize("\n".join(lines))


def _settings(plan: Plan) -> Iterator[str]:
    """What the backend does not plainly honour: a table of path, answer and detail, then what is refused and unset."""
    told = [
        line
        for line in plan.settings
        if line.answer is Answer.TRANSLATED or (line.answer is Answer.REFUSED and line.is_set)
    ]
    unset = [line.path for line in plan.settings if line.answer is Answer.REFUSED and not line.is_set]
    if told or unset:
        yield f"Settings that backend {plan.backend.name!r} does not plainly honour"
    paths = [f"{line.path} = {line.value}" for line in told]
    width = max(map(len, paths), default=0)
    for path, line in zip(paths, told, strict=True):
        yield f"  {path:<{width}}  {line.answer:<10}  {line.detail}"
    if unset:
        named = ", ".join(_in_sections(unset, [line.path for line in plan.settings]))
        text = f"refused here, and not set: {named} (why: --json)"
        yield from textwrap.wrap(text, _WIDTH, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)


def _in_sections(paths: Sequence[str], known: Sequence[str]) -> Iterator[str]:
    """The paths in order, those of a section that holds no others as one "section.*"."""
    names = set(paths)
    told: set[str] = set()
    for path in paths:
        section = path.partition(".")[0]
        whole = "." in path and all(other in names for other in known if other.startswith(f"{section}."))
        shown = f"{section}.*" if whole else path
        if shown not in told:
            told.add(shown)
            yield shown


def plan_facts(plan: Plan) -> Iterator[tuple[str, str]]:
    """Label and text of each thing a plan settles, in the order of a launch."""
    recipe, resources, batch, estimate = plan.recipe, plan.resources, plan.batch, plan.estimate
    yield "method", f"{recipe.method}, backend {plan.backend.name}, scheduler {plan.scheduler.name}"
    yield "model", recipe.model.name + (f", {recipe.adapter.type} adapter" if recipe.adapter else "")
    if estimate.parameters is not None:
        trained = estimate.trainable_parameters
        share = "" if trained is None else f", {_count(trained)} of them trained"
        yield "parameters", f"{_count(estimate.parameters)}{share} (estimate)"
    version = f", version {recipe.data.dataset_version}" if recipe.data.dataset_version else ""
    yield "data", recipe.data.remote_uri + version
    yield "environment", _environment(plan)
    devices = f"{_plural(resources.gpus_per_node, 'GPU')} each" if resources.gpus_per_node else "CPU only"
    yield "machines", f"{_plural(resources.num_nodes, 'node')}, {devices}"
    yield (
        "batch",
        f"{_plural(batch.global_batch_size, 'row')} a step = {batch.microbatch_size} a forward pass "
        f"× {batch.accumulation_steps} accumulated × {_plural(batch.world_size, 'process', 'processes')}",
    )
    yield "length", _length(plan)
    if estimate.memory_bytes:
        parts = ", ".join(f"{name} {units.size(size)}" for name, size in estimate.memory_bytes.items())
        yield "memory", f"{units.size(sum(estimate.memory_bytes.values()))} a process (estimate): {parts}"
    yield "checkpoints", _checkpoints(plan)
    if plan.observers:
        yield "observers", ", ".join(spec.name for spec in plan.observers)


def _environment(plan: Plan) -> str:
    """Where the workers run, and why not elsewhere or what does not fit."""
    chosen = plan.environment
    facts = [
        *([f"Python {chosen.version}"] if chosen.version else []),
        *([_plural(chosen.packages, "package")] if chosen.packages is not None else []),
        *([chosen.digest[:12]] if chosen.digest else []),
    ]
    what = {"container": f"container {chosen.name}", "current": "current"}.get(chosen.kind, chosen.name)
    details = f" ({', '.join(facts)})" if facts else ""
    return "; ".join([what + details, *chosen.reasons])


def _length(plan: Plan) -> str:
    training = plan.recipe.training
    if training.max_steps is not None:
        return _plural(training.max_steps, "step")
    epochs = f"{training.epochs or 1:g} passes over the data"
    steps = plan.estimate.total_steps
    return epochs if steps is None else f"{epochs}, {_plural(steps, 'step')} (estimate)"


def _checkpoints(plan: Plan) -> str:
    size, needed = plan.estimate.checkpoint_bytes, plan.disk_bytes
    if size is None or needed is None:
        return plan.store_uri
    return f"{units.size(needed)} for {plan.checkpoints_kept} × {units.size(size)} (estimate), in {plan.store_uri}"


def commands_text(plan: Plan, submission: Submission, worker_argv: Sequence[str]) -> str:
    """The exact commands of a launch; RUN_ID stands for the id that the launch makes."""
    lines = [f"Scheduler {plan.scheduler.name} runs", f"  {shlex.join(submission.argv)}"]
    if submission.script is not None:
        lines += ["with the script", *(f"  {line}" for line in submission.script.splitlines())]
    lines += ["which starts the workers", f"  {shlex.join(worker_argv)}"]
    variables = {**plan.worker.env, **({"PYTHONPATH": plan.worker.code} if plan.worker.code else {})}
    lines += [f"  {name}={shlex.quote(value)}" for name, value in sorted(variables.items())]
    lines += [f"Note: {note}" for note in submission.notes]
    return sanitize("\n".join(lines))


def preview_text(preview: Preview, *, colour: bool) -> str:
    """The first batch with the trained tokens marked, and the counts of the whole training data.

    With `colour` trained tokens are green and underlined; without it they stand between ⟦ and ⟧.
    """
    if not preview.tokens:
        return _untokenized_text(preview)
    shown = preview.rows[:_MAX_ROWS]
    lines = ["First batch, with the tokens that carry loss " + ("underlined" if colour else "between ⟦ and ⟧")]
    for number, row in enumerate(shown, start=1):
        trained = sum(token.trained for token in row)
        lines.append(f"  row {number}: {_plural(len(row), 'token')}, {trained} trained")
        lines += [f"    {line}" for line in _row_text(row[:_MAX_TOKENS], colour=colour).split("\n")]
        if len(row) > _MAX_TOKENS:
            lines.append(f"    … {len(row) - _MAX_TOKENS} more")
    if len(preview.rows) > len(shown):
        lines.append(f"  … {len(preview.rows) - len(shown)} more rows in this batch")
    share = preview.trained_tokens / preview.tokens if preview.tokens else 0.0
    lines.append(
        f"Training data: {preview.documents:,} documents, {preview.tokens:,} tokens, "
        f"{preview.trained_tokens:,} trained ({share:.0%}), {preview.total_steps:,} steps"
    )
    lines += [f"Warning: {sanitize(warning)}" for warning in preview.warnings]
    return "\n".join(lines)


def row_lines(number: int, row: Sequence[PreviewToken], *, colour: bool) -> Iterator[str]:
    """A whole row in lines: what it holds, then its documents one below the other."""
    documents = max((token.document for token in row), default=0) + 1
    trained = sum(token.trained for token in row)
    yield f"row {number}: {_plural(len(row), 'token')}, {trained} trained, {_plural(documents, 'document')}"
    for document in range(documents):
        text = _row_text([token for token in row if token.document == document], colour=colour)
        head = f"{document + 1:>4}  "
        for line in text.removesuffix("\n").split("\n"):
            yield head + line
            head = " " * len(head)


def _untokenized_text(preview: Preview) -> str:
    """The first batch of a task without tokens, as its backend describes it, and the size of the data."""
    lines = ["First batch"]
    for row in preview.rows[:_MAX_ROWS]:
        lines += [f"  {line}" for line in "".join(sanitize(token.text) for token in row).splitlines()]
    lines.append(f"Training data: {_plural(preview.documents, 'row')}, {_plural(preview.total_steps, 'step')}")
    lines += [f"Warning: {sanitize(warning)}" for warning in preview.warnings]
    return "\n".join(lines)


def _row_text(row: Sequence[PreviewToken], *, colour: bool) -> str:
    """Tokens of one row as text, marks opening and closing where `trained` changes."""
    start, end = ("\x1b[32;4m", "\x1b[0m") if colour else ("⟦", "⟧")
    pieces: list[str] = []
    trained = False
    for token in row:
        if token.trained != trained:
            pieces.append(start if token.trained else end)
            trained = token.trained
        pieces.append(sanitize(token.text))
    if trained:
        pieces.append(end)
    return "".join(pieces)


def _plural(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _count(number: int) -> str:
    """A parameter count: 134.5M, 7.5B."""
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.1f}{unit}"
    return str(number)
