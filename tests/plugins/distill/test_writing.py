"""A teacher writes rows: a local one, and one behind a real server that also misbehaves."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from nexa.errors import UserError, WorkerError
from nexa.recipe.sections.distill import TextSection
from nexa.testing.recipes import tiny_recipe
from nexa_distill.writers import EndpointWriter
from nexa_distill.writing import JOURNAL, write_text


class Service:
    """A server on this machine that answers as `plan` says: a status, or (text, finish reason), then a plain answer."""

    def __init__(self) -> None:
        self.plan: list = []
        self.bodies: list[dict] = []
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                service.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                todo = service.plan.pop(0) if service.plan else ("An answer.", "stop")
                if isinstance(todo, int):
                    self.send_response(todo)
                    if todo == 429:
                        self.send_header("Retry-After", "7")
                    self.end_headers()
                    self.wfile.write(b'{"error": "not now"}')
                    return
                text, reason = todo
                choice = {"message": {"role": "assistant", "content": text}, "finish_reason": reason}
                self.send_response(200)
                self.end_headers()
                self.wfile.write(json.dumps({"choices": [choice]}).encode())

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def service():
    """A running service."""
    running = Service()
    yield running
    running.close()


@pytest.fixture
def recipe(tmp_path, service, teacher):
    """Makes a recipe with four prompts whose teacher is the service."""

    def make(**more):
        base = {"distill.teacher": str(teacher), "distill.text.endpoint": service.url, "data.max_documents": 4}
        return tiny_recipe(tmp_path / "recipe", {**base, "distill.text.retries": 2, **more})

    return make


def rows(path):
    """The rows of a JSONL file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_answers_become_rows_to_fine_tune_on(recipe, tmp_path, service):
    """The prompt's turns, then the teacher's answer; a dry run asks nothing."""
    output = tmp_path / "rows.jsonl"
    assert write_text(recipe(), output, dry_run=True).prompts == 4
    assert service.bodies == []
    assert not output.exists()
    done = write_text(recipe(), output)
    assert (done.rows, done.requests, dict(done.left_out)) == (4, 4, {})
    first = rows(output)[0]["messages"]
    assert [turn["role"] for turn in first] == ["user", "assistant"]
    assert first[1]["content"] == "An answer."
    assert service.bodies[0]["messages"] == [first[0]]


def test_what_fails_the_filter_is_asked_for_again(recipe, tmp_path, service):
    """Cut off, empty, caught in a loop; a prompt that never succeeds is left out and counted."""
    service.plan = [("cut", "length"), ("", "stop"), ("over and over " * 20, "stop"), ("", "stop"), ("good", "stop")]
    done = write_text(recipe(), tmp_path / "rows.jsonl")
    assert dict(done.left_out) == {"going round in circles": 1}
    assert [row["messages"][-1]["content"] for row in rows(tmp_path / "rows.jsonl")][:1] == ["good"]


def test_the_judge_sends_weak_answers_back(recipe, tmp_path, service):
    """With the mark; the second answer passes."""
    service.plan = [("weak", "stop"), ("2", "stop"), ("strong", "stop"), ("I give it a 5.", "stop")]
    done = write_text(recipe(**{"distill.text.judge": True, "data.max_documents": 1}), tmp_path / "rows.jsonl")
    assert done.rows == 1
    assert rows(tmp_path / "rows.jsonl")[0]["messages"][-1]["content"] == "strong"
    assert "marked 2 of 5" in service.bodies[2]["messages"][-1]["content"]


def test_what_is_finished_is_not_asked_again(recipe, tmp_path, service):
    """After a service that broke down for good, and a journal whose last line a kill cut off."""
    output = tmp_path / "rows.jsonl"
    service.plan = [("one", "stop"), ("two", "stop"), 400]
    with pytest.raises(UserError, match="HTTP 400"):
        write_text(recipe(), output)
    journal = output.with_name(output.name + JOURNAL)
    with journal.open("ab") as stream:
        stream.write(b'{"prompt": "cut')
    asked = len(service.bodies)
    assert write_text(recipe(), output).rows == 4
    assert len(service.bodies) == asked + 2
    assert [row["messages"][-1]["content"] for row in rows(output)][:2] == ["one", "two"]
    with pytest.raises(UserError, match="other settings"):
        write_text(recipe(**{"distill.text.min_characters": 5}), output)


def test_errors_that_pass_are_waited_out(service):
    """As long as the service says, else longer each time."""
    waits: list[float] = []
    section = TextSection(endpoint=service.url, retries=4)
    writer = EndpointWriter(section, "m", sleep=waits.append)
    service.plan = [429, 503, 500]
    assert writer.answer([{"role": "user", "content": "?"}], temperature=0.0).text == "An answer."
    assert waits[0] == 7.0
    assert 1.5 <= waits[1] <= 2.5
    assert 3.0 <= waits[2] <= 5.0


def test_errors_that_stay_end_it(service):
    """By name: too many failures, no key, no such model, nobody there."""
    writer = EndpointWriter(TextSection(endpoint=service.url, retries=1), "m", sleep=lambda _: None)
    service.plan = [500, 500]
    with pytest.raises(WorkerError, match="after 2 tries: HTTP 500"):
        writer.answer([], temperature=0.0)
    for status, message in ((401, "OPENAI_API_KEY"), (404, "endpoint_model")):
        service.plan = [status]
        with pytest.raises(UserError, match=message):
            writer.answer([], temperature=0.0)
    service.close()
    with pytest.raises(WorkerError, match="refused"):
        writer.answer([], temperature=0.0)


def test_requests_keep_to_a_rate(service):
    """The second waits."""
    waits: list[float] = []
    section = TextSection(endpoint=service.url, requests_per_minute=30)
    writer = EndpointWriter(section, "m", sleep=waits.append)
    for _ in range(2):
        writer.answer([], temperature=0.0)
    assert len(waits) == 1
    assert 0 < waits[0] <= 2.0


def test_a_local_teacher_writes_too(recipe, tmp_path):
    """A model in this process; its endless babble is cut off and told so."""
    more = {"distill.text.endpoint": None, "distill.text.max_new_tokens": 8, "distill.text.attempts": 1}
    done = write_text(recipe(**more, **{"data.max_documents": 2}), tmp_path / "rows.jsonl")
    assert done.requests == 2
    assert done.rows + sum(done.left_out.values()) == 2
