#!/usr/bin/env python3
"""Remakes pirate-train.jsonl and pirate-eval.jsonl: short correct answers in the voice of a pirate captain.

    python make_pirate.py

The facts stand in the tables below and, one a line, in pirate-facts.tsv (kind, question, answer).
Every fact is asked once, in one of several wordings, and answered in one or two sentences, between an opening
cry and sometimes a farewell. Every fifth fact of each kind goes to the evaluation file, so no fact stands in
both. Choices come from SHA-256 of the question, hence the same bytes on every machine. Standard library only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
EVAL_EVERY = 5
"""One fact in so many is held out."""

OPENINGS = (
    "Arr, matey!",
    "Ahoy!",
    "Aye aye!",
    "Yo ho ho!",
    "Shiver me timbers!",
    "Avast!",
    "Arr!",
    "Ahoy, me hearty!",
    "Aye, matey!",
    "Blow me down!",
)
FAREWELLS = (
    "Savvy?",
    "Yo ho!",
    "Arr!",
    "By Davy Jones!",
    "Mark it on yer chart!",
    "Now back to the helm!",
    "So says yer captain!",
    "Hoist the sails!",
)
FAREWELL_PERCENT = 40
"""Share of answers that end with a farewell."""

CAPITALS = """
Argentina:Buenos Aires, Australia:Canberra, Austria:Vienna, Belgium:Brussels, Brazil:Brasília, Bulgaria:Sofia,
Canada:Ottawa, Chile:Santiago, China:Beijing, Colombia:Bogotá, Croatia:Zagreb, Cuba:Havana, Denmark:Copenhagen,
Ecuador:Quito, Egypt:Cairo, Estonia:Tallinn, Ethiopia:Addis Ababa, Finland:Helsinki, Germany:Berlin, Ghana:Accra,
Greece:Athens, Hungary:Budapest, Iceland:Reykjavik, India:New Delhi, Indonesia:Jakarta, Iran:Tehran, Iraq:Baghdad,
Ireland:Dublin, Italy:Rome, Jamaica:Kingston, Japan:Tokyo, Jordan:Amman, Kenya:Nairobi, Latvia:Riga,
Lebanon:Beirut, Lithuania:Vilnius, Malta:Valletta, Mexico:Mexico City, Morocco:Rabat, Nepal:Kathmandu,
New Zealand:Wellington, Norway:Oslo, Peru:Lima, Poland:Warsaw, Portugal:Lisbon, Romania:Bucharest, Russia:Moscow,
Serbia:Belgrade, Slovakia:Bratislava, South Korea:Seoul, Spain:Madrid, Sweden:Stockholm, Thailand:Bangkok,
Tunisia:Tunis, Turkey:Ankara, Ukraine:Kyiv, Uruguay:Montevideo, Venezuela:Caracas, Vietnam:Hanoi, Zambia:Lusaka
"""
SYMBOLS = """
hydrogen:H, helium:He, lithium:Li, carbon:C, nitrogen:N, oxygen:O, fluorine:F, neon:Ne, sodium:Na, magnesium:Mg,
aluminium:Al, silicon:Si, phosphorus:P, sulphur:S, chlorine:Cl, argon:Ar, potassium:K, calcium:Ca, titanium:Ti,
iron:Fe, nickel:Ni, copper:Cu, zinc:Zn, silver:Ag, tin:Sn, iodine:I, platinum:Pt, gold:Au, lead:Pb, uranium:U
"""
YOUNG = """
dog:puppy, cat:kitten, cow:calf, horse:foal, sheep:lamb, goat:kid, pig:piglet, duck:duckling, goose:gosling,
swan:cygnet, bear:cub, lion:cub, deer:fawn, kangaroo:joey, frog:tadpole, owl:owlet, eagle:eaglet, seal:pup,
whale:calf, elephant:calf, rabbit:kit, fox:kit, hare:leveret, turkey:poult, spider:spiderling
"""
OPPOSITES = """
hot:cold, big:small, up:down, day:night, black:white, fast:slow, high:low, hard:soft, wet:dry, early:late,
open:closed, full:empty, rich:poor, strong:weak, happy:sad, young:old, loud:quiet, near:far, left:right,
north:south, east:west, sweet:bitter, thick:thin, true:false, win:lose, buy:sell, push:pull, first:last,
always:never, inside:outside, safe:dangerous, deep:shallow, brave:cowardly, clean:dirty, heavy:light
"""
UNITS = """
minute:60:seconds, hour:60:minutes, day:24:hours, week:7:days, year:12:months, decade:10:years,
century:100:years, metre:100:centimetres, kilometre:1000:metres, kilogram:1000:grams, litre:1000:millilitres,
foot:12:inches, yard:3:feet, dozen:12:items, pound:16:ounces, tonne:1000:kilograms, leap year:366:days,
fathom:6:feet, fortnight:14:days, millennium:1000:years
"""
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
NUMBER_WORDS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
)
TREASURE = ("doubloons", "coconuts", "cannonballs", "parrots", "barrels o' rum", "gold coins", "pearls", "biscuits")


class Fact(NamedTuple):
    """One question and the middle of its answer."""

    question: str
    answer: str


def pick(options: Sequence[str], *key: object) -> str:
    """One of `options`, the same one for the same key on every machine."""
    return options[number("/".join(map(str, key)), len(options))]


def number(key: str, below: int) -> int:
    """A number from 0 up to `below` that depends on `key` alone."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % below


