"""Dialogs: a question that names what it is about, a choice from a list, and a line of text."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Button, Input, OptionList, Static
from textual.widgets.option_list import Option

from nexa.text import sanitize


class Question(ModalScreen[bool]):
    """Asks before something is done; gives whether to do it.

    title: what will be done to what. text: what that means. verb: on the button. dangerous: whether
    the cursor begins on "Cancel".
    """

    BINDINGS = [
        Binding("escape,n", "answer(False)", "No"),
        Binding("y", "answer(True)", "Yes"),
        Binding("left,right,h,l", "app.focus_next", "Other button", show=False),
    ]

    def __init__(self, title: str, text: str, *, verb: str, dangerous: bool = False) -> None:
        super().__init__()
        self._question = sanitize(title)
        self._text = sanitize(text)
        self._verb = verb
        self._dangerous = dangerous

    def compose(self) -> ComposeResult:
        """The question and two buttons."""
        with Vertical(classes="dialog" + (" -dangerous" if self._dangerous else "")):
            yield Static(Text(self._question), classes="dialog-title")
            yield Static(Text(self._text), classes="dialog-text")
            with Horizontal(classes="dialog-buttons"):
                yield Button(f"{self._verb} (y)", id="yes", variant="error" if self._dangerous else "primary")
                yield Button("Cancel (n)", id="no")

    def on_mount(self) -> None:
        """Put the cursor on the safe button."""
        self.query_one("#no" if self._dangerous else "#yes").focus()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Answer."""
        self.dismiss(event.button.id == "yes")

    def action_answer(self, yes: bool) -> None:
        """Answer by key."""
        self.dismiss(yes)


class Choice(ModalScreen[str | None]):
    """Lets one of several things be chosen; gives its value, None when nothing was.

    options: (value, what to show).
    """

    BINDINGS = [
        Binding("escape,q", "cancel", "Cancel"),
        Binding("j", "move('cursor_down')", show=False),
        Binding("k", "move('cursor_up')", show=False),
    ]

    def __init__(self, title: str, text: str, options: Sequence[tuple[str, str]]) -> None:
        super().__init__()
        self._question = sanitize(title)
        self._text = sanitize(text)
        self._options = options

    def compose(self) -> ComposeResult:
        """The question and the list."""
        with Vertical(classes="dialog"):
            yield Static(Text(self._question), classes="dialog-title")
            yield Static(Text(self._text), classes="dialog-text")
            yield OptionList(*(Option(Text(sanitize(shown))) for _, shown in self._options))
            yield Static("Enter chooses, Esc cancels", classes="dialog-hint")

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """Give the chosen value."""
        self.dismiss(self._options[event.option_index][0])

    def action_cancel(self) -> None:
        """Give nothing."""
        self.dismiss(None)

    def action_move(self, how: str) -> None:
        """Move in the list by letters."""
        getattr(self.query_one(OptionList), f"action_{how}")()


class Prompt(ModalScreen[str | None]):
    """Asks for a line of text; gives it without blanks around it, None when nothing was typed."""

    BINDINGS = [Binding("escape", "cancel", "Cancel")]

    def __init__(self, title: str, text: str, *, placeholder: str = "") -> None:
        super().__init__()
        self._question = sanitize(title)
        self._text = sanitize(text)
        self._placeholder = placeholder

    def compose(self) -> ComposeResult:
        """The question and the field."""
        with Vertical(classes="dialog"):
            yield Static(Text(self._question), classes="dialog-title")
            yield Static(Text(self._text), classes="dialog-text")
            yield Input(placeholder=self._placeholder)
            yield Static("Enter accepts, Esc cancels", classes="dialog-hint")

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Give the text."""
        event.stop()
        self.dismiss(event.value.strip() or None)

    def action_cancel(self) -> None:
        """Give nothing."""
        self.dismiss(None)
