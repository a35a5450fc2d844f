"""`Trainer`: models and data sets of a script, trained as ordinary runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset, TensorDataset

from nexa.errors import DataError, RecipeError, RunError, UserError
from nexa.runs.state import State, run_status
from nexa.runs.store import RunStore
from nexa_torch import Callback, CallbackContext, Config, Trainer, TrainingConfig
from nexa_torch.data.given import collate_rows

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty current folder, and no settings of the person who runs the tests."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("NEXA_RUNS_DIR", "NEXA_STORE_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def regression_rows(count: int = 40) -> TensorDataset:
    """Rows (input, target) of a linear function."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(count, 4, generator=generator)
    return TensorDataset(inputs, inputs @ torch.arange(4.0)[:, None])


def network(dropout: float = 0.0) -> nn.Module:
    """A small model with the same weights each time."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 16), nn.GELU(), nn.Dropout(dropout), nn.Linear(16, 1))


def args(**changes: Any) -> TrainingConfig:
    """Twelve steps of eight rows."""
    return TrainingConfig(**{"max_steps": 12, "batch_size": 8, "learning_rate": 1e-2, "run_name": "mine", **changes})


def run_of(name: str = "latest") -> Any:
    """A run of the current folder."""
    return RunStore(Path("runs")).open(name)


class Recorder(Callback):
    """Losses by step, and a stop after `until` steps."""

    def __init__(self, until: int | None = None) -> None:
        self.losses: list[float] = []
        self.until = until

    def on_step_end(self, ctx: CallbackContext) -> None:
        self.losses.append(ctx.loss)
        if ctx.step == self.until:
            os.kill(os.getpid(), signal.SIGINT)


def test_a_plain_module_is_trained_as_an_ordinary_run() -> None:
    model, recorder = network(), Recorder()
    before = signal.getsignal(signal.SIGINT)
    rows = regression_rows()
    trainer = Trainer(model=model, args=args(eval_steps=6), train_dataset=rows, eval_dataset=rows, callbacks=[recorder])
    output = trainer.train()
    assert output.global_step == 12
    assert output.state == "completed"
    assert output.training_loss == pytest.approx(sum(recorder.losses) / 12)
    assert recorder.losses[-1] < recorder.losses[0]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(output.metrics["eval_loss"], rel=1e-6)
    run = run_of()
    assert (run.run_id, run_status(run).state) == (output.run_id, State.COMPLETED)
    assert output.checkpoint is not None
    assert (Path("artifacts") / output.checkpoint / "model.safetensors").is_file()
    assert signal.getsignal(signal.SIGINT) is before
    assert "NEXA_RUN_DIR" not in os.environ


def test_the_losses_are_those_of_a_plain_loop() -> None:
    model, rows = network(), regression_rows()
    recorder = Recorder()
    settings = args(batch_size=40, scheduler="constant", max_grad_norm=None, betas=[0.9, 0.999])
    Trainer(model=network(), args=settings, train_dataset=rows, callbacks=[recorder]).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    for loss in recorder.losses:
        plain = nn.functional.mse_loss(model(rows.tensors[0]), rows.tensors[1])
        assert loss == pytest.approx(plain.item(), rel=1e-4)
        optimizer.zero_grad()
        plain.backward()
        optimizer.step()


def test_ctrl_c_saves_and_resume_is_bit_exact() -> None:
    whole_model = network(dropout=0.2)
    whole = Trainer(model=whole_model, args=args(run_name="whole"), train_dataset=regression_rows()).train()
    stopped = Trainer(
        model=network(dropout=0.2), args=args(), train_dataset=regression_rows(), callbacks=[Recorder(until=5)]
    ).train()
    assert (stopped.state, stopped.global_step) == ("stopped", 5)
    assert run_status(run_of("mine")).state is State.STOPPED
    model = network(dropout=0.2)
    trainer = Trainer(model=model, args=args(), train_dataset=regression_rows())
    resumed = trainer.train(resume_from_checkpoint=True)
    assert (resumed.run_id, resumed.global_step) == (stopped.run_id, 12)
    for ours, theirs in zip(model.state_dict().values(), whole_model.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs)
    assert resumed.training_loss == pytest.approx(whole.training_loss, rel=1e-12)
    with pytest.raises(RunError, match="is complete"):
        trainer.train(resume_from_checkpoint=resumed.run_id)


def test_resume_refuses_other_settings() -> None:
    Trainer(model=network(), args=args(), train_dataset=regression_rows(), callbacks=[Recorder(until=2)]).train()
    other = Trainer(model=network(), args=args(learning_rate=1e-3), train_dataset=regression_rows())
    with pytest.raises(UserError, match=r"optimizer.lr was 0.01 and is 0.001"):
        other.train(resume_from_checkpoint=True)


def test_resume_refuses_other_rows_of_the_same_number() -> None:
    Trainer(model=network(), args=args(), train_dataset=regression_rows(), callbacks=[Recorder(until=2)]).train()
    inputs, targets = regression_rows().tensors
    other = Trainer(model=network(), args=args(), train_dataset=TensorDataset(inputs, -targets))
    with pytest.raises(UserError, match="dataset_hash was"):
        other.train(resume_from_checkpoint=True)


def test_classes_mappings_and_streams() -> None:
    class Classifier(nn.Module):
        """Takes its input by name."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, features: Tensor) -> Tensor:
            return self.layer(features)

    class Stream(IterableDataset[Any]):
        """Rows without a length."""

        def __iter__(self) -> Any:
            return iter(rows)

    torch.manual_seed(0)
    rows = [{"features": torch.randn(4), "label": number % 3, "note": "kept out"} for number in range(24)]
    for data in (rows, Stream()):
        model = Classifier()
        output = Trainer(model=model, args=args(max_steps=3), train_dataset=data, eval_dataset=rows).train()
        expected = nn.functional.cross_entropy(
            model(torch.stack([row["features"] for row in rows])), torch.tensor([row["label"] for row in rows])
        )
        assert output.metrics["eval_loss"] == pytest.approx(expected.item(), rel=1e-5)


