#!/usr/bin/env python3
"""Remakes hamlet.jsonl: the first half of Hamlet from shakespeare.txt, in passages of some speeches each.

python recipes/data/make_hamlet.py
"""

from __future__ import annotations

import json
from pathlib import Path

HERE = Path(__file__).parent
PASSAGES = 120
LEAST_CHARACTERS = 700


def passages(text: str) -> list[str]:
    """Paragraphs put together until they have enough characters."""
    found, held = [], ""
    for paragraph in text.split("\n\n"):
        held = f"{held}\n\n{paragraph}" if held else paragraph
        if len(held) >= LEAST_CHARACTERS:
            found.append(held.strip())
            held = ""
    return found


def main() -> None:
    """Write the file."""
    text = (HERE / "shakespeare.txt").read_text(encoding="utf-8")
    rows = passages(text)[:PASSAGES]
    lines = [json.dumps({"text": row}, ensure_ascii=False) for row in rows]
    (HERE / "hamlet.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
