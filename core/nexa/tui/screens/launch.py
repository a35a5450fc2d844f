"""The Launch screen: choose a recipe, change it in a form, see what that means, start it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical
from textual.timer import Timer
from textual.widgets import Input

from nexa.errors import NexaError, Problem
from nexa.text import sanitize_line
from nexa.tui.forms.fields import Control
from nexa.tui.forms.form import RecipeForm
from nexa.tui.keys import bindings
from nexa.tui.launching import Checked, check_form, launch_form, problems_by_field, read_recipes
from nexa.tui.recipe_actions import RecipeActions
from nexa.tui.widgets.field_editor import FieldEditor
from nexa.tui.widgets.form_view import FormView
from nexa.tui.widgets.preview import Preview
from nexa.tui.widgets.recipe_list import RecipeList

if TYPE_CHECKING:
    from nexa.recipe.catalog import CatalogEntry
    from nexa.scheduler import ClusterView
    from nexa.tui.forms.fields import Field

_CHECK_DELAY_SECONDS = 0.12
_FIRST_RECIPE = "quickstart"
_REMEMBERED = "recipe"


class LaunchScreen(RecipeActions):
    """Recipes, form and preview; edits stay with their recipe until the UI is closed."""

    ENTRY = "launch"
    CSS_PATH = "launch.tcss"
    AUTO_FOCUS = "#recipe-choices"
    BINDINGS: ClassVar[list[Binding]] = bindings("launch")  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self._fields: tuple[Field, ...] = ()
        self._forms: dict[Path, RecipeForm] = {}
        self._shown: Path | None = None
        self._checked: Checked | None = None
        self._check_timer: Timer | None = None
        self._clusters: dict[str, ClusterView] = {}
        self._launching = False
        self._changed_only = False
        self._go_to_file: Path | None = None
        """A new recipe to show once the list has it."""

    def body(self) -> ComposeResult:
        """Three panes; narrow terminals show two of them."""
        with Horizontal():
            recipes = RecipeList(id="recipes")
            recipes.border_title = "Recipes"
            yield recipes
            with Vertical(id="form-pane"):
                yield Input(placeholder="show fields that hold", compact=True, id="field-filter")
                yield FormView(id="form")
                yield FieldEditor(id="field-editor")
            yield Preview(id="preview")

    @property
    def recipes(self) -> RecipeList:
        """The list of recipes."""
        return self.query_one(RecipeList)

    @property
    def form_view(self) -> FormView:
        """The rows of the form."""
        return self.query_one(FormView)

    @property
    def editor(self) -> FieldEditor:
        """Help and control of the field under the cursor."""
        return self.query_one(FieldEditor)

    @property
    def form(self) -> RecipeForm | None:
        """The form of the recipe shown, None while there is none."""
        return self._forms.get(self._shown) if self._shown is not None else None

    def read(self) -> Any:
        """Recipes and fields."""
        return read_recipes(self.services)

    def show(self, found: Any) -> None:
        """Show the recipes; the first time, go to the one last used."""
        entries, self._fields = found
        current = self.recipes.current
        self.recipes.set_entries(entries)
        if current is not None and current.path == self._shown:
            # Its file may have been changed meanwhile.
            self._open(current)
        if self._go_to_file is not None and any(entry.path == self._go_to_file for entry in entries):
            self.recipes.go_to(self._go_to_file)
            self._go_to_file = None
        if current is None:
            self.recipes.go_to(str(self.services.preferences.values.get(_REMEMBERED, _FIRST_RECIPE)))
            self.recipes.choices.focus()

    # Opening and checking a form

    @on(RecipeList.Shown)
    def _recipe_shown(self, event: RecipeList.Shown) -> None:
        # The list says so after every search; what is being edited is not opened anew.
        if event.entry.path != self._shown or self.form is None:
            self._open(event.entry)

    @on(RecipeList.Chosen)
    def _recipe_chosen(self) -> None:
        self.form_view.focus()

    @work(thread=True, exclusive=True, group="open")
    def _open(self, entry: CatalogEntry) -> None:
        try:
            form: RecipeForm | NexaError = RecipeForm(entry.path, self._fields)
        except NexaError as error:
            form = error
        self.deliver(self._opened, entry, form)

    async def _opened(self, entry: CatalogEntry, form: RecipeForm | NexaError) -> None:
        current, known = self.recipes.current, self._forms.get(entry.path)
        if current is None or current.path != entry.path:
            return
        if known is not None and (known.edits or (self._shown == entry.path and self.editor.control is not None)):
            # It was changed while its file was read.
            form = known
        if self._shown != entry.path:
            await self.editor.close()
        pane = self.query_one("#form-pane")
        pane.border_title = sanitize_line(entry.name)
        self._shown = entry.path
        if isinstance(form, NexaError):
            self._forms.pop(entry.path, None)
            self.form_view.clear_options()
            pane.border_subtitle = "can't be read"
            self.query_one(Preview).set_texts("", "", "")
            self.editor.show_trouble(str(form))
            return
        self._forms[entry.path] = form
        self.form_view.set_form(form)
        self._check_now()

    def _check_soon(self) -> None:
        if self._check_timer is not None:
            self._check_timer.stop()
        self._check_timer = self.set_timer(_CHECK_DELAY_SECONDS, self._check_now)

    def _check_now(self) -> None:
        if self.form is not None:
            self._check(self.form.path, self.form.snapshot())

    @work(thread=True, exclusive=True, group="check")
    def _check(self, path: Path, form: RecipeForm) -> None:
        checked = check_form(form)
        self.deliver(self._show_checked, path, form.edits, checked)

    def _show_checked(self, path: Path, edits: Mapping[str, Any], checked: Checked) -> None:
        if self.form is None or self._shown != path or self.form.edits != edits:
            return
        self._checked = checked
        self.query_one(Preview).set_texts(checked.before, checked.after, checked.command)
        self.show_problems(checked.problems)

    def show_problems(self, problems: Mapping[str, Sequence[Problem]]) -> None:
        """Say what is wrong, at the fields it belongs to."""
        form = self.form
        if form is None:
            return
        self.form_view.set_problems(problems)
        self._show_field_help()
        changed, wrong = len(form.edits), sum(map(len, problems.values()))
        parts = [f"{changed} changed" if changed else "", f"{wrong} to correct" if wrong else "valid"]
        self.query_one("#form-pane").border_subtitle = " · ".join(part for part in parts if part)
        self.recipes.mark_edited(frozenset(path for path, form in self._forms.items() if form.edits))

    # Editing fields

    @on(FormView.FieldShown)
    async def _field_shown(self) -> None:
        self._show_field_help()

    @on(FormView.FieldOpened)
    async def _field_opened(self) -> None:
        field, form = self.form_view.field, self.form
        if field is not None and form is not None:
            await self._help_of(form, field)
            await self.editor.edit()

    def _show_field_help(self) -> None:
        field, form = self.form_view.field, self.form
        if field is not None and form is not None:
            self.call_later(self._help_of, form, field)

    async def _help_of(self, form: RecipeForm, field: Field) -> None:
        if form is not self.form or field.path not in form.fields:
            return
        found = self._checked.problems.get(field.path, ()) if self._checked is not None else ()
        problems = [f"{problem.message} ({problem.hint})" if problem.hint else problem.message for problem in found]
        await self.editor.show_field(form, field, problems=problems, note=self._note(form, field))

    @on(FieldEditor.Changed)
    def _field_changed(self) -> None:
        self.form_view.refresh_rows()
        self._check_soon()

    @on(FieldEditor.Done)
    def _field_done(self) -> None:
        self.form_view.focus()

    def action_undo(self) -> None:
        """Take back the edit of the field under the cursor."""
        field, form = self.form_view.field, self.form
        if field is None or form is None:
            return
        if form.undo(field.path):
            self.form_view.refresh_rows()
            self._check_now()
        else:
            self.tell(f"{field.path} has not been changed", severity="information")

    def action_changed_only(self) -> None:
        """Show changed fields alone, or all again."""
        self._changed_only = not self._changed_only
        self.form_view.set_filter(changed_only=self._changed_only)

    def action_preview(self) -> None:
        """On a narrow terminal, show the preview in place of the form."""
        self.toggle_class("-preview")

    # Search and layers

    def action_filter(self) -> None:
        """Search recipes, or fields where the cursor is in the form."""
        if self.query_one("#form-pane").has_focus_within:
            box = self.query_one("#field-filter", Input)
            box.add_class("-shown")
            box.focus()
        else:
            self.query_one("#recipe-search", Input).focus()

    @on(Input.Changed, "#field-filter")
    def _filter_fields(self, event: Input.Changed) -> None:
        self.form_view.set_filter(query=event.value)

    @on(Input.Submitted, "#field-filter")
    def _filter_done(self) -> None:
        self.form_view.focus()

    def action_back(self) -> None:
        """From the filter or preview to the form, from there to the recipes."""
        box, search = self.query_one("#field-filter", Input), self.query_one("#recipe-search", Input)
        if box.has_class("-shown"):
            box.value = ""
            box.remove_class("-shown")
            self.form_view.focus()
        elif self.has_class("-preview"):
            self.remove_class("-preview")
        elif search.has_focus:
            search.value = ""
            self.recipes.choices.focus()
        else:
            self.recipes.choices.focus()

    def show_saved(self, file: Path) -> None:
        """Go on with a new recipe file."""
        self._go_to_file = file
        self.read_now()

    def forget(self, form: RecipeForm) -> None:
        """Drop a form's edits, which are in a file now, unless there are others since."""
        known = self._forms.get(form.path)
        if known is not None and known.edits == form.edits:
            del self._forms[form.path]

    def retake(self) -> None:
        """Show the form again after its text was replaced."""
        self.form_view.rebuild()
        self._check_now()

    # Schedulers and their partitions

    def _note(self, form: RecipeForm, field: Field) -> str:
        """What a scheduler offers, for the fields that choose it or one of its partitions."""
        scheduler = str(form.value("scheduler"))
        if field.path not in ("scheduler", f"{scheduler}.partition"):
            return ""
        view = self._clusters.get(scheduler)
        if view is None:
            self._ask_cluster(scheduler)
            return f"asking {scheduler} …"
        from nexa.cluster_text import partition_line

        if view.problem:
            return f"{scheduler}: {view.problem}"
        lines = [partition_line(partition) for partition in view.partitions]
        return "\n".join(lines or [f"{scheduler} has no partitions, {len(view.nodes)} node(s)"])

    @work(thread=True, exclusive=True, group="cluster")
    def _ask_cluster(self, scheduler: str) -> None:
        from nexa.tui.cluster_text import ask_cluster

        view = ask_cluster(self.services, scheduler)
        self.deliver(self._show_cluster, scheduler, view)

    def _show_cluster(self, scheduler: str, view: ClusterView) -> None:
        self._clusters[scheduler] = view
        form, names = self.form, tuple(partition.name for partition in view.partitions)
        field = form.fields.get(f"{scheduler}.partition") if form is not None else None
        if form is not None and field is not None and names:
            form.fields[field.path] = replace(field, control=Control.SELECT, choices=names)
        self._show_field_help()

    # Plan and launch

    def action_plan(self) -> None:
        """Show what a launch would do."""
        from nexa.tui.screens.plan import PlanScreen

        if self.form is not None:
            self.app.push_screen(PlanScreen(self.form.snapshot(), self.services), self._plan_closed)

    def _plan_closed(self, launch: bool | None) -> None:
        if launch:
            self.action_launch()

    def action_launch(self) -> None:
        """Start the recipe as it stands in the form, and show the run."""
        form = self.form
        if form is None or self._launching:
            return
        try:
            self.services.require_writable("launch")
        except NexaError as error:
            self.tell(error)
            return
        self._launching = True
        self.query_one("#form-pane").border_subtitle = "launching …"
        self._launch(form.snapshot())

    @work(thread=True, group="launch")
    def _launch(self, form: RecipeForm) -> None:
        try:
            run_id, trouble = launch_form(form, self.services).run_id, None
        except NexaError as error:
            run_id, trouble = "", error
        self.deliver(self._launched, form, run_id, trouble)

    async def _launched(self, form: RecipeForm, run_id: str, trouble: NexaError | None) -> None:
        self._launching = False
        if trouble is None:
            self.services.preferences.values[_REMEMBERED] = form.path.stem
            self.services.preferences.save()
            self.show_problems({})
            await self.nexa.open_run(run_id)
            return
        problems = problems_by_field(form, trouble)
        if form.path == self._shown:
            self.show_problems(problems)
            if any(self.form_view.go_to(path) for path in problems if path):
                self.form_view.focus()
        self.tell(trouble)
