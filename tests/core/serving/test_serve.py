"""`nexa serve`, asked by OpenAI's own client library."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("starlette")
openai = pytest.importorskip("openai")
httpx = pytest.importorskip("httpx")

KEY = "secret-of-these-tests"


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer model of random weights that reads bytes."""
    from nexa.recipe.sections.model import ModelSection
    from nexa_torch.data.byte_tokenizer import byte_tokenizer
    from nexa_torch.models import load_model

    folder = tmp_path_factory.mktemp("model")
    tokenizer = byte_tokenizer()
    section = ModelSection(name="llama", tokenizer="bytes", d_model=32, n_layers=2, n_heads=2)
    load_model(section, tokenizer, row_length=256, seed=1).network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def address(model_folder: Path) -> Iterator[str]:
    """URL of a server with a key, in a process of its own as people start it."""
    with _server(model_folder, port=0) as (server, url):
        yield url
        server.terminate()
        assert server.wait(timeout=60) == -signal.SIGTERM


@contextmanager
def _server(model_folder: Path, *, port: int) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server's process, and its URL."""
    command = [sys.executable, "-m", "nexa", "serve", str(model_folder), "--port", str(port), "--name", "tiny"]
    environment = {**os.environ, "NEXA_SERVE_API_KEY": KEY, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        try:
            assert server.stdout is not None
            line = server.stdout.readline()
            assert "serving tiny at http://127.0.0.1:" in line
            yield server, line.split(" at ")[1].split()[0]
        finally:
            server.kill()


@pytest.fixture
def client(address: str) -> Iterator[Any]:
    """OpenAI's client of that server."""
    with openai.OpenAI(base_url=address, api_key=KEY, max_retries=0, timeout=120) as client:
        yield client


MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name a colour."}]


def test_models(client: Any) -> None:
    """The one model is listed and can be asked for; another is not found."""
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "nexa"
    with pytest.raises(openai.NotFoundError, match="serves 'tiny'"):
        client.models.retrieve("gpt-4")


def test_chat_streams_what_it_answers_whole(client: Any) -> None:
    """A greedy answer is the same in one piece and in chunks, with the same tokens and usage."""
    options = {"model": "tiny", "messages": MESSAGES, "max_tokens": 24, "temperature": 0}
    whole = client.chat.completions.create(**options)
    choice = whole.choices[0]
    assert choice.finish_reason == "length"
    assert whole.usage.completion_tokens == 24
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + 24
    chunks = list(client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == choice.message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "length"
    assert chunks[-1].usage == whole.usage
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_seed_draws_the_same_again(client: Any) -> None:
    """The same seed gives the same answer, another seed another; several answers to one request differ."""

    def ask(seed: int, n: int = 1) -> list[str]:
        reply = client.chat.completions.create(
            model="tiny", messages=MESSAGES, max_tokens=16, temperature=1.5, seed=seed, n=n
        )
        return [choice.message.content for choice in reply.choices]

    assert ask(1) == ask(1)
    assert ask(1) != ask(2)
    first, second = ask(3, n=2)
    assert first != second


def test_logprobs(client: Any) -> None:
    """Every token has its log-probability; greedily it is the likeliest; none is above 0."""
    reply = client.chat.completions.create(
        model="tiny", messages=MESSAGES, max_tokens=5, temperature=0, logprobs=True, top_logprobs=3
    )
    entries = reply.choices[0].logprobs.content
    assert len(entries) == 5
    for entry in entries:
        assert entry.logprob == max(top.logprob for top in entry.top_logprobs) <= 0
        assert len(entry.top_logprobs) == 3
        assert bytes(entry.bytes).decode(errors="replace") == entry.token


def test_completion_scores_a_prompt(client: Any, model_folder: Path) -> None:
    """With echo and no new tokens the prompt's own log-probabilities come back, equal to the model's."""
    import torch

    from nexa_torch.serving import open_generator

    reply = client.completions.create(model="tiny", prompt="hello there", max_tokens=0, echo=True, logprobs=1)
    choice = reply.choices[0]
    assert choice.text == "hello there"
    assert "".join(choice.logprobs.tokens) == "hello there"
    assert choice.logprobs.text_offset == list(range(11))
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (11, 0)
    generator = open_generator(model_folder)
    ids = list(generator.encode("hello there"))
    with torch.inference_mode():
        logprobs = torch.log_softmax(generator._network(torch.tensor([ids])).logits[0].float(), -1)
    expected = [None, *(float(logprobs[place, token]) for place, token in enumerate(ids[1:]))]
    assert choice.logprobs.token_logprobs[0] is None
    assert choice.logprobs.token_logprobs[1:] == pytest.approx(expected[1:], abs=1e-5)
    assert all(math.isfinite(value) for value in choice.logprobs.token_logprobs[1:])


def test_completions_take_lists_and_ids(client: Any) -> None:
    """Several prompts make several choices; ids are the same prompt as their text."""
    options = {"model": "tiny", "max_tokens": 8, "temperature": 0}
    texts = client.completions.create(prompt=["abc", "xyz"], **options)
    ids = client.completions.create(prompt=[list(b"abc"), list(b"xyz")], **options)
    assert [choice.text for choice in texts.choices] == [choice.text for choice in ids.choices]
    assert [choice.index for choice in texts.choices] == [0, 1]


@pytest.mark.parametrize("stream", [False, True])
def test_stop_sequences_end_the_text_before_them(client: Any, stream: bool) -> None:
    """Nothing of a stop sequence is shown, also where it comes token by token in a stream."""
    options = {"model": "tiny", "prompt": "abc", "max_tokens": 40, "temperature": 0}
    full = client.completions.create(**options).choices[0].text
    stop = full[6:9]
    reply = client.completions.create(**options, stop=[stop, "never this"], stream=stream)
    parts = [part.choices[0] for part in reply] if stream else [reply.choices[0]]
    assert "".join(part.text for part in parts) == full[: full.index(stop)]
    assert parts[-1].finish_reason == "stop"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"temperature": 9}, "temperature must be from 0 to 2"),
        ({"messages": []}, "at least one message"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "needs a role"),
        ({"max_tokens": 0}, "max_tokens must be a whole number, at least 1"),
        ({"top_logprobs": 3}, "needs logprobs"),
        ({"frequency_penalty": 0.5}, "frequency_penalty is not supported"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"extra_body": {"beam_width": 3}}, "beam_width is not supported"),
        ({"messages": [{"role": "user", "content": "x" * 3000}]}, "maximum context length is 2048"),
    ],
)
def test_bad_requests_say_what_is_wrong(client: Any, change: dict[str, Any], said: str) -> None:
    """A request that can't be honoured is refused by name, in OpenAI's shape."""
    with pytest.raises(openai.BadRequestError, match=said) as caught:
        client.chat.completions.create(**{"model": "tiny", "messages": MESSAGES, **change})
    assert caught.value.body["type"] == "invalid_request_error"


