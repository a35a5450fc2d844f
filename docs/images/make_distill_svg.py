#!/usr/bin/env python3
"""Remakes distill.svg: held-out loss of distilled students beside the same students without a teacher.

    .venv/bin/python docs/images/make_distill_svg.py FOLDER [SEED ...]

For each seed, which decides what is held out and the order of rows, it captures the teacher and trains both students
in FOLDER, where what is finished is used again. Lines are means over seeds, dots are single ones. Default: the recipe's
seed and the two after it, each about ten minutes on two CPU cores.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

RECIPE = "distill-smollm2"
SEEDS = (1603, 1604, 1605)
TARGET = Path(__file__).with_name("distill.svg")
Curve = list[tuple[int, float]]
"""Steps and held-out losses."""
STUDENTS = {"distilled": ("0.9", "#d1603d"), "text alone": ("0.0", "#4878a8")}
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 640, 320, 60, 46, 40, 50


def nexa(*arguments: str, folder: Path) -> None:
    """Run a command with runs and checkpoints in `folder`. Raises CalledProcessError."""
    places = {"NEXA_RUNS_DIR": str(folder / "runs"), "NEXA_STORE_URI": (folder / "artifacts").as_uri()}
    command = [str(Path(sys.executable).with_name("nexa")), *arguments]
    subprocess.run(command, check=True, env={**os.environ, **places})


def losses(folder: Path, name: str) -> Curve:
    """(step, held-out loss) of the evaluations of the finished run of this name; empty where there is none."""
    for run in sorted((folder / "runs").glob(f"*-{name}-*")):
        lines = [json.loads(line) for path in run.glob("events/*.jsonl") for line in path.read_text().splitlines()]
        found = [(line["step"], line["values"]["eval_loss"]) for line in lines if line["type"] == "eval"]
        if any(path.name == "result.json" for path in run.glob("attempts/*/result.json")):
            return found
    return []


def curves(folder: Path, seed: int) -> dict[str, Curve]:
    """The evaluations of both students of a seed, trained where they are not yet."""
    dataset = folder / f"smollm2-{seed}"
    same = (f"training.seed={seed}", f"distill.dataset={dataset}")
    nexa(
        "distill",
        "capture",
        RECIPE,
        "--output",
        str(dataset),
        same[0],
        "distill.capture.shard_tokens=4096",
        folder=folder,
    )
    found = {}
    for label, (alpha, _) in STUDENTS.items():
        name = f"alpha{alpha}-seed{seed}"
        if not losses(folder, name):
            nexa("train", RECIPE, *same, f"distill.alpha={alpha}", f"run.name={name}", folder=folder)
        found[label] = losses(folder, name)
    return found


def mean(found: Sequence[Curve]) -> Curve:
    """The mean loss at each step."""
    return [(points[0][0], statistics.mean(value for _, value in points)) for points in zip(*found, strict=True)]


def picture(found: Sequence[dict[str, Curve]]) -> str:
    """The curves of all seeds as text of an SVG file, from the first evaluation in training on."""
    trained = {label: [[p for p in of_seed[label] if p[0]] for of_seed in found] for label in STUDENTS}
    values = [value for curves in trained.values() for points in curves for _, value in points]
    last = max(step for curves in trained.values() for points in curves for step, _ in points)
    margin = 0.2 * (max(values) - min(values))
    low, high = min(values) - margin, max(values) + margin

    def x(step: int) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * step / last

    def y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / (high - low)

    style = "font-family='system-ui, sans-serif' font-size='13' fill='#222'"
    size = f"viewBox='0 0 {WIDTH} {HEIGHT}' width='{WIDTH}' height='{HEIGHT}'"
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' {size}>",
        f"<rect width='{WIDTH}' height='{HEIGHT}' fill='white'/>",
        f"<text x='{LEFT}' y='24' {style} font-weight='bold'>Held-out loss (nats a token) by optimizer step</text>",
        f"<path d='M{LEFT},{TOP} V{HEIGHT - BOTTOM} H{WIDTH - RIGHT}' fill='none' stroke='#888'/>",
    ]
    lowest = min(trained, key=lambda label: mean(trained[label])[-1][1])
    for number, (label, curves) in enumerate(trained.items()):
        colour = STUDENTS[label][1]
        line = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in mean(curves))
        parts.append(f"<polyline points='{line}' fill='none' stroke='{colour}' stroke-width='2'/>")
        dots = [point for points in curves for point in points]
        parts += [f"<circle cx='{x(step):.1f}' cy='{y(value):.1f}' r='3' fill='{colour}'/>" for step, value in dots]
        for step, value in mean(curves):
            place = f"x='{x(step):.1f}' y='{y(value) + (20 if label == lowest else -10):.1f}' text-anchor='middle'"
            parts.append(f"<text {place} {style}>{value:.2f}</text>")
        parts.append(f"<rect x='{WIDTH - 190}' y='{TOP + 20 * number}' width='12' height='12' fill='{colour}'/>")
        parts.append(f"<text x='{WIDTH - 172}' y='{TOP + 11 + 20 * number}' {style}>{label}</text>")
    for step, _ in next(iter(trained.values()))[0]:
        parts.append(f"<text x='{x(step):.1f}' y='{HEIGHT - BOTTOM + 20}' text-anchor='middle' {style}>{step}</text>")
    return "\n".join([*parts, "</svg>"]) + "\n"


def main() -> None:
    """Train what is missing, and draw."""
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    folder = Path(sys.argv[1]).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    found = [curves(folder, seed) for seed in (map(int, sys.argv[2:]) if sys.argv[2:] else SEEDS)]
    TARGET.write_text(picture(found), encoding="utf-8")
    for label in STUDENTS:
        for points in (of_seed[label] for of_seed in found):
            print(label, ", ".join(f"step {step}: {value:.3f}" for step, value in points))


if __name__ == "__main__":
    main()
