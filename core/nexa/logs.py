"""JSON log lines with run, attempt and process bound, secrets removed; and how they are shown.

One line is {"ts", "level", "event", "logger", "run", "attempt", "rank", …}. structlog writes them
where it is installed; a worker in another environment may lack it and writes the same lines with
`logging` alone.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping, MutableMapping
from typing import IO, Any

from nexa.text import redactor, sanitize

_MARK = '{"ts":'


def configure_logging(stream: IO[str], *, run_id: str, attempt: int, rank: int | str, libraries: bool = True) -> None:
    """Send all log records of this process, of any library, as JSON lines to `stream`.

    rank: of a worker, or a word such as "supervisor". libraries: whether code of others runs here, which may
    log through structlog; that takes long to load.
    """
    bound = {"run": run_id, "attempt": attempt, "rank": rank}
    handler = logging.StreamHandler(stream)
    formatter = _structlog_formatter(bound) if libraries else None
    handler.setFormatter(formatter or _JsonFormatter(bound, redactor()))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)


class _JsonFormatter(logging.Formatter):
    """The same lines as structlog's, by the standard library."""

    def __init__(self, bound: Mapping[str, Any], clean: Callable[[str], str]) -> None:
        super().__init__()
        self._bound = bound
        self._clean = clean

    def format(self, record: logging.LogRecord) -> str:
        """Render one record."""
        document = {
            "ts": record.created,
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            "logger": record.name,
            **self._bound,
        }
        if record.exc_info:
            document["exception"] = self.formatException(record.exc_info)
        return json.dumps(_clean_values(document, self._clean), default=str)


def _structlog_formatter(bound: Mapping[str, Any]) -> logging.Formatter | None:
    """A formatter that renders records of structlog and of `logging` alike; None without structlog."""
    try:
        import structlog
    except ImportError:
        return None
    clean = redactor()

    def bind(logger: Any, method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
        record = event.get("_record")
        known = {
            "ts": record.created if record else time.time(),
            "level": event.pop("level", method),
            "event": event.pop("event", ""),
            "logger": event.pop("logger", None) or (record.name if record else None),
        }
        return {**known, **bound, **event}

    def scrub(logger: Any, method: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
        return _clean_values(event, clean)

    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            bind,
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            scrub,
            structlog.processors.JSONRenderer(),
        ],
    )


def _clean_values(document: Mapping[str, Any], clean: Callable[[str], str]) -> dict[str, Any]:
    return {key: clean(value) if isinstance(value, str) else value for key, value in document.items()}


def is_record(line: str) -> bool:
    """Whether a line of a log file is one of ours, not something a program printed."""
    return line.startswith(_MARK)


def show_line(line: str) -> str:
    """Render one line of a log file for a person: our JSON lines shortened, all text sanitized."""
    if is_record(line):
        try:
            record = json.loads(line)
            clock = time.strftime("%H:%M:%S", time.localtime(record.pop("ts")))
            level, event = record.pop("level"), record.pop("event")
        except (ValueError, KeyError, TypeError, OverflowError):
            return sanitize(line)
        exception = record.pop("exception", None)
        more = " ".join(f"{k}={v}" for k, v in record.items() if k not in ("run", "attempt", "rank", "logger"))
        text = f"{clock} {level:<7} {event}" + (f"  {more}" if more else "")
        return sanitize(f"{text}\n{exception}" if exception else text)
    # A progress bar redraws itself after carriage returns; the last drawing counts.
    return sanitize(line.rstrip("\r").rpartition("\r")[2])
