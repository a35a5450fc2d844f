"""The list of recipes with its search field."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical
from textual.content import Content
from textual.message import Message
from textual.strip import Strip
from textual.widgets import Input, OptionList
from textual.widgets.option_list import Option

from nexa.text import sanitize_line
from nexa.tui.contrast import readable
from nexa.tui.forms.search import search_recipes
from nexa.tui.keys import bindings

if TYPE_CHECKING:
    from nexa.recipe.catalog import CatalogEntry


class Choices(OptionList):
    """A list of options with the keys of all lists."""

    BINDINGS: ClassVar[list[Binding]] = bindings("move")  # type: ignore[assignment]

    def render_line(self, y: int) -> Strip:
        """One line; under the cursor no text is lost in its colour."""
        strip = super().render_line(y)
        option = next((segment.style.meta.get("option") for segment in strip if segment.style), None)
        if option is None or option != self.highlighted:
            return strip
        return readable(strip, self.get_visual_style("option-list--option-highlighted").rich_style)

    def action_open(self) -> None:
        """Choose the highlighted option."""
        self.action_select()

    def action_cursor_left(self) -> None:
        """Go to the part on the left."""
        self.screen.focus_previous()

    def action_cursor_right(self) -> None:
        """Go to the part on the right."""
        self.screen.focus_next()


class RecipeList(Vertical):
    """Recipes by name with their tags; what is typed above narrows them down."""

    class Shown(Message):
        """Another recipe is under the cursor."""

        def __init__(self, entry: CatalogEntry) -> None:
            super().__init__()
            self.entry = entry

    class Chosen(Message):
        """The recipe under the cursor is to be changed."""

    def __init__(self, *, id: str) -> None:
        super().__init__(id=id)
        self._entries: list[CatalogEntry] = []
        self._found: list[CatalogEntry] = []
        self._edited: frozenset[Path] = frozenset()

    def compose(self) -> ComposeResult:
        """Search field and list."""
        yield Input(placeholder="search recipes and tags", compact=True, id="recipe-search")
        yield Choices(id="recipe-choices", compact=True)

    @property
    def choices(self) -> Choices:
        """The list below the search field."""
        return self.query_one(Choices)

    @property
    def current(self) -> CatalogEntry | None:
        """The recipe under the cursor."""
        index = self.choices.highlighted
        return self._found[index] if index is not None and index < len(self._found) else None

    def set_entries(self, entries: Sequence[CatalogEntry]) -> None:
        """Show these recipes; the cursor stays on its recipe."""
        self._entries = list(entries)
        self._search(self.query_one(Input).value)

    def mark_edited(self, paths: frozenset[Path]) -> None:
        """Mark the recipes that have edits nobody launched yet."""
        if paths == self._edited:
            return
        changed, self._edited = paths ^ self._edited, paths
        for index, entry in enumerate(self._found):
            if entry.path in changed:
                self.choices.replace_option_prompt_at_index(index, self._prompt(entry))

    def go_to(self, recipe: str | Path) -> None:
        """Put the cursor on a recipe, by name or file, if it is listed; a search that hides the file is cleared."""
        if isinstance(recipe, Path) and all(entry.path != recipe for entry in self._found):
            self._search("")
            with self.prevent(Input.Changed):
                self.query_one(Input).value = ""
        index = next((i for i, entry in enumerate(self._found) if recipe in (entry.name, entry.path)), None)
        if index is not None:
            self.choices.highlighted = index

    def _search(self, query: str) -> None:
        current = self.current
        self._found = search_recipes(self._entries, query)
        self.choices.set_options([Option(self._prompt(entry)) for entry in self._found])
        if self._found:
            kept = next((i for i, e in enumerate(self._found) if current and e.path == current.path), 0)
            self.choices.highlighted = 0 if query.strip() else kept
        count = f"{len(self._found)}/{len(self._entries)}" if query.strip() else str(len(self._entries))
        self.border_subtitle = count

    def _prompt(self, entry: CatalogEntry) -> Content:
        below = "can't be read" if entry.problem else " ".join(entry.tags) or entry.method
        return Content.assemble(
            ("● " if entry.path in self._edited else "  ", "$accent bold"),
            (sanitize_line(entry.name), "$error bold" if entry.problem else "bold"),
            (f"\n  {sanitize_line(below)}", "$foreground-muted"),
        )

    @on(Input.Changed)
    def _typed(self, event: Input.Changed) -> None:
        event.stop()
        self._search(event.value)

    @on(Input.Submitted)
    def _search_done(self, event: Input.Submitted) -> None:
        event.stop()
        if self.current is not None:
            self.post_message(self.Chosen())

    def on_key(self, event: events.Key) -> None:
        """From the search field, arrows go into the list."""
        if event.key in ("down", "up") and self.query_one(Input).has_focus:
            event.stop()
            self.choices.focus()

    @on(OptionList.OptionHighlighted)
    def _moved(self, event: OptionList.OptionHighlighted) -> None:
        event.stop()
        if self.current is not None:
            self.post_message(self.Shown(self.current))

    @on(OptionList.OptionSelected)
    def _chosen(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        self.post_message(self.Chosen())