def test_a_config_and_a_recipe_file_as_args(tmp_path: Path) -> None:
    config = Config({"training.max_steps": 2, "training.batch_size": 8, "logging.log_interval": 1})
    assert Trainer(model=network(), args=config, train_dataset=regression_rows()).train().global_step == 2
    config.save_to_yaml(tmp_path / "args.yaml")
    trainer = Trainer(model=network(), args=tmp_path / "args.yaml", train_dataset=regression_rows())
    assert trainer.train().global_step == 2
    assert trainer.plan().recipe.method == "script"


def test_without_a_model_the_recipe_is_trained() -> None:
    output = Trainer(
        args=Config.from_args_and_env(["--task", "regression", "--steps", "2", "--warmup", "1"], {})
    ).train()
    assert output.global_step == 2
    assert run_of().document["method"] == "regression"


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"max_seq_length": 7}, "model.max_seq_len"),
        ({"packing": False}, "data.packing"),
        ({"optimizer": "adamx"}, "optimizer.name"),
        ({"warmup_steps": 100}, "optimizer.scheduler.warmup_steps"),
    ],
)
def test_what_can_not_be_had_is_refused_before_a_run_is_made(changes: dict[str, Any], key: str) -> None:
    with pytest.raises(RecipeError, match=key):
        Trainer(model=network(), args=args(**changes), train_dataset=regression_rows()).train()
    assert not Path("runs").exists()


def test_wrong_things_given() -> None:
    rows = regression_rows()
    with pytest.raises(UserError, match="no train_dataset"):
        Trainer(model=network())
    with pytest.raises(UserError, match="nothing to train"):
        Trainer()
    with pytest.raises(UserError, match="train_dataset is a int"):
        Trainer(model=network(), train_dataset=3)
    with pytest.raises(UserError, match="args is a dict"):
        Trainer(model=network(), args={}, train_dataset=rows)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="train_dataset is empty"):
        Trainer(model=network(), args=args(), train_dataset=[]).train()
    flat = TensorDataset(rows.tensors[0], rows.tensors[1].squeeze(-1))
    with pytest.raises(UserError, match=r"shape \(8, 1\) and the target \(8,\)"):
        Trainer(model=network(), args=args(), train_dataset=flat).train()
    with pytest.raises(UserError, match="an adapter needs a Hugging Face model"):
        Trainer(model=network(), args=args(training_mode="LORA", run_name="adapter"), train_dataset=rows).train()
    status = run_status(run_of("adapter"))
    assert (status.state, status.exit_code) == (State.FAILED, 2)
    assert "Hugging Face model" in status.reason


