"""The plan of a launch in a window: what it settles, what it needs, the exact commands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import LoadingIndicator, Static

from nexa import units
from nexa.errors import NexaError
from nexa.text import sanitize
from nexa.tui.launching import plan_form
from nexa.tui.threads import defects_told, deliver

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nexa.plan import Plan
    from nexa.runs.forecast import Forecast
    from nexa.tui.forms.form import RecipeForm
    from nexa.tui.services import Services

Part = tuple[str, str]

_LABEL_CELLS = 13
_BAR_CELLS = 30


@dataclass(frozen=True, kw_only=True)
class _Planned:
    plan: Plan
    commands: str
    forecast: Forecast | None


class PlanScreen(ModalScreen[bool]):
    """Plans a form in a thread and shows it; dismissed with True to launch it."""

    BINDINGS: ClassVar[list[Binding]] = [  # type: ignore[assignment]
        Binding("escape,q,p", "close", "Close"),
        Binding("f5", "launch", "Launch"),
    ]

    def __init__(self, form: RecipeForm, services: Services) -> None:
        super().__init__()
        self._form = form
        self._services = services

    def compose(self) -> ComposeResult:
        """The window; filled when the plan is made."""
        with VerticalScroll(id="plan") as box:
            box.border_title = "Plan"
            box.border_subtitle = "F5 launches · Esc closes"
            yield LoadingIndicator()

    def on_mount(self) -> None:
        """Begin to plan."""
        self.query_one("#plan").focus()
        self._make()

    def action_close(self) -> None:
        """Close without launching."""
        self.dismiss(False)

    def action_launch(self) -> None:
        """Close and launch."""
        self.dismiss(True)

    @work(thread=True)
    def _make(self) -> None:
        from nexa.cli.plan_view import commands_text
        from nexa.plan import example_attempt
        from nexa.runs.forecast import forecast

        try:
            plan = plan_form(self._form, self._services)
            attempt = example_attempt(plan.runs_dir)
            with defects_told("launch --dry-run"):
                commands = commands_text(plan, plan.submission(attempt), plan.worker_argv(attempt))
            found: _Planned | NexaError = _Planned(plan=plan, commands=commands, forecast=forecast(plan))
        except NexaError as error:
            found = error
        deliver(self, self._show, found)

    async def _show(self, found: _Planned | NexaError) -> None:
        if not self.is_attached:
            return
        box = self.query_one("#plan")
        await box.query(LoadingIndicator).remove()
        if isinstance(found, NexaError):
            await box.mount(Static(sanitize(str(found)), classes="obstacle", markup=False))
            return
        box.border_title = f"Plan for {sanitize(found.plan.run_name)}"
        for heading, text in _sections(found):
            if heading:
                await box.mount(Static(heading, classes="heading", markup=False))
            await box.mount(Static(text))


def _sections(found: _Planned) -> Iterator[tuple[str, Content]]:
    """Headings and texts of the window, in order."""
    from nexa.backend import Answer
    from nexa.cli.plan_view import plan_facts

    plan = found.plan
    if plan.obstacles:
        yield "It can't start here", Content.assemble(*[(f"✗ {sanitize(str(p))}\n", "$error") for p in plan.obstacles])
    facts = [(label, text) for label, text in plan_facts(plan) if label != "memory"]
    parts = [part for label, text in [*facts, *_more_facts(found)] for part in _fact(label, text)]
    yield "", Content.assemble(*parts).rstrip()
    if plan.estimate.memory_bytes:
        total = units.size(sum(plan.estimate.memory_bytes.values()))
        yield f"Memory of a process, {total} (estimate)", Content.assemble(*_memory(plan)).rstrip()
    translated = [line for line in plan.settings if line.answer is Answer.TRANSLATED]
    if translated:
        lines = [f"{line.path} = {line.value}  →  {line.detail}" for line in translated]
        yield f"Settings that backend {plan.backend.name!r} translates", Content(sanitize("\n".join(lines)))
    if plan.estimate.notes:
        yield "The estimates assume", Content(sanitize("\n".join(plan.estimate.notes)))
    yield "Commands", Content(found.commands)
    from nexa.recipe.render import to_yaml

    yield "The whole recipe", Content(sanitize(to_yaml(plan.recipe.document())).rstrip())


def _more_facts(found: _Planned) -> Iterator[tuple[str, str]]:
    plan = found.plan
    row, steps = plan.recipe.model.max_seq_len, plan.estimate.total_steps or plan.recipe.training.max_steps
    if row is not None and steps is not None:
        tokens = row * plan.batch.global_batch_size * steps
        yield "tokens", f"{tokens:,} at most = {row:,} a row × {plan.batch.global_batch_size:,} rows × {steps:,} steps"
    if found.forecast is not None:
        yield "time", f"about {units.duration(found.forecast.seconds)}, at the speed of {found.forecast.run_id}"
    else:
        yield "time", "not known before a first run of this recipe on these machines"


def _fact(label: str, text: str) -> Iterator[Part]:
    yield f"{label:<{_LABEL_CELLS}}", "$foreground-muted"
    yield f"{sanitize(text)}\n", ""


def _memory(plan: Plan) -> Iterator[Part]:
    """A bar for each component, the largest first."""
    parts = sorted(plan.estimate.memory_bytes.items(), key=lambda item: -item[1])
    largest = max(size for _, size in parts) or 1
    for name, size in parts:
        yield f"{sanitize(name):<{_LABEL_CELLS}}", "$foreground-muted"
        yield "█" * max(1, round(_BAR_CELLS * size / largest)), "$primary"
        yield f" {units.size(size)}\n", ""
