"""Below the form: what the field under the cursor means, and its control when it is edited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.widget import Widget
from textual.widgets import Input, Select, Static, TextArea

from nexa.recipe.render import flow_text
from nexa.text import sanitize
from nexa.tui.forms.fields import Control, Field
from nexa.tui.forms.text import to_text

if TYPE_CHECKING:
    from nexa.tui.forms.form import RecipeForm

_HINTS: Mapping[Control, str] = {
    Control.SWITCH: "Enter switches it",
    Control.SECTION: "Enter switches the section on or off",
    Control.SELECT: "Enter chooses",
    Control.LIST: "Enter edits, one member a line, Esc ends",
    Control.YAML: "Enter edits, a YAML value such as [a, b] or {key: value}",
    Control.INTEGER: "Enter edits, a whole number",
    Control.NUMBER: "Enter edits, a number",
    Control.TEXT: "Enter edits",
}


class FieldEditor(Vertical):
    """Help of one field, and while it is edited its control. Changes apply as they are typed; Enter or Esc ends."""

    BINDINGS: ClassVar[list[Binding]] = [Binding("escape", "done", "Done", show=False)]  # type: ignore[assignment]

    class Changed(Message):
        """A field has another value in the form."""

    class Done(Message):
        """Editing has ended."""

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self._form: RecipeForm | None = None
        self._field: Field | None = None
        self._help: tuple[Sequence[str], str] = ((), "")

    def compose(self) -> ComposeResult:
        """The help; a control comes and goes below it."""
        yield Static(id="field-about", markup=False)

    @property
    def field(self) -> Field | None:
        """The field shown."""
        return self._field

    @property
    def control(self) -> Widget | None:
        """The control, None while nothing is edited."""
        return next(iter(self.query("#field-control")), None)

    async def show_field(self, form: RecipeForm, field: Field, *, problems: Sequence[str] = (), note: str = "") -> None:
        """Show a field's help, what is wrong with it, and a note, such as what its choices stand for."""
        if self.control is not None and (field != self._field or form is not self._form):
            await self.control.remove()
        self._form, self._field = form, field
        default = "" if field.default is None else to_text(field, field.default) or flow_text(field.default)
        # Some descriptions say it themselves.
        says = default and "Default:" not in field.about
        self._help = (tuple(problems), note)
        hint = _HINTS[field.control]
        if self.control is not None:
            hint = "editing, Esc ends" if field.control is Control.LIST else "editing, Enter ends"
        about = Content.assemble(
            (field.path, "bold"),
            (f"  {hint}\n", "$foreground-muted italic"),
            sanitize(field.about),
            (sanitize(" Default: " + default.replace("\n", ", ") + ".") if says else "", "$foreground-muted"),
            *((f"\n✗ {sanitize(text)}", "$error") for text in problems),
            (f"\n{sanitize(note)}" if note else "", "$foreground-muted"),
        )
        self.query_one("#field-about", Static).update(about)

    def show_trouble(self, text: str) -> None:
        """Say why there is no form."""
        self._form = self._field = None
        self.query_one("#field-about", Static).update(Content.styled(f"✗ {sanitize(text)}", "$error"))

    async def edit(self) -> None:
        """Open the field's control; a switch changes at once."""
        form, field = self._form, self._field
        if form is None or field is None:
            return
        if field.control in (Control.SWITCH, Control.SECTION):
            value = form.value(field.path)
            if field.control is Control.SECTION:
                form.set(field.path, None if value is not None else {})
            else:
                form.set(field.path, not value)
            self.post_message(self.Changed())
            return
        if self.control is not None:
            self.control.focus()
            return
        control = _make_control(form, field)
        await self.mount(control)
        self.screen.set_focus(control)
        await self._show_again()
        if isinstance(control, Select):
            control.action_show_overlay()

    async def close(self) -> None:
        """Take the control away."""
        if self.control is not None:
            await self.control.remove()
            await self._show_again()

    async def _show_again(self) -> None:
        if self._form is not None and self._field is not None:
            problems, note = self._help
            await self.show_field(self._form, self._field, problems=problems, note=note)

    async def action_done(self) -> None:
        """End editing."""
        await self.close()
        self.post_message(self.Done())

    def _apply(self, text: str) -> None:
        if self._form is not None and self._field is not None and self._form.text(self._field.path) != text:
            self._form.set_text(self._field.path, text)
            self.post_message(self.Changed())

    @on(Input.Changed)
    def _typed(self, event: Input.Changed) -> None:
        event.stop()
        self._apply(event.value)

    @on(TextArea.Changed)
    def _typed_lines(self, event: TextArea.Changed) -> None:
        event.stop()
        self._apply(event.text_area.text)

    @on(Input.Submitted)
    async def _submitted(self, event: Input.Submitted) -> None:
        event.stop()
        await self.action_done()

    @on(Select.Changed)
    async def _selected(self, event: Select.Changed) -> None:
        event.stop()
        if self.control is not event.select or self._form is None or self._field is None:
            return
        value: Any = self._field.default if event.select.is_blank() else event.value
        if value != self._form.value(self._field.path):
            self._form.set(self._field.path, value)
            self.post_message(self.Changed())
        if not event.select.expanded:
            await self.action_done()


def _make_control(form: RecipeForm, field: Field) -> Widget:
    """The control that edits a field, holding its value."""
    text = form.text(field.path)
    if field.control is Control.SELECT:
        value = form.value(field.path)
        known = list(field.choices) if value is None or value in field.choices else [value, *field.choices]
        options = [(Content(sanitize(to_text(field, choice))), choice) for choice in known]
        blank = value is None
        return Select(
            options,
            allow_blank=blank or field.default is None,
            value=Select.NULL if blank else value,
            prompt="default",
            compact=True,
            id="field-control",
        )
    if field.control is Control.LIST:
        return TextArea(text, compact=True, id="field-control")
    placeholder = "default" if field.default is None else f"default {to_text(field, field.default)}"
    return Input(text, placeholder=placeholder, compact=True, select_on_focus=False, id="field-control")
