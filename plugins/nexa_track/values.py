"""Which numbers of an event record a tracker shows, and under which names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_GROUPS = {"metrics": "train", "eval": "eval"}


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the finite numbers of a `metrics` or `eval` record as "train/loss", "eval/perplexity".

    Other records have none. Null stands for a number that was not finite and is left out.
    """
    group = _GROUPS.get(record.get("type", ""))
    if group is None:
        return {}
    return {
        f"{group}/{name.removeprefix(f'{group}_')}": float(value)
        for name, value in record.get("values", {}).items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
