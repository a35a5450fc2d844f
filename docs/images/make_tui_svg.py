#!/usr/bin/env python3
"""Remakes the pictures of the terminal UI, of two real runs made for them: a small model that learns Shakespeare.

    .venv/bin/python docs/images/make_tui_svg.py

Trains for about two minutes on two CPU cores, in a folder of its own, and writes tui-*.svg beside this file.
Where Slurm is installed, a cluster of three nodes is started for tui-cluster.svg; `--cluster` makes that one alone.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SIZE = (120, 34)
RECIPE = "pretrain-shakespeare"
SMALL = ["training.max_steps=120", "training.eval_every_steps=20", "training.save_every_steps=40"]
SMALL += ["model.d_model=64", "model.n_layers=2", "model.n_heads=4", "model.max_seq_len=64"]
SMALL += [
    "samples.max_new_tokens=48",
    "data.validation.max_documents=20",
    "training.log_every_steps=2",
    "training.microbatch_size_per_gpu=8",
    "training.global_batch_size=8",
]
RUNS = {"slow-rate": "optimizer.lr=3e-4", "fast-rate": "optimizer.lr=3e-3"}
QUEUED = (
    ["run.name=first", "cluster.time_limit=1h"],
    ["run.name=waits-for-a-node", "cluster.time_limit=8h", "cluster.cpus_per_node=4"],
)
"""What is launched on the cluster, two of whose nodes are taken: the second waits for the first."""
WANTED_STATES = {"running", "pending"}
SECONDS = 600.0


def make_runs() -> None:
    """Train the runs that the pictures show, one after the other."""
    for name, setting in RUNS.items():
        words = ["launch", RECIPE, f"run.name={name}", setting, *SMALL, "--follow"]
        subprocess.run([sys.executable, "-m", "nexa.cli.main", *words], check=True, stdout=subprocess.DEVNULL)


async def until(pilot: Any, condition: Callable[[], Any]) -> None:
    """Let the UI work until a condition holds. AssertionError when it never does."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        await pilot.pause(0.05)
    # What was read last is drawn with the next refresh.
    await pilot.pause(1.0)


async def take(pilot: Any, name: str) -> None:
    """Write what the UI shows."""
    picture = pilot.app.export_screenshot(title="nexa")
    # A picture in a page must not fetch fonts; without them the viewer's own monospace is used.
    picture = re.sub(r"\s*@font-face \{.*?\}", "", picture, flags=re.DOTALL)
    for place, shown in ((HERE.parents[1], "~/nexa"), (Path.cwd(), "~/project")):
        picture = re.sub(rf"<text [^>]*>[^<]*{re.escape(str(place))}[^<]*</text>", _renamed(str(place), shown), picture)
    (HERE / f"tui-{name}.svg").write_text(picture, encoding="utf-8")
    print(f"tui-{name}.svg")


def _renamed(place: str, shown: str) -> Callable[[re.Match[str]], str]:
    """Replaces a folder of this machine in one piece of text, whose length is then no longer given."""
    return lambda text: re.sub(r' textLength="[^"]*"', "", text.group()).replace(place, shown)


async def take_all() -> None:
    """Go through the screens."""
    from nexa.tui.open import make_app

    app = make_app()
    async with app.run_test(size=SIZE) as pilot:
        await pilot.press("1")
        screen = app.screen
        await until(pilot, lambda: screen.recipes.current is not None)
        screen.recipes.go_to(RECIPE)
        await until(pilot, lambda: screen.form is not None and screen.form.path.stem == RECIPE)
        screen.form.set_text("training.max_steps", "120")
        screen.form.set_text("optimizer.lr", "3e-3")
        screen.form_view.refresh_rows()
        screen._check_now()
        screen.form_view.focus()
        screen.form_view.go_to("optimizer.lr")
        await until(pilot, lambda: "2 changed" in str(screen.query_one("#form-pane").border_subtitle))
        await take(pilot, "launch")
        await pilot.press("p")
        await until(pilot, lambda: not app.screen.query("LoadingIndicator"))
        await take(pilot, "plan")
        await pilot.press("escape", "2")
        await until(pilot, lambda: True)
        await take(pilot, "runs")
        await pilot.press("4")
        await until(pilot, lambda: len(app.screen.query("NamedChart")) > 0)
        await take(pilot, "compare")
        await app.open_run(app.services.store.list()[0].run_id)
        await until(pilot, lambda: True)
        await take(pilot, "run")


async def take_cluster() -> None:
    """One run in the queue and one on a node, on the Cluster screen."""
    from nexa.tui.open import make_app

    app = make_app()
    async with app.run_test(size=SIZE) as pilot:
        await pilot.press("5")
        await until(pilot, lambda: len(app.screen.query_one("#jobs").rows) == len(QUEUED) + 1)
        await until(pilot, lambda: {str(job.state) for job in app.screen.query_one("#jobs").rows} == WANTED_STATES)
        await take(pilot, "cluster")


def make_cluster_picture() -> None:
    """Start a real Slurm, launch on it, take the picture, end it."""
    sys.path.insert(0, str(HERE.parents[1] / "tests" / "slurm"))
    from cluster import Cluster, missing

    reason = missing()
    if reason is not None:
        print(f"tui-cluster.svg stays as it is: {reason}")
        return
    with tempfile.TemporaryDirectory(prefix="nexa-pictures-") as folder:
        cluster = Cluster(Path(folder) / "slurm")
        os.chdir(folder)
        os.environ.update(cluster.environment)
        Path("nexa.toml").write_text('scheduler = "slurm"\n')
        try:
            cluster.start()
            cluster.command("sbatch", "--nodes=2", "--exclusive", "--job-name=evaluation", "--wrap=sleep 600")
            for settings in QUEUED:
                words = ["launch", RECIPE, *settings, *SMALL]
                subprocess.run([sys.executable, "-m", "nexa.cli.main", *words], check=True, stdout=subprocess.DEVNULL)
            asyncio.run(take_cluster())
        finally:
            cluster.stop()
            os.chdir(HERE)


def main() -> None:
    """Make the runs, then the pictures; an argument is a folder with runs to take instead."""
    if sys.argv[1:] == ["--cluster"]:
        make_cluster_picture()
        return
    if len(sys.argv) > 1:
        os.chdir(sys.argv[1])
        asyncio.run(take_all())
        return
    with tempfile.TemporaryDirectory(prefix="nexa-pictures-") as folder:
        os.chdir(folder)
        make_runs()
        asyncio.run(take_all())
        os.chdir(HERE)
    make_cluster_picture()


if __name__ == "__main__":
    main()