def test_a_wrong_key_is_refused(address: str) -> None:
    """Without the key nothing is answered, not even which model there is."""
    with (
        openai.OpenAI(base_url=address, api_key="wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError, match="API key"),
    ):
        client.models.list()


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [("/chat/completions", b"{nonsense", 400), ("/nowhere", b"{}", 404), ("/chat/completions", b"[]", 400)],
)
def test_errors_are_json(address: str, path: str, body: bytes, status: int) -> None:
    """Whatever is sent, the answer is an error object."""
    request = urllib.request.Request(address + path, data=body, headers={"Authorization": f"Bearer {KEY}"})
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request, timeout=60)
    with caught.value as answer:
        assert answer.code == status
        assert set(json.loads(answer.read())["error"]) == {"message", "type", "param", "code"}


def test_a_client_that_leaves_ends_its_answer(client: Any) -> None:
    """After a stream is left in the middle, the next request gets its turn."""
    stream = client.chat.completions.create(model="tiny", messages=MESSAGES, temperature=1, stream=True)
    next(iter(stream))
    stream.close()
    assert client.completions.create(model="tiny", prompt="a", max_tokens=1).usage.completion_tokens == 1


def test_four_clients_at_once_each_get_their_own_answer(client: Any) -> None:
    """Whole and streamed, at the same time: the same texts as one after another."""

    def ask(number: int, *, stream: bool) -> str:
        options = {"model": "tiny", "messages": [{"role": "user", "content": f"Count to {number}."}], "max_tokens": 12}
        reply = client.chat.completions.create(**options, temperature=0, stream=stream)
        if not stream:
            return str(reply.choices[0].message.content)
        return "".join(chunk.choices[0].delta.content or "" for chunk in reply if chunk.choices)

    alone = [ask(number, stream=False) for number in range(4)]
    with ThreadPoolExecutor(4) as clients:
        together = list(clients.map(lambda number: ask(number, stream=number % 2 == 1), range(4)))
    assert together == alone


@pytest.mark.soak
def test_a_killed_server_is_missed_and_its_port_is_free_again(model_folder: Path) -> None:
    """After kill -9 in the middle of a stream the client is told, and another server takes the same port."""
    with _server(model_folder, port=0) as (server, url):
        with openai.OpenAI(base_url=url, api_key=KEY, max_retries=0, timeout=120) as client:
            stream = client.chat.completions.create(model="tiny", messages=MESSAGES, temperature=1, stream=True)
            next(iter(stream))
            server.kill()
            with pytest.raises((openai.APIError, httpx.TransportError)):
                for _ in stream:
                    pass
        server.wait(timeout=60)
    with (
        _server(model_folder, port=int(url.rpartition(":")[2].split("/")[0])) as (_, again),
        openai.OpenAI(base_url=again, api_key=KEY, max_retries=0, timeout=120) as client,
    ):
        assert again == url
        assert [model.id for model in client.models.list()] == ["tiny"]


def _serve(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "NEXA_SERVE_API_KEY"}
    return subprocess.run(
        [sys.executable, "-m", "nexa", "serve", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )


def test_it_is_not_opened_to_others_without_a_key(model_folder: Path) -> None:
    """An address that other machines reach needs a key."""
    answer = _serve(str(model_folder), "--host", "0.0.0.0", "--port", "0")
    assert answer.returncode == 2
    assert "without a key" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_a_taken_port_is_named(model_folder: Path, address: str) -> None:
    """The port and what to do instead."""
    port = address.rpartition(":")[2].split("/")[0]
    answer = _serve(str(model_folder), "--port", port)
    assert answer.returncode == 2
    assert f"127.0.0.1:{port}" in answer.stderr


def test_vllm_is_explained_and_refused_without_a_gpu(model_folder: Path) -> None:
    """The command can be printed anywhere; running it needs a GPU."""
    shown = _serve(str(model_folder), "--engine", "vllm", "--python", "/opt/vllm/bin/python", "--explain")
    assert shown.stdout.startswith("/opt/vllm/bin/python -m vllm.entrypoints.openai.api_server --host 127.0.0.1")
    from nexa.worker.environment import gpu_names

    if not gpu_names():
        refused = _serve(str(model_folder), "--engine", "vllm", "--port", "0")
        assert refused.returncode == 2
        assert "vLLM needs a GPU" in refused.stderr
