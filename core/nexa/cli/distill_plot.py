"""A comparison of student and teacher as one SVG: losses, agreement, and how well each knows what it knows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nexa.distiller import Calibration, Comparison

_WIDTH, _HEIGHT = 760, 400
_LEFT, _TOP, _SIDE = 60, 60, 280
_TEACHER, _STUDENT = "#4878a8", "#d1603d"
_STYLE = "font-family='system-ui, sans-serif' font-size='13' fill='#222'"


def comparison_svg(result: Comparison) -> str:
    """The picture as text of an SVG file."""
    parts = [
        "<svg xmlns='http://www.w3.org/2000/svg' "
        f"viewBox='0 0 {_WIDTH} {_HEIGHT}' width='{_WIDTH}' height='{_HEIGHT}'>",
        f"<rect width='{_WIDTH}' height='{_HEIGHT}' fill='white'/>",
        _text(_LEFT, 28, "Calibration: how often right, by how sure", bold=True),
        *_frame(),
        *_curve(result.teacher_calibration, _TEACHER),
        *_curve(result.student_calibration, _STUDENT),
        *_figures(result),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _frame() -> Iterator[str]:
    yield f"<rect x='{_LEFT}' y='{_TOP}' width='{_SIDE}' height='{_SIDE}' fill='none' stroke='#888'/>"
    yield (f"<line x1='{_x(0)}' y1='{_y(0)}' x2='{_x(1)}' y2='{_y(1)}' stroke='#bbb' stroke-dasharray='4 4'/>")
    for tick in (0.0, 0.5, 1.0):
        yield _text(_x(tick), _TOP + _SIDE + 18, f"{tick:g}", anchor="middle")
        yield _text(_LEFT - 8, _y(tick) + 4, f"{tick:g}", anchor="end")
    yield _text(_LEFT + _SIDE / 2, _TOP + _SIDE + 40, "probability of the likeliest token", anchor="middle")


def _curve(calibration: Calibration, colour: str) -> Iterator[str]:
    whole = max(1, sum(calibration.counts))
    points = [
        (confidence, accuracy, count)
        for confidence, accuracy, count in zip(
            calibration.confidence, calibration.accuracy, calibration.counts, strict=True
        )
        if count
    ]
    line = " ".join(f"{_x(confidence):.1f},{_y(accuracy):.1f}" for confidence, accuracy, _ in points)
    yield f"<polyline points='{line}' fill='none' stroke='{colour}' stroke-width='2'/>"
    for confidence, accuracy, count in points:
        radius = 2 + 8 * math.sqrt(count / whole)
        yield (
            f"<circle cx='{_x(confidence):.1f}' cy='{_y(accuracy):.1f}' r='{radius:.1f}' fill='{colour}' "
            "fill-opacity='0.6'/>"
        )


def _figures(result: Comparison) -> Iterator[str]:
    left = _LEFT + _SIDE + 50
    rows = [
        (_TEACHER, "teacher", result.teacher_loss, result.teacher_calibration.error),
        (_STUDENT, "student", result.student_loss, result.student_calibration.error),
    ]
    top = _TOP + 10
    for colour, name, loss, error in rows:
        yield f"<rect x='{left}' y='{top - 11}' width='12' height='12' fill='{colour}'/>"
        yield _text(left + 20, top, name, bold=True)
        yield _text(left + 20, top + 20, f"loss {loss:.4f} nats, perplexity {math.exp(loss):.2f}")
        yield _text(left + 20, top + 40, f"calibration error {error:.4f}")
        top += 80
    yield _text(left, top, f"KL(teacher ‖ student) {result.kl:.4f} nats")
    yield _text(left, top + 22, f"same likeliest token at {result.agreement:.1%}")
    yield _text(left, top + 44, f"{result.positions:,} held-out positions")


def _x(value: float) -> float:
    return _LEFT + _SIDE * value


def _y(value: float) -> float:
    return _TOP + _SIDE * (1.0 - value)


def _text(x: float, y: float, text: str, *, anchor: str = "start", bold: bool = False) -> str:
    weight = " font-weight='bold'" if bold else ""
    return f"<text x='{x:.1f}' y='{y:.1f}' text-anchor='{anchor}' {_STYLE}{weight}>{escape(text)}</text>"
