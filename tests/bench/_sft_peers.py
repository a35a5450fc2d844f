"""Other trainers as contenders of `bench_sft`: each in a process of its own environment, timed from inside.

All get the same weights, the same documents as tokens, and the same number of threads.
`peers/<name>_sft.py` drives a peer through its public interface and writes what each step took.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

PEERS_VARIABLE = "NEXA_BENCH_PEERS"
REQUIREMENTS = {"trl": "trl", "axolotl": "axolotl==0.19.0"}
"""What to install for each peer. The Axolotl named is the last one for Python 3.11."""
ONEDNN_MARK = " +onednn"
PACKINGS = {"trl": ("wrapped", "bfd"), "axolotl": ("multipack",)}
_TORCH = "torch==2.13.0"
_SCRIPTS = Path(__file__).parent / "peers"
_QUIET = {
    "AXOLOTL_DO_NOT_TRACK": "1",
    "CUDA_VISIBLE_DEVICES": "",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
_LOG_LINES = 15
_SHARE_TOLERANCE = 0.15
"""A few steps hold long documents in one trainer and short ones in another, and wrapping loses a label for each cut."""

Speed = tuple[float, float]
"""Real tokens per second: by the clock, and by processor time of all threads."""


class PeerError(Exception):
    """A peer's process failed; holds the end of what it said."""


def find_peers(names: Iterable[str], folder: Path | None) -> dict[str, Path]:
    """The Python of each peer named, in `folder` or, for TRL, beside Nexa. Says how to install those missing."""
    found: dict[str, Path] = {}
    for name in names:
        python = folder.absolute() / name / "bin" / "python" if folder else None
        if python and python.exists():
            found[name] = python
        elif name == "trl" and find_spec("trl"):
            found[name] = Path(sys.executable)
        else:
            reason = f"there is no {python}" if python else "no folder of peers was given"
            print(f"{name} is left out: {reason}. To add it:")
            for line in install_lines(name, folder or Path("/peers")):
                print(f"  {line}")
    return found


def install_lines(name: str, folder: Path) -> list[str]:
    """Commands that install a peer where `find_peers` looks for it. torch goes first, so that its build stays."""
    pip = f"{folder / name}/bin/pip"
    return [
        f"python -m venv {folder / name}",
        f"{pip} install {_TORCH}",
        f"{pip} install {_TORCH} {REQUIREMENTS[name]}",
        f"export {PEERS_VARIABLE}={folder}",
    ]


class PeerRuns:
    """Runs peers over one model and one set of documents, kept in `folder` in the form they read.

    job: what every peer is told besides: steps, rows, row_length, learning_rate; trained_share is the share of
    tokens that carry loss, which a peer must come close to. Steps before `warmup` are left out of the speed.
    """

    def __init__(self, folder: Path, *, job: dict[str, Any], warmup: int, onednn: bool) -> None:
        self._folder = folder
        self._job = job
        self._warmup = warmup
        self._onednn = onednn

    def write(
        self,
        documents: Sequence[dict[str, list[int]]],
        tokenizer: PreTrainedTokenizerBase,
        save: Callable[[Path], object],
    ) -> None:
        """Write documents (input_ids, attention_mask, labels), and the model with its tokenizer by `save`.

        Padding becomes a token that no document holds, so that real tokens can be told from it.
        """
        used = {token for document in documents for token in document["input_ids"]}
        write_lines(self._folder / "tokens.jsonl", documents)
        own_padding = tokenizer.pad_token
        unused = {str(token): number for number, token in tokenizer.added_tokens_decoder.items() if number not in used}
        tokenizer.pad_token, self._job["pad_token"] = next(iter(unused.items()))
        save(self._folder / "model")
        tokenizer.pad_token = own_padding

    def contenders(self, peers: dict[str, Path]) -> dict[str, Callable[[], Speed]]:
        """A call for each peer and packing: with its own fp32 products, and with oneDNN's where Nexa uses them."""
        calls = {}
        for name, python in peers.items():
            for packing in PACKINGS[name]:
                for onednn in (False, True) if self._onednn else (False,):
                    label = f"{name} {packing}{ONEDNN_MARK if onednn else ''}"
                    calls[label] = self._call(name, python, {"packing": packing, "onednn": onednn})
        return calls

    def _call(self, name: str, python: Path, choices: dict[str, Any]) -> Callable[[], Speed]:
        told: set[str] = set()

        def call() -> Speed:
            result = self._run(name, python, choices)
            steps = result.pop("steps")[self._warmup :]
            total = {unit: sum(step[unit] for step in steps) for unit in steps[0]}
            share, wanted = total["trained_tokens"] / total["tokens"], self._job["trained_share"]
            if not told:
                print(f"{name} {choices}: {result}, loss at {share:.1%} of tokens")
                told.add(name)
            if abs(share - wanted) > _SHARE_TOLERANCE:
                raise PeerError(f"{name} takes loss at {share:.1%} of its tokens, where {wanted:.1%} carry it")
            return total["tokens"] / total["seconds"], total["tokens"] / total["processor_seconds"]

        return call

    def _run(self, name: str, python: Path, choices: dict[str, Any]) -> dict[str, Any]:
        paths = {
            "folder": self._folder,
            "model": self._folder / "model",
            "tokens": self._folder / "tokens.jsonl",
            "output": self._folder / f"{name}-output",
            "result": self._folder / f"{name}-result.json",
        }
        job = self._folder / f"{name}-job.json"
        values = {**self._job, **choices, **{key: str(path) for key, path in paths.items()}}
        job.write_text(json.dumps(values), encoding="utf-8")
        paths["result"].unlink(missing_ok=True)
        log = self._folder / f"{name}.log"
        environment = {**os.environ, **_QUIET, "OMP_NUM_THREADS": str(torch.get_num_threads())}
        with log.open("wb") as sink:
            command = [str(python), str(_SCRIPTS / f"{name}_sft.py"), str(job)]
            code = subprocess.run(
                command, cwd=self._folder, env=environment, stdout=sink, stderr=subprocess.STDOUT, check=False
            ).returncode
        if code or not paths["result"].exists():
            end = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES:]
            raise PeerError(f"{name} failed with exit code {code}:\n  " + "\n  ".join(end))
        return json.loads(paths["result"].read_text(encoding="utf-8"))


def write_lines(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Write one JSON object a line."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
