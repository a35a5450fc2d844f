"""What a sweep tries: `key=a,b,c`, `range(…)`, `log(…)`, `uniform(…)`, and their grid or a random sample. Pure."""

from __future__ import annotations

import itertools
import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from nexa.errors import Problem, RecipeError, UserError

MOST_MEMBERS = 1000
"""Slurm's own bound for one array is 1001 where nobody raised it."""

_AXIS = re.compile(r"(?P<key>[^=+\s]+\+?)=(?P<values>.*)", re.DOTALL)
_CALL = re.compile(r"(?P<name>[a-z]+)\((?P<arguments>.*)\)", re.DOTALL)
_OPENING, _CLOSING = "([{", ")]}"
# Six digits tell more members apart than a sweep may have, and read well.
_DIGITS = 6


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One key of a sweep.

    key: dotted, with "+" at its end where values are appended to a list. values: YAML texts to try, in order;
    empty for a continuous axis, whose values `draw` makes.
    """

    key: str
    values: Sequence[str] = ()
    draw: Callable[[random.Random], str] | None = None


Member = Mapping[str, str]
"""Overrides of one run: YAML text by key."""


def parse_axes(arguments: Sequence[str]) -> list[Axis]:
    """The axes that "key=values" arguments describe. Raises RecipeError with every problem found."""
    axes: list[Axis] = []
    problems: list[Problem] = []
    for argument in arguments:
        match = _AXIS.fullmatch(argument)
        if match is None:
            problems.append(Problem(message=f"{argument!r} is not of the form key.path=a,b,c", hint=_FORMS))
            continue
        try:
            axes.append(_axis(match["key"], match["values"].strip()))
        except UserError as error:
            problems.append(Problem(path=match["key"], message=error.message, hint=error.hint))
    keys = [axis.key for axis in axes]
    problems += [
        Problem(path=key, message="is given twice", hint="one argument holds all values of a key")
        for key in dict.fromkeys(keys)
        if keys.count(key) > 1
    ]
    if problems:
        raise RecipeError(problems)
    return axes


def grid(axes: Sequence[Axis]) -> list[Member]:
    """Every combination of the axes' values; the last key varies fastest. Raises UserError."""
    endless = [axis.key for axis in axes if axis.draw is not None]
    if endless:
        raise UserError(
            f"{', '.join(endless)}: a grid needs values that can be counted",
            hint="say how many, as in 'log(1e-5,1e-3,5)', or take a random sample: --random N",
        )
    count = math.prod(len(axis.values) for axis in axes)
    if count > MOST_MEMBERS:
        raise _too_many(count)
    keys = [axis.key for axis in axes]
    return [dict(zip(keys, values, strict=True)) for values in itertools.product(*(axis.values for axis in axes))]


def sample(axes: Sequence[Axis], count: int, seed: int) -> list[Member]:
    """`count` different members, drawn at random; the same for the same axes, count and seed.

    Where all axes are lists, no more than their grid holds. Raises UserError.
    """
    if count > MOST_MEMBERS:
        raise _too_many(count)
    generator = random.Random(seed)
    if all(axis.draw is None for axis in axes):
        sizes = [len(axis.values) for axis in axes]
        chosen = generator.sample(range(math.prod(sizes)), min(count, math.prod(sizes)))
        return [_combination(axes, sizes, number) for number in chosen]
    return [
        {axis.key: axis.draw(generator) if axis.draw else generator.choice(axis.values) for axis in axes}
        for _ in range(count)
    ]


def _combination(axes: Sequence[Axis], sizes: Sequence[int], number: int) -> Member:
    """The member at a place of the grid, without making the grid."""
    chosen: dict[str, str] = {}
    for axis, size in zip(reversed(axes), reversed(sizes), strict=True):
        number, place = divmod(number, size)
        chosen[axis.key] = axis.values[place]
    return {axis.key: chosen[axis.key] for axis in axes}


