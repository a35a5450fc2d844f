"""Copy, edit and save: the ways of a recipe between the form and the world outside it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from textual import work

from nexa.errors import NexaError, Problem, RecipeError
from nexa.tui.editor import edit_text
from nexa.tui.launching import problems_by_field, save_form
from nexa.tui.screens.base import NexaScreen
from nexa.tui.widgets.dialogs import Prompt

if TYPE_CHECKING:
    from nexa.tui.forms.form import RecipeForm

_SAVE_WORDS = "A name goes to the project's recipes/, a path where it says. No file is ever replaced."


class RecipeActions(NexaScreen):
    """A screen with a form, whose text can be copied as a command, edited as a file, and saved as a new one."""

    def __init__(self) -> None:
        super().__init__()
        self._drafts: dict[Path, str] = {}
        """Texts from the editor that are no recipe yet, by recipe."""

    @property
    @abstractmethod
    def form(self) -> RecipeForm | None:
        """The form shown."""

    @abstractmethod
    def show_problems(self, problems: Mapping[str, Sequence[Problem]]) -> None:
        """Say what is wrong, at the fields it belongs to."""

    @abstractmethod
    def retake(self) -> None:
        """Show the form again after its text was replaced."""

    @abstractmethod
    def forget(self, form: RecipeForm) -> None:
        """Drop a form's edits, which are in a file now, unless there are others since."""

    @abstractmethod
    def show_saved(self, file: Path) -> None:
        """Go on with a new recipe file."""

    def action_copy(self) -> None:
        """Copy the equivalent command to the clipboard (OSC 52)."""
        if self.form is not None:
            self.app.copy_to_clipboard(self.form.command())
            self.tell("command copied", severity="information")

    def action_edit(self) -> None:
        """Edit the recipe's text in $EDITOR; what changed there becomes edits of the form."""
        form = self.form
        if form is None:
            return
        before = self._drafts.pop(form.path, None) or form.yaml()
        try:
            text = edit_text(self.app, before, name=form.path.name)
            if text is not None:
                form.take_yaml(text)
                self.retake()
        except RecipeError as error:
            self._drafts[form.path] = text or before
            self.show_problems(problems_by_field(form, error))
            self.tell(f"{error}\nyour text is kept: edit it again with e")
        except NexaError as error:
            self.tell(error)

    def action_save(self) -> None:
        """Ask for a name and write what the form holds as a new recipe file."""
        form = self.form
        if form is None:
            return
        try:
            self.services.require_writable("write a file")
        except NexaError as error:
            self.tell(error)
            return
        prompt = Prompt(f"Save {form.path.stem} as a new recipe", _SAVE_WORDS, placeholder=f"my-{form.path.stem}")

        def named(name: str | None) -> None:
            if name:
                self._save(form.snapshot(), name)

        self.app.push_screen(prompt, named)

    @work(thread=True, group="save")
    def _save(self, form: RecipeForm, name: str) -> None:
        try:
            file = save_form(form, name)
        except NexaError as error:
            self.deliver(self.tell, error)
        else:
            self.deliver(self._saved, form, file)

    def _saved(self, form: RecipeForm, file: Path) -> None:
        self.inform(f"written: {file}")
        self.forget(form)
        self.show_saved(file)
