"""The recipe shakespeare-chars as a whole run, against nanoGPT with the settings of its README.

Target: validation loss ≤1.88 per character, the figure that nanoGPT publishes for these sizes and 2,000 steps on CPU.
`--text` trains on another text than the recipe's, such as nanoGPT's own input.txt; `--nanogpt` names a checkout of
nanoGPT, which then trains on the same text, in turn, in this Python. Both hold out the last tenth of the text and
evaluate on about as many characters. Times are those of whole processes, imports and evaluation included.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.bench._measure import Timing, report

RECIPE = Path(__file__).parents[2] / "recipes" / "shakespeare-chars.yaml"
PUBLISHED_LOSS = 1.88
BLOCK, ROWS_A_STEP, EVALUATIONS = 64, 12, 3
NANOGPT_OPTIONS = (
    "--device=cpu --compile=False --log_interval=500 --block_size=64 --batch_size=12 --n_layer=4 --n_head=4 "
    "--n_embd=128 --dropout=0.0"
)


def main(argv: Sequence[str] = ()) -> None:
    """Train with each contender in turn and print losses and times."""
    parser = argparse.ArgumentParser(prog="chars", description=__doc__)
    parser.add_argument("--text", type=Path, help="a text of ASCII characters; default: the recipe's")
    parser.add_argument("--nanogpt", type=Path, metavar="FOLDER", help="a checkout of nanoGPT")
    parser.add_argument("--steps", type=int, default=2000, help="at least the recipe's 100 warm-up steps")
    parser.add_argument("--rounds", type=int, default=1)
    options = parser.parse_args(argv)
    text = (options.text or RECIPE.parent / "data" / "shakespeare.txt").absolute()
    if not text.read_bytes().isascii():
        parser.error(f"--text {text} holds more than ASCII, so that its bytes are not its characters")
    print(f"{text.name}: {text.stat().st_size:,} characters; {options.steps:,} steps; {os.cpu_count()} CPUs")
    contenders = {"nexa": lambda folder: nexa(folder, text, options.steps)}
    if options.nanogpt is None:
        print("nanoGPT is left out; to add it: git clone https://github.com/karpathy/nanoGPT, then --nanogpt nanoGPT")
    else:
        contenders["nanoGPT"] = lambda folder: nanogpt(folder, options.nanogpt, text, options.steps)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(options.rounds):
        for name, call in contenders.items():
            with tempfile.TemporaryDirectory() as folder:
                started = time.perf_counter()
                losses = call(Path(folder))
                seconds[name].append(time.perf_counter() - started)
            listed = ", ".join(f"{loss:.4f} at step {step}" for step, loss in losses.items())
            print(f"{name}: validation loss {listed}", flush=True)
            print(f"{name}: {losses[options.steps] / PUBLISHED_LOSS:.3f}x the published {PUBLISHED_LOSS} [target: ≤1]")
    timings = {name: Timing(name, tuple(values)) for name, values in seconds.items()}
    report("whole process", timings, candidate="nexa")


def nexa(folder: Path, text: Path, steps: int) -> dict[int, float]:
    """Launch the recipe as a user does. Returns the validation loss by step."""
    environment = {**os.environ, "NEXA_RUNS_DIR": str(folder / "runs"), "NEXA_STORE_URI": str(folder / "artifacts")}
    command = [
        str(Path(sys.executable).with_name("nexa")), "launch", str(RECIPE), "--follow", f"data.remote_uri={text}",
        f"data.local_cache_root={folder / 'cache'}", f"training.max_steps={steps}",
        f"training.eval_every_steps={steps // (EVALUATIONS - 1)}",
    ]  # fmt: skip
    _run(command, folder, environment)
    (events,) = (folder / "runs").glob("*/events/1-0.jsonl")
    records = (json.loads(line) for line in events.read_text(encoding="utf-8").splitlines())
    return {record["step"]: record["values"]["eval_loss"] for record in records if record["type"] == "eval"}


def nanogpt(folder: Path, checkout: Path, text: Path, steps: int) -> dict[int, float]:
    """Prepare the text and train with nanoGPT's own scripts. Returns the validation loss by step."""
    copy = folder / "nanoGPT"
    shutil.copytree(checkout, copy, ignore=shutil.ignore_patterns(".git"))
    data = copy / "data" / "shakespeare_char"
    shutil.copyfile(text, data / "input.txt")
    _run([sys.executable, "prepare.py"], data, dict(os.environ))
    # It evaluates on as many characters of the training text too; together they are about what is held out.
    batches = text.stat().st_size // 10 // (BLOCK * ROWS_A_STEP) // 2
    length = [f"--max_iters={steps}", f"--lr_decay_iters={steps}", f"--eval_interval={steps // (EVALUATIONS - 1)}"]
    script = ["train.py", "config/train_shakespeare_char.py", *NANOGPT_OPTIONS.split(), f"--eval_iters={batches}"]
    output = _run([sys.executable, *script, *length], copy, dict(os.environ))
    return {int(step): float(loss) for step, loss in re.findall(r"^step (\d+): .*val loss ([\d.]+)", output, re.M)}


def _run(command: Sequence[str], folder: Path, environment: dict[str, str]) -> str:
    """What a command prints. Raises RuntimeError with the end of it where it fails."""
    done = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed with exit code {done.returncode}:\n{done.stdout[-2000:]}")
    return done.stdout