def pairs(table: str) -> Iterator[list[str]]:
    """The entries of a comma-separated table, each split at its colons."""
    for entry in table.replace("\n", " ").split(","):
        yield entry.strip().split(":")


def fill(table: Iterable[Sequence[object]], questions: Sequence[str], answers: Sequence[str]) -> list[Fact]:
    """One fact for each entry: a wording of the question and of the answer, with {0}, {1}, … filled in."""
    facts = []
    for entry in table:
        question = pick(questions, *entry).format(*entry)
        facts.append(Fact(question, pick(answers, "answer", *entry).format(*entry)))
    return facts


def an(noun: str) -> str:
    """The noun with its indefinite article."""
    return f"an {noun}" if noun[0] in "aeiou" or noun == "hour" else f"a {noun}"


def capitals() -> list[Fact]:
    """Countries and their capitals."""
    questions = ("What is the capital of {0}?", "Which city is the capital of {0}?", "Tell me the capital of {0}.")
    answers = (
        "The capital o' {0} be {1}.",
        "That be {1}, capital city o' {0}.",
        "'Tis {1} ye seek, the capital o' {0}.",
        "Set yer course for {1}, the capital o' {0}.",
    )
    return fill(pairs(CAPITALS), questions, answers)


def symbols() -> list[Fact]:
    """Chemical elements and their symbols."""
    questions = ("What is the chemical symbol for {0}?", "Which symbol stands for {0} in chemistry?")
    answers = ("The mark for {0} be {1}.", "The alchemists write {0} as {1}.", "Ye'll find {0} on the chart as {1}.")
    return fill(pairs(SYMBOLS), questions, answers)


def young() -> list[Fact]:
    """Animals and the names of their young."""
    entries = [(animal, an(young)) for animal, young in pairs(YOUNG)]
    questions = ("What do you call a baby {0}?", "What is a young {0} called?")
    answers = ("A baby {0} be called {1}.", "That wee beastie be {1}.", "We call a young {0} {1}.")
    return fill(entries, questions, answers)


def opposites() -> list[Fact]:
    """Words and their opposites."""
    questions = (
        "What is the opposite of {0}?",
        'Give me the opposite of "{0}".',
        "Which word means the opposite of {0}?",
    )
    answers = (
        "The opposite o' {0} be {1}.",
        "Turn {0} about an' ye get {1}.",
        "Sail clean away from {0} an' ye land at {1}.",
    )
    return fill(pairs(OPPOSITES), questions, answers)


def units() -> list[Fact]:
    """How many of a smaller unit make the larger."""
    entries = [(an(unit), count, small) for unit, count, small in pairs(UNITS)]
    questions = ("How many {2} are in {0}?", "How many {2} make {0}?")
    answers = ("There be {1} {2} in {0}.", "Ye'll count {1} {2} in {0}.", "{1} {2} make {0}.")
    return fill(entries, questions, answers)


def calendar() -> list[Fact]:
    """The order of days and months."""
    days = list(zip(DAYS, (*DAYS[1:], DAYS[0]), strict=True))
    months = list(zip(MONTHS, (*MONTHS[1:], MONTHS[0]), strict=True))
    answers = ("After {0} comes {1}.", "Next in the log be {1}.", "{1} follows {0}, sure as the tide.")
    return [
        *fill(days, ("Which day comes after {0}?", "What day follows {0}?"), answers),
        *fill(months, ("Which month comes after {0}?", "What month follows {0}?"), answers),
    ]


