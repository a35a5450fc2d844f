"""Writes the data of the recipes dpo, kto, orpo, reward and grpo: brief answers preferred to wordy ones, and sums.

The facts are those of `make_pirate.py`. The same bytes come out on every machine.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from make_pirate import CAPITALS, EVAL_EVERY, OPPOSITES, SYMBOLS, YOUNG, an, number, pairs, pick

HERE = Path(__file__).parent
SUMS = 120
EVAL_SUMS = 16


class Fact(NamedTuple):
    """A question, its answer in a word or two, and the answer in a sentence."""

    question: str
    brief: str
    sentence: str


BEFORE = (
    "That's a great question! I'd be happy to help you with that.",
    "Thank you for asking! Let me think about this carefully.",
    "Sure, I can certainly assist you with that today!",
    "What an interesting topic to explore together!",
)
AFTER = (
    "I hope this helps! Please let me know if you have any other questions.",
    "Feel free to ask me anything else that you would like to know.",
    "If you need more information about this topic, just let me know!",
    "Is there anything else I can help you with today?",
)
ASKED = ("What is {0} + {1}?", "How much is {0} plus {1}?", "Add {0} and {1}.")


def facts() -> Iterator[Fact]:
    """All facts, kind by kind."""
    for country, city in pairs(CAPITALS):
        yield Fact(f"What is the capital of {country}?", f"{city}.", f"The capital of {country} is {city}.")
    for element, symbol in pairs(SYMBOLS):
        yield Fact(
            f"What is the chemical symbol for {element}?",
            f"{symbol}.",
            f"The chemical symbol for {element} is {symbol}.",
        )
    for animal, young in pairs(YOUNG):
        name = an(young)
        yield Fact(f"What do you call a baby {animal}?", f"{name.capitalize()}.", f"A baby {animal} is called {name}.")
    for word, opposite in pairs(OPPOSITES):
        yield Fact(
            f"What is the opposite of {word}?", f"{opposite.capitalize()}.", f"The opposite of {word} is {opposite}."
        )


def wordy(fact: Fact) -> str:
    """The answer in a sentence, between two that say nothing."""
    return f"{pick(BEFORE, fact.question)} {fact.sentence} {pick(AFTER, 'after', fact.question)}"


def pair(fact: Fact) -> dict[str, Any]:
    """Both answers: the brief one is the better."""
    return {"prompt": fact.question, "chosen": fact.brief, "rejected": wordy(fact)}


def judged(index: int, fact: Fact) -> dict[str, Any]:
    """One answer with its label, brief and wordy in turn."""
    good = index % 2 == 0
    return {"prompt": fact.question, "completion": fact.brief if good else wordy(fact), "label": good}


def sums() -> list[dict[str, Any]]:
    """Additions of numbers up to 20, with their results, in an order without a pattern."""
    drawn = sorted(product(range(2, 21), repeat=2), key=lambda both: number(f"sum {both}", 2**62))[:SUMS]
    return [{"prompt": pick(ASKED, a, b).format(a, b), "answer": a + b} for a, b in drawn]


def files() -> dict[str, str]:
    """Name and content of each data file."""
    known = sorted(facts(), key=lambda fact: number(fact.question, 2**62))
    train = [fact for i, fact in enumerate(known) if i % EVAL_EVERY]
    held_out = known[::EVAL_EVERY]
    added = sums()
    rows = {
        "brief-train.jsonl": [pair(fact) for fact in train],
        "brief-eval.jsonl": [pair(fact) for fact in held_out],
        "brief-judged-train.jsonl": [judged(i, fact) for i, fact in enumerate(train)],
        "brief-judged-eval.jsonl": [judged(i, fact) for i, fact in enumerate(held_out)],
        "sums-train.jsonl": added[EVAL_SUMS:],
        "sums-eval.jsonl": added[:EVAL_SUMS],
    }
    return {
        name: "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content) for name, content in rows.items()
    }


def main() -> None:
    """Write the data files beside this script."""
    for name, content in files().items():
        (HERE / name).write_text(content, encoding="utf-8", newline="\n")
        digest = hashlib.sha256(content.encode()).hexdigest()
        print(f"| `{name}` | {content.count(chr(10))} | {len(content.encode())} | `{digest}` | CC0 1.0 |")


if __name__ == "__main__":
    main()
