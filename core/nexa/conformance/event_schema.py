"""What an event record must hold, by type, and what is wrong with the records of a run."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from types import NoneType
from typing import Any

Record = Mapping[str, Any]

_NUMBER = (int, float)
_OPTIONAL_INT = (int, NoneType)
SCHEMA: Mapping[str, Mapping[str, tuple[type, ...]]] = {
    "start": {"attempt": (int,), "rank": (int,), "world_size": (int,), "host": (str,), "pid": (int,)},
    "progress": {"phase": (str,), "step": _OPTIONAL_INT, "total_steps": _OPTIONAL_INT},
    "metrics": {"step": (int,), "values": (dict,)},
    "eval": {"step": (int,), "values": (dict,)},
    "sample": {"step": (int,), "prompt": (str,), "text": (str,)},
    "checkpoint": {"step": (int,), "name": (str,), "hash": (str,), "bytes": (int,)},
    "message": {"level": (str,), "text": (str,)},
    "system": {},
    "heartbeat": {},
    "end": {"state": (str,), "step": _OPTIONAL_INT, "message": (str,)},
}
"""Fields that a record of each type has, beside `ts` and `type`, with their Python types; more are allowed."""


def schema_faults(records: Sequence[Record]) -> Iterator[str]:
    """What is wrong with the records of one rank's file, in the order they were written."""
    last = -math.inf
    for number, record in enumerate(records, 1):
        kind, ts = str(record.get("type")), record.get("ts")
        place = f"event {number} ({kind})"
        if kind not in SCHEMA:
            yield f"{place}: the type is none of {', '.join(SCHEMA)}"
            continue
        if not isinstance(ts, _NUMBER) or ts < last:
            yield f"{place}: ts {ts!r} is no time at or after the one before"
        else:
            last = ts
        for name, types in SCHEMA[kind].items():
            if name not in record or not isinstance(record[name], types):
                yield f"{place}: {name} is {record.get(name)!r}, not {' or '.join(map(_name, types))}"
        for name, value in dict(record["values"] if isinstance(record.get("values"), dict) else {}).items():
            if value is not None and not isinstance(value, _NUMBER):
                yield f"{place}: values.{name} is {value!r}, not a number"


def _name(type: type) -> str:
    return "null" if type is NoneType else type.__name__
