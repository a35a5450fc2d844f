"""The logs of a run: one file at a time, with search, levels and jumps done in threads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.text import Text
from textual import on, work
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import Input, Static
from textual.worker import get_current_worker

from nexa.errors import UserError
from nexa.text import sanitize_line
from nexa.tui.data.log_index import LogIndex
from nexa.tui.data.log_lines import LEVELS, LevelFilter, Search, find_error
from nexa.tui.threads import deliver
from nexa.tui.widgets.log_view import LogView

_SCAN_BYTES = 64 << 20


class LogPane(Vertical):
    """A status line, the log, and the field for searching."""

    DEFAULT_CSS = """
    LogPane > #log-status { height: 1; padding: 0 1; background: $surface; }
    LogPane > #log-search { display: none; }
    LogPane > #log-search.-open { display: block; }
    """

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._folder: Path | None = None
        self._paths: Sequence[Path] = ()
        self._index: LogIndex | None = None
        self._level = LEVELS[0]
        self._busy = ""
        self._status: Text | None = None

    def compose(self) -> ComposeResult:
        """The parts."""
        yield Static("", id="log-status")
        yield LogView(id="log-view")
        yield Input(
            placeholder="search: a regular expression; Enter finds, n and N go on", id="log-search", compact=True
        )

    @property
    def view(self) -> LogView:
        """The log itself."""
        return self.query_one(LogView)

    def open(self, folder: Path) -> None:
        """Show the logs in a folder, newest attempt and rank 0 first."""
        self._folder, self._paths, self._index = folder, (), None
        self._level = LEVELS[0]
        self.view.open(None)

    def scan(self) -> None:
        """Find files and count lines; for a thread."""
        if self._folder is None:
            return
        self._paths = log_files(self._folder)
        index = self._index
        if index is None or index.path.parent != self._folder:
            if not self._paths:
                return
            index = self._index = LogIndex(self._paths[0])
        index.scan(max_bytes=_SCAN_BYTES)
        level = self.view.level
        if level is not None:
            level.update(index)

    @property
    def catching_up(self) -> bool:
        """Whether more of the file waits to be counted."""
        return self._index is not None and not self._index.complete

    def refresh_view(self) -> None:
        """Show what `scan` found."""
        if self._index is not None and self.view.index is not self._index:
            self.view.open(self._index)
        else:
            self.view.update()
        self._show_status()

    @on(LogView.Moved)
    def _show_status(self) -> None:
        view, index = self.view, self._index
        line = Text(no_wrap=True, overflow="ellipsis")
        if index is None:
            line.append("no log yet", "dim")
        else:
            line.append(sanitize_line(index.path.name), "bold")
            if len(self._paths) > 1:
                line.append(f" ({len(self._paths)} files, o: next)", "dim")
            if not index.complete and index.size:
                line.append(f"  counting lines {index.scanned / index.size:.0%}")
            line.append(f"  {index.lines:,} lines", "dim")
            if self._level != LEVELS[0]:
                line.append(f"  {self._level}: {view.count:,}", "bold")
            if view.search is not None:
                line.append(f"  /{sanitize_line(view.search.pattern.pattern)}/", "bold")
            line.append("  following" if view.follow else f"  line {view.top_line + 1:,}", "dim")
            line.append("  wrapped" if view.wrap else "", "dim")
            line.append(f"  {self._busy}" if self._busy else "", "bold")
        if line != self._status:
            self._status = line
            self.query_one("#log-status", Static).update(line)

    @on(LogView.Asked)
    def _asked(self, event: LogView.Asked) -> None:
        event.stop()
        {
            "match": lambda: self._find(event.direction),
            "error": self._find_error,
            "level": self._next_level,
            "source": self._next_source,
        }[event.what]()

    def start_search(self) -> None:
        """Open the field for searching."""
        field = self.query_one("#log-search", Input)
        field.add_class("-open")
        field.focus()

    def leave(self) -> bool:
        """Close the field, then forget the search, then the level; False when there was nothing to leave."""
        field, view = self.query_one("#log-search", Input), self.view
        if field.has_class("-open"):
            field.remove_class("-open")
        elif view.search is not None:
            view.search = None
        elif self._level != LEVELS[0]:
            self._set_level(LEVELS[0])
        else:
            return False
        self.workers.cancel_group(self, "find")
        view.refresh()
        view.focus()
        self._show_status()
        return True

    @on(Input.Submitted, "#log-search")
    def _search(self, event: Input.Submitted) -> None:
        event.stop()
        event.input.remove_class("-open")
        self.view.focus()
        try:
            self.view.search = Search(event.value) if event.value else None
        except UserError as error:
            self.app.notify(sanitize_line(error.message), severity="error", markup=False)
            return
        self.view.refresh()
        if self.view.search is not None:
            self._find(1)

    def _start(self, direction: int) -> int:
        """Where looking begins: after or before the line last jumped to, else at the first in sight."""
        current = self.view.current
        if current is None:
            return self.view.top_line if self.view.top_line >= 0 else 0
        return current + 1 if direction > 0 else current

    def _find(self, direction: int) -> None:
        if self.view.search is None:
            self.start_search()
        elif self._index is not None:
            self._find_in_thread(self._index, self.view.search, self._start(direction), direction)

    def _find_error(self) -> None:
        if self._index is not None:
            start = self._start(1)
            # From the end one looks for the errors above.
            self._find_error_in_thread(self._index, 0 if self.view.follow else start)

    @work(thread=True, group="find", exclusive=True)
    def _find_in_thread(self, index: LogIndex, search: Search, start: int, direction: int) -> None:
        worker = get_current_worker()
        deliver(self, self._set_busy, "searching …")

        def look(begin: int) -> int | None:
            return search.find(index, begin, backwards=direction < 0, cancelled=lambda: worker.is_cancelled)

        found = look(start)
        # Past the last match the search goes on from the other end.
        if found is None and not worker.is_cancelled:
            found = look(0 if direction > 0 else index.lines)
        if not worker.is_cancelled:
            deliver(self, self._found, found, "no line matches")

    @work(thread=True, group="find", exclusive=True)
    def _find_error_in_thread(self, index: LogIndex, start: int) -> None:
        worker = get_current_worker()
        deliver(self, self._set_busy, "looking for errors …")
        found = find_error(index, start, cancelled=lambda: worker.is_cancelled)
        if found is None and start and not worker.is_cancelled:
            found = find_error(index, 0, cancelled=lambda: worker.is_cancelled)
        if not worker.is_cancelled:
            deliver(self, self._found, found, "no errors in this log")

    def _set_busy(self, words: str) -> None:
        self._busy = words
        self._show_status()

    def _found(self, number: int | None, otherwise: str) -> None:
        self._set_busy("")
        if number is None:
            self.app.notify(otherwise, severity="warning", markup=False)
        else:
            self.view.go_to(number)
            if self.view.level is None:
                self._level = LEVELS[0]

    def _next_level(self) -> None:
        self._set_level(LEVELS[(LEVELS.index(self._level) + 1) % len(LEVELS)])

    def _set_level(self, level: str) -> None:
        self._level = level
        if level == LEVELS[0] or self._index is None:
            self._take_level(None)
        else:
            self._filter_in_thread(self._index, LevelFilter(level))

    @work(thread=True, group="level", exclusive=True)
    def _filter_in_thread(self, index: LogIndex, level: LevelFilter) -> None:
        worker = get_current_worker()
        deliver(self, self._set_busy, "filtering …")
        level.update(index, cancelled=lambda: worker.is_cancelled)
        if not worker.is_cancelled:
            deliver(self, self._take_level, level)

    def _take_level(self, level: LevelFilter | None) -> None:
        self.view.level = level
        self.view.follow = True
        self._set_busy("")
        self.view.update()
        self.view.refresh()

    def _next_source(self) -> None:
        if self._index is None or len(self._paths) < 2:
            return
        names = list(self._paths)
        place = names.index(self._index.path) if self._index.path in names else -1
        self._index = LogIndex(names[(place + 1) % len(names)])
        self._level = LEVELS[0]
        self.refresh_view()


def log_files(folder: Path) -> list[Path]:
    """Log files of a run, newest attempt first; rank 0 before other ranks, the supervisor last."""

    def order(path: Path) -> tuple[int, int, str]:
        attempt, _, source = path.stem.partition("-")
        return (-int(attempt) if attempt.isdigit() else 0, int(source) if source.isdigit() else 1 << 30, source)

    return sorted(folder.glob("*.log"), key=order)
