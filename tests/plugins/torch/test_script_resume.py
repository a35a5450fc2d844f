"""`nexa resume` starts a script again, whose `Trainer` then continues the run; where it can't, it says what to type."""

from __future__ import annotations

import runpy
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file

from nexa.api import wait
from nexa.cli.main import main
from nexa.errors import RunError
from nexa.runs.actions import resume
from nexa.runs.store import Run, RunStore
from nexa.worker.script import Script

SCRIPT = """
import os, signal, sys
from pathlib import Path
from torch.utils.data import TensorDataset
from models import network, rows
from nexa_torch import Callback, Trainer, TrainingConfig

class Crash(Callback):
    def on_step_end(self, ctx):
        if ctx.step == 8 and not Path("crashed").exists():
            Path("crashed").touch()
            os.kill(os.getpid(), signal.SIGKILL)

args = TrainingConfig(max_steps=12, batch_size=8, learning_rate=float(sys.argv[1]), save_steps=3, run_name="mine")
model = network()
output = Trainer(model=model, args=args, train_dataset=TensorDataset(*rows()), callbacks=[Crash()]).train()
Path("after").write_text(f"{output.run_id} {output.global_step} {output.state}")
"""
MODULE = """
import torch
from torch import nn

def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.2), nn.Linear(16, 1))

def rows():
    inputs = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    return inputs, inputs.sum(dim=1, keepdim=True)
"""


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A script that kills itself at its eighth step, the first time; it lies beside a module that it needs."""
    for name in ("NEXA_RUNS_DIR", "NEXA_STORE_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "models.py").write_text(MODULE)
    (folder / "train.py").write_text(SCRIPT)
    return folder / "train.py"


def killed(script: Path) -> Run:
    """Run the script, which kills itself, in the current folder and return its run."""
    done = subprocess.run([sys.executable, str(script), "1e-2"], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]
    return RunStore(Path("runs")).open("latest")


def test_a_killed_script_goes_on_to_the_same_weights(
    script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = killed(script)
    gone = script.rename(script.with_suffix(".gone"))
    assert main(["resume", run.run_id, "--detach"]) != 0
    with pytest.raises(RunError, match=r"train\.py is gone") as caught:
        resume(run)
    assert f"train(resume_from_checkpoint='{run.run_id}')" in (caught.value.hint or "")
    assert len(run.attempts) == 1
    gone.rename(script)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert resume(run).number == 2
    assert wait(run, timeout=240).step == 12
    assert (tmp_path / "after").read_text() == f"{run.run_id} 12 completed"
    assert (run.attempts[-1].read("attempt") or {})["resume_from"].endswith("step-00000006")
    found = load_file(tmp_path / "artifacts" / "checkpoints" / run.run_id / "step-00000012" / "model.safetensors")
    monkeypatch.chdir(elsewhere)
    monkeypatch.syspath_prepend(script.parent)
    monkeypatch.setattr(sys, "argv", [str(script), "1e-2"])
    (elsewhere / "crashed").touch()
    whole = runpy.run_path(str(script))["model"]
    for name, value in whole.state_dict().items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize(("arguments", "obstacle"), [(["--api-key", "abc"], "holds a secret"), (["--lr", "1"], "")])
def test_secrets_of_a_command_line_are_not_kept(
    arguments: list[str], obstacle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = ModuleType("__main__")
    program.__file__ = __file__
    monkeypatch.setitem(sys.modules, "__main__", program)
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments])
    script = Script.of_this_process()
    assert obstacle in script.obstacle
    assert bool(script.obstacle) == bool(obstacle)
    assert "abc" not in str(script.document())
    assert Script.from_document(script.document()) == script