def _axis(key: str, text: str) -> Axis:
    values = split_values(text)
    if "" in values:
        raise UserError(f"there is an empty value in {text!r}", hint="write '' for an empty text")
    call = _CALL.fullmatch(text) if len(values) == 1 else None
    if call is not None and call["name"] in _FUNCTIONS:
        return _FUNCTIONS[call["name"]](key, _numbers(text, call["arguments"]))
    twice = [value for value in dict.fromkeys(values) if values.count(value) > 1]
    if twice:
        raise UserError(f"{', '.join(twice)} is given twice")
    return Axis(key=key, values=values)


def split_values(text: str) -> list[str]:
    """The parts of a text between commas that stand in no bracket and no quotes. Raises UserError."""
    parts, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "\"'" and not parts[-1].strip():
            quote = character
        elif character in _OPENING:
            depth += 1
        elif character in _CLOSING:
            depth -= 1
        elif character == "," and depth == 0:
            parts.append("")
            continue
        parts[-1] += character
    if quote or depth:
        raise UserError(f"{text!r} has {'a quote' if quote else 'a bracket'} without its partner")
    return [part.strip() for part in parts]


def _numbers(text: str, arguments: str) -> list[Decimal]:
    try:
        numbers = [Decimal(word.strip()) for word in arguments.split(",")]
    except InvalidOperation:
        raise UserError(f"{text} holds something that is no number", hint=_FORMS) from None
    if not all(number.is_finite() for number in numbers):
        raise UserError(f"{text} holds something that is no finite number", hint=_FORMS)
    return numbers


def _range(key: str, numbers: Sequence[Decimal]) -> Axis:
    """START, START+STEP, … before STOP, exactly; STEP is 1 where it is left out."""
    if len(numbers) not in (2, 3):
        raise UserError("range takes a start, a stop and a step", hint="such as range(100,500,100): 100 to 400")
    start, stop, step = (*numbers, Decimal(1))[:3]
    count = math.ceil((stop - start) / step) if step else 0
    if count < 1:
        raise UserError(
            f"range({','.join(map(str, numbers))}) holds no value", hint="the stop itself is not part of a range"
        )
    if count > MOST_MEMBERS:
        raise _too_many(count)
    return Axis(key=key, values=[_plain(start + place * step) for place in range(count)])


def _log(key: str, numbers: Sequence[Decimal]) -> Axis:
    """COUNT values from START to STOP with one ratio between neighbours; without COUNT drawn log-uniformly."""
    if len(numbers) not in (2, 3) or min(numbers[:2]) <= 0:
        raise UserError(
            "log takes a start and a stop above 0, and a count", hint="such as log(1e-5,1e-3,5), both ends included"
        )
    low, high = math.log(numbers[0]), math.log(numbers[1])
    if len(numbers) == 2:
        return Axis(key=key, draw=lambda generator: _rounded(math.exp(generator.uniform(low, high))))
    count = int(numbers[2])
    if count != numbers[2] or not 2 <= count <= MOST_MEMBERS:
        raise UserError(f"log can't give {numbers[2]} values", hint=f"give a whole number from 2 to {MOST_MEMBERS}")
    return Axis(
        key=key, values=[_rounded(math.exp(low + (high - low) * place / (count - 1))) for place in range(count)]
    )


def _uniform(key: str, numbers: Sequence[Decimal]) -> Axis:
    """Drawn uniformly between START and STOP."""
    if len(numbers) != 2:
        raise UserError("uniform takes a start and a stop", hint="such as uniform(0,0.3), with --random N")
    low, high = map(float, numbers)
    return Axis(key=key, draw=lambda generator: _rounded(generator.uniform(low, high)))


_FUNCTIONS: dict[str, Callable[[str, Sequence[Decimal]], Axis]] = {"range": _range, "log": _log, "uniform": _uniform}
_FORMS = "values are a,b,c or range(START,STOP,STEP) or log(START,STOP,COUNT); with --random also uniform(START,STOP)"


def _plain(number: Decimal) -> str:
    """The number as YAML reads it: whole where it is whole."""
    return str(int(number)) if number == number.to_integral_value() else str(float(number))


def _rounded(number: float) -> str:
    return str(float(f"{number:.{_DIGITS}g}"))


def _too_many(count: int) -> UserError:
    return UserError(
        f"{count} runs are more than a sweep may have ({MOST_MEMBERS})",
        hint="give fewer values, or take a random sample: --random N",
    )
