"""The form's rows: every field with its value, where that comes from, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from textual.content import Content
from textual.message import Message
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from nexa.text import sanitize, sanitize_line
from nexa.tui.forms.fields import Control
from nexa.tui.forms.form import Mark
from nexa.tui.widgets.recipe_list import Choices

if TYPE_CHECKING:
    from nexa.errors import Problem
    from nexa.tui.forms.fields import Field
    from nexa.tui.forms.form import RecipeForm

Part = tuple[str, str]
"""Text and its style."""

_LABEL_CELLS = 25
_TOP = "recipe"
_HEADING = "$primary bold"
_VALUE_STYLES = {Mark.DEFAULT: "$foreground-muted", Mark.RECIPE: "", Mark.EDITED: "$accent bold"}


class FormView(Choices):
    """Rows of one form; the cursor stands on fields alone, headings are passed over."""

    class FieldShown(Message):
        """Another field is under the cursor."""

        def __init__(self, field: Field) -> None:
            super().__init__()
            self.field = field

    class FieldOpened(FieldShown):
        """The field under the cursor is to be edited."""

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id, compact=True)
        self._form: RecipeForm | None = None
        self._problems: Mapping[str, Sequence[Problem]] = {}
        self._changed_only = False
        self._query = ""
        self._rows: dict[str, tuple[Part, ...]] = {}

    @property
    def form(self) -> RecipeForm | None:
        """The form shown."""
        return self._form

    @property
    def field(self) -> Field | None:
        """The field under the cursor."""
        option = self.highlighted_option
        if self._form is None or option is None or option.id is None:
            return None
        return self._form.fields.get(option.id)

    def set_form(self, form: RecipeForm) -> None:
        """Show another form."""
        self._form = form
        self._problems = {}
        self.rebuild()

    def set_filter(self, *, changed_only: bool | None = None, query: str | None = None) -> None:
        """Show changed fields alone, or fields whose path holds a text."""
        self._changed_only = self._changed_only if changed_only is None else changed_only
        self._query = self._query if query is None else query.casefold()
        self.rebuild()

    def set_problems(self, problems: Mapping[str, Sequence[Problem]]) -> None:
        """Show what is wrong, by path of a field or section ("" for the whole recipe)."""
        if problems == self._problems:
            return
        self._problems = problems
        self.refresh_rows()

    def refresh_rows(self) -> None:
        """Draw again what changed in the form or its problems."""
        wanted = dict(self._wanted_rows())
        if list(wanted) != list(self._rows):
            self.rebuild()
            return
        for index, (name, parts) in enumerate(wanted.items()):
            if self._rows[name] != parts:
                self.replace_option_prompt_at_index(index, Content.assemble(*parts))
        self._rows = wanted

    def rebuild(self) -> None:
        """Make all rows; the cursor stays on its field."""
        field = self.field
        self._rows = dict(self._wanted_rows())
        fields = self._form.fields if self._form is not None else {}
        self.set_options(
            [
                Option(Content.assemble(*parts), id=name, disabled=name not in fields)
                for name, parts in self._rows.items()
            ]
        )
        names = [name for name in self._rows if name in fields]
        if names:
            self.go_to(field.path if field is not None and field.path in names else names[0])

    def go_to(self, path: str) -> bool:
        """Put the cursor on a field, or on the first of a section; returns whether it is there."""
        wanted = [path, *(name for name in self._rows if name.startswith(f"{path}."))]
        found = next((name for name in wanted if name in self._rows and not self.get_option(name).disabled), None)
        if found is None:
            return False
        self.highlighted = self.get_option_index(found)
        return True

    def _wanted_rows(self) -> Iterator[tuple[str, tuple[Part, ...]]]:
        """Name and text of every row; a heading's name is no field's."""
        form = self._form
        if form is None:
            return
        section: str | None = None
        for field in form.fields.values():
            if not self._wanted(form, field):
                continue
            if field.section != section:
                section = field.section
                if not (field.control is Control.SECTION and field.path == section):
                    yield f"# {section}", ((section or _TOP, _HEADING), *self._problem_parts(section))
            yield field.path, (*self._row(form, field), *self._problem_parts(field.path))

    def _wanted(self, form: RecipeForm, field: Field) -> bool:
        if self._query and self._query not in field.path.casefold():
            return False
        troubled = field.path in self._problems
        changed = form.mark(field.path) is Mark.EDITED
        return troubled or changed or (not self._changed_only and form.is_visible(field.path))

    def _row(self, form: RecipeForm, field: Field) -> Iterator[Part]:
        mark = form.mark(field.path)
        is_section = field.control is Control.SECTION
        label = field.label
        yield "● " if mark is Mark.EDITED else "  ", "$accent bold"
        yield sanitize_line(label), _HEADING if is_section else "bold" if mark is Mark.EDITED else ""
        yield " " * max(1, _LABEL_CELLS - len(label)), ""
        yield self._shown(form, field), _VALUE_STYLES[mark]
        if mark is Mark.DEFAULT and not is_section:
            yield "  default", "$foreground-disabled"

    def _shown(self, form: RecipeForm, field: Field) -> str:
        value = form.value(field.path)
        if field.control is Control.SECTION:
            return "on" if value is not None else "off"
        if field.control is Control.SWITCH and isinstance(value, bool):
            return "✓ on" if value else "✗ off"
        text = sanitize(form.text(field.path))
        if field.control is Control.LIST and text:
            members = text.split("\n")
            return members[0] if len(members) == 1 else f"{members[0]} … {len(members)} in all"
        return text.replace("\n", " ") or "–"

    def _problem_parts(self, path: str) -> Iterator[Part]:
        for problem in self._problems.get(path, ()):
            hint = f" ({problem.hint})" if problem.hint else ""
            yield f"\n    ✗ {sanitize_line(problem.message + hint)}", "$error"

    def on_option_list_option_highlighted(self, event: OptionList.OptionHighlighted) -> None:
        """Tell the screen of the field."""
        event.stop()
        if self.field is not None:
            self.post_message(self.FieldShown(self.field))

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Tell the screen that the field was opened."""
        event.stop()
        if self.field is not None:
            self.post_message(self.FieldOpened(self.field))