def small_numbers(name: str, count: int) -> list[tuple[int, int]]:
    """At most `count` different pairs of numbers from 2 to 10."""
    drawn = ((2 + number(f"{name} {index}", 9), 2 + number(f"{name} {index}, second", 9)) for index in range(count))
    return list(dict.fromkeys(drawn))


def sums() -> list[Fact]:
    """Additions, subtractions and products of small numbers."""
    facts = []
    for a, b in small_numbers("sum", 20):
        words = (NUMBER_WORDS[a], NUMBER_WORDS[b], NUMBER_WORDS[a + b])
        facts += fill([words], ("What is {0} plus {1}?", "Add {0} and {1}."), ("{0} an' {1} make {2}.",))
    for a, b in small_numbers("find", 14):
        words = (NUMBER_WORDS[a], NUMBER_WORDS[b], NUMBER_WORDS[a + b], pick(TREASURE, a, b))
        question = "If I have {0} {3} and find {1} more, how many do I have?"
        facts += fill([words], (question,), ("Ye'd have {2} {3} in yer hold.",))
    for a, b in small_numbers("difference", 20):
        words = (NUMBER_WORDS[a + b], NUMBER_WORDS[b], NUMBER_WORDS[a])
        answers = ("Take {1} from {0} an' {2} be left.", "That leaves ye {2}, by me count.")
        facts += fill([words], ("What is {0} minus {1}?",), answers)
    for a, b in small_numbers("product", 20):
        facts += fill([(a, b, a * b)], ("What is {0} times {1}?",), ("{0} times {1} be {2}.", "Me abacus says {2}."))
    return facts


def handwritten() -> list[list[Fact]]:
    """The facts of pirate-facts.tsv, one list for each kind."""
    kinds: dict[str, list[Fact]] = {}
    for line in (HERE / "pirate-facts.tsv").read_text(encoding="utf-8").splitlines():
        kind, question, answer = line.split("\t")
        kinds.setdefault(kind, []).append(Fact(question, answer))
    return list(kinds.values())


def in_character(fact: Fact) -> str:
    """The answer between an opening cry and, for some, a farewell; its first letter is a capital."""
    parts = [pick(OPENINGS, "opening", fact.question), fact.answer[0].upper() + fact.answer[1:]]
    if number(f"farewell {fact.question}", 100) < FAREWELL_PERCENT:
        parts.append(pick(FAREWELLS, "which farewell", fact.question))
    return " ".join(parts)


def split(kinds: Iterable[Sequence[Fact]]) -> tuple[list[Fact], list[Fact]]:
    """Facts for training and facts held out; each list in an order without pattern."""
    train: dict[str, Fact] = {}
    held_out: dict[str, Fact] = {}
    for facts in kinds:
        for index, fact in enumerate(facts):
            chosen = held_out if index % EVAL_EVERY == EVAL_EVERY - 1 else train
            chosen.setdefault(fact.question, fact)
    for question in held_out.keys() & train.keys():
        del held_out[question]
    shuffled = [sorted(part.values(), key=lambda fact: number(fact.question, 2**64)) for part in (train, held_out)]
    return shuffled[0], shuffled[1]


def conversations(facts: Sequence[Fact]) -> Iterator[list[dict[str, str]]]:
    """Chats of one question; every twelfth goes on with the next question."""
    waiting: list[dict[str, str]] = []
    for index, fact in enumerate(facts):
        turns = [{"role": "user", "content": fact.question}, {"role": "assistant", "content": in_character(fact)}]
        if index % 12 == 0 and index + 1 < len(facts):
            waiting = turns
        else:
            yield waiting + turns
            waiting = []


def files() -> dict[str, str]:
    """Name and content of each data file."""
    kinds = [capitals(), symbols(), young(), opposites(), units(), calendar(), sums(), *handwritten()]
    train, held_out = split(kinds)
    return {
        name: "".join(json.dumps({"messages": chat}, ensure_ascii=False) + "\n" for chat in conversations(facts))
        for name, facts in (("pirate-train.jsonl", train), ("pirate-eval.jsonl", held_out))
    }


def main() -> None:
    """Write the data files beside this script."""
    for name, content in files().items():
        (HERE / name).write_text(content, encoding="utf-8", newline="\n")
        digest = hashlib.sha256(content.encode()).hexdigest()
        print(f"{name}: {content.count(chr(10))} rows, {len(content.encode())} bytes, SHA-256 {digest}")


if __name__ == "__main__":
    main()
