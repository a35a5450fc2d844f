"""The command palette: every key of the current screen by what it does, and every run by its name."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from rich.text import Text
from textual.command import DiscoveryHit, Hit, Hits, Provider
from textual.dom import DOMNode

from nexa.errors import NexaError
from nexa.text import sanitize_line
from nexa.tui.help import keys_in_words
from nexa.tui.keys import KEYS, Key
from nexa.tui.screens import SCREENS

_MOST_RUNS = 200


class NexaCommands(Provider):
    """What can be done here, as names with their keys."""

    async def discover(self) -> Hits:
        """Everything, before anything is typed."""
        for key, node in self._keys():
            yield DiscoveryHit(key.text, partial(self._run, key, node), help=self._help(key))

    async def search(self, query: str) -> Hits:
        """What matches."""
        matcher = self.matcher(query)
        for key, node in self._keys():
            score = matcher.match(key.text)
            if score > 0:
                yield Hit(score, matcher.highlight(key.text), partial(self._run, key, node), help=self._help(key))
        for run_id in self._run_ids:
            score = matcher.match(run_id)
            if score > 0:
                # Names come from disk and are never read as markup.
                open_run = partial(self._open_run, run_id)
                yield Hit(score, Text(f"Open run {run_id}"), open_run, text=f"Open run {run_id}")

    async def startup(self) -> None:
        """Find the runs once for as long as the palette is open."""
        from nexa.tui.app import NexaApp

        assert isinstance(self.app, NexaApp)
        try:
            runs = self.app.services.store.list()[:_MOST_RUNS]
        except NexaError:
            runs = []
        self._run_ids = [run.run_id for run in runs if run.run_id == sanitize_line(run.run_id)]

    def _keys(self) -> Iterator[tuple[Key, DOMNode]]:
        """The keys of this screen with what they act on, the focused part's first."""
        bound: dict[str, DOMNode] = {}
        for node in (self.app, self.screen, *self.screen.walk_children(), *self._focused_line()):
            for bindings in node._bindings.key_to_bindings.values():
                bound.update({binding.id: node for binding in bindings if binding.id})
        entry = next((entry for entry in SCREENS if entry.name == self.app.current_mode), None)
        for scope in (*(entry.scopes if entry else ()), "global"):
            for key in KEYS[scope]:
                if key.id in bound and key.id != "global.palette":
                    yield key, bound[key.id]

    def _focused_line(self) -> list[DOMNode]:
        return list(reversed(self.focused.ancestors_with_self)) if self.focused is not None else []

    def _help(self, key: Key) -> str:
        return f"{keys_in_words(self.app, key)}  ·  {key.id}"

    async def _run(self, key: Key, node: DOMNode) -> None:
        await self.app.run_action(key.action, default_namespace=node)

    async def _open_run(self, run_id: str) -> None:
        from nexa.tui.app import NexaApp

        assert isinstance(self.app, NexaApp)
        await self.app.open_run(run_id)
