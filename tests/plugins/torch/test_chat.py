"""`nexa chat` and `nexa generate` on a checkpoint that was just trained."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from running import RUN_ID, Run, chat_rows, tiny_recipe

from nexa.cli.chat import command as chat
from nexa.cli.generate import command as generate
from nexa.errors import UserError
from nexa_torch.chat import open_chat
from nexa_torch.generation import decode_stream


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("chat")
    trained = Run(folder / "run", tiny_recipe(chat_rows(folder), cluster={"threads_per_process": 1}))
    trained.attempt()
    return trained


@pytest.fixture
def store_uri(run: Run) -> str:
    return (run.folder / "store").as_uri()


def test_one_shot_answers_each_message(store_uri: str) -> None:
    arguments = ["latest", "--store", store_uri, "-m", "Count to 3.", "-m", "And to 4.", "--max-new-tokens", "4"]
    first, second = (CliRunner().invoke(chat, arguments) for _ in range(2))
    assert first.exit_code == 0, first.output
    assert first.stdout == second.stdout
    assert "loading checkpoints/run/step-00000004" in first.stderr


def test_conversation_from_standard_input(store_uri: str) -> None:
    typed = "Hello\n/reset\n/nonsense\nHello\n/quit\n"
    arguments = [RUN_ID, "--store", store_uri, "--max-new-tokens", "3", "--system", "Be brief."]
    result = CliRunner().invoke(chat, arguments, input=typed)
    assert result.exit_code == 0, result.output
    assert "the conversation starts afresh" in result.stderr
    assert "unknown command /nonsense" in result.stderr


def test_generate_reads_a_pipe_and_prints_only_the_continuation(run: Run, store_uri: str) -> None:
    environment = {**os.environ, "NEXA_STORE_URI": store_uri}
    command = [sys.executable, "-m", "nexa.cli.main", "generate", "--max-new-tokens", "4"]
    piped = subprocess.run(command, input="Count", env=environment, capture_output=True, text=True, check=True)
    direct = CliRunner().invoke(
        generate, [str(run.store.fetch("checkpoints/run/step-00000004")), "-p", "Count", "--max-new-tokens", "4"]
    )
    assert piped.stdout == direct.stdout
    assert "Count" not in piped.stdout


def test_unknown_checkpoint_says_what_there_is(store_uri: str) -> None:
    result = CliRunner().invoke(chat, ["no-such-run", "--store", store_uri, "-m", "x"])
    assert isinstance(result.exception, UserError)
    assert "no-such-run" in str(result.exception)


def test_prompt_longer_than_the_model_is_refused(run: Run) -> None:
    session = open_chat(run.store.fetch("checkpoints/run/step-00000004"))
    with pytest.raises(UserError, match="the model takes 128"):
        next(session.complete("x" * 200, max_new_tokens=1, temperature=0.0))


def test_sampling_varies_and_leaves_the_random_state_alone(run: Run) -> None:
    import torch

    session = open_chat(run.store.fetch("checkpoints/run/step-00000004"))
    before = torch.get_rng_state()
    answers = {"".join(session.complete("Count", max_new_tokens=12, temperature=5.0)) for _ in range(4)}
    assert len(answers) > 1
    assert torch.equal(before, torch.get_rng_state())


def test_a_character_split_over_tokens_is_yielded_whole(run: Run) -> None:
    from nexa_torch.data.byte_tokenizer import byte_tokenizer

    tokenizer = byte_tokenizer()
    pieces = list(decode_stream(tokenizer, iter("aé😀".encode())))
    assert pieces == ["a", "é", "😀"]


def test_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config\.json"):
        open_chat(tmp_path)