def test_what_the_model_raises_reaches_the_script_and_the_record() -> None:
    class Broken(nn.Module):
        """Fails in its second step."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 1)
            self.calls = 0

        def forward(self, inputs: Tensor) -> Tensor:
            self.calls += 1
            if self.calls > 1:
                raise ZeroDivisionError("as the test wants")
            return self.layer(inputs)

    with pytest.raises(ZeroDivisionError):
        Trainer(model=Broken(), args=args(), train_dataset=regression_rows()).train()
    status = run_status(run_of())
    assert status.state is State.FAILED
    assert "as the test wants" in status.reason


def token_rows(count: int = 24) -> list[dict[str, Any]]:
    """Token lists of different lengths; the first two carry no loss, and one row none at all."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for number in range(count):
        ids = torch.randint(1, 64, (4 + number % 7,), generator=generator).tolist()
        rows.append({"input_ids": ids, "labels": [-100] * len(ids) if number == 3 else [-100, -100, *ids[2:]]})
    return rows


def llama() -> Any:
    """A tiny causal language model, the same each time."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=2))


@pytest.mark.parametrize("mode", ["FULL_FINETUNE", "LORA"])
def test_a_causal_language_model_and_any_division_of_its_batch(mode: str) -> None:
    losses = []
    for batch_size, accumulation in ((8, 1), (2, 4), (1, 8)):
        recorder = Recorder()
        settings = args(
            training_mode=mode, max_steps=4, batch_size=batch_size, gradient_accumulation_steps=accumulation
        )
        model = llama()
        trainer = Trainer(
            model=model, args=settings, train_dataset=token_rows(), eval_dataset=token_rows(), callbacks=[recorder]
        )
        output = trainer.train()
        losses.append([*recorder.losses, output.metrics["eval_loss"]])
    assert losses[1] == pytest.approx(losses[0], rel=2e-5)
    assert losses[2] == pytest.approx(losses[0], rel=2e-5)


def test_the_loss_is_the_models_own_and_its_checkpoint_loads_in_transformers() -> None:
    from transformers import AutoModelForCausalLM

    recorder, model = Recorder(), llama()
    rows = token_rows(8)
    batch = collate_rows(rows)
    expected = model(**batch).loss.item()
    output = Trainer(model=model, args=args(max_steps=1), train_dataset=rows, callbacks=[recorder]).train()
    assert recorder.losses[0] == pytest.approx(expected, rel=1e-5)
    assert output.checkpoint is not None
    saved = AutoModelForCausalLM.from_pretrained(Path("artifacts") / output.checkpoint)
    assert torch.equal(saved.lm_head.weight, model.lm_head.weight)


def test_rows_are_padded_so_that_padding_carries_no_loss() -> None:
    batch = collate_rows([{"input_ids": [5, 6], "labels": [5, 6]}, {"input_ids": [7], "labels": [7]}], pad_id=9)
    assert batch["input_ids"].tolist() == [[5, 6], [7, 9]]
    assert batch["labels"].tolist() == [[5, 6], [7, -100]]
    assert batch["attention_mask"].tolist() == [[1, 1], [1, 0]]
    with pytest.raises(DataError, match="differ in their keys"):
        collate_rows([{"a": 1}, {"b": 1}])


def test_a_script_under_torchrun_is_one_run_of_two_processes(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import json\nfrom test_trainer import *\n"
        "recorder = Recorder()\n"
        "settings = args(max_steps=6, batch_size=4)\n"
        "trainer = Trainer(model=network(), args=settings, train_dataset=regression_rows(), callbacks=[recorder])\n"
        "output = trainer.train()\n"
        "one = args(max_steps=1, batch_size=4)\n"
        "again = Trainer(model=network(), args=one, train_dataset=regression_rows()).train()\n"
        "assert again.global_step == 1 and again.run_id != output.run_id\n"
        "Path(f'rank{os.environ[\"RANK\"]}.json').write_text(json.dumps([output.run_id, recorder.losses]))\n"
    )
    one = Recorder()
    Trainer(model=network(), args=args(max_steps=6), train_dataset=regression_rows(), callbacks=[one]).train()
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "PYTHONPATH": str(HERE), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*launcher, str(script)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    told = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert told[0] == told[1]
    assert told[0][1] == pytest.approx(one.losses, rel=2e-5)
    runs = RunStore(Path("runs")).list()
    assert runs[1].run_id == told[0][0]
    assert [run_status(run).state for run in runs] == [State.COMPLETED] * 3
