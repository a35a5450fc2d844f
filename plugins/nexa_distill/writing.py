"""From prompts to rows: the teacher answers, answers are filtered and marked, what fails is asked for again.

Every prompt's outcome is appended to a journal beside the output, so that nothing is asked twice after a stop; the rows
are written from it at the end, in the order of the prompts.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexa.distiller import CaptureProgress, WrittenText
from nexa.errors import DataError, UserError
from nexa.files import output_file
from nexa.manifest import canonical_json
from nexa_distill.teacher import TeacherName
from nexa_distill.writers import Answer, EndpointWriter, LocalWriter, Writer
from nexa_torch.data.documents import parse_documents
from nexa_torch.data.prepare import open_training

if TYPE_CHECKING:
    from nexa.recipe.schema import Recipe
    from nexa.recipe.sections.distill import TextSection

JOURNAL = ".journal.jsonl"
_JUDGE = (
    "Mark the answer to the question below from 1 (wrong or useless) to 5 (right, complete and clear). "
    "Reply with the number alone.\n\nQuestion:\n{question}\n\nAnswer:\n{answer}"
)
_AGAIN = "Your last answer was marked {mark} of 5. Give a better one."
_MARK = re.compile(r"\b([1-5])\b")
_LOOP = re.compile(r"(.{8,}?)\1{4,}", re.DOTALL)
"""A stretch that is said five times in a row: the writer got caught."""


def write_text(
    recipe: Recipe, output: Path, *, dry_run: bool = False, on_progress: CaptureProgress | None = None
) -> WrittenText:
    """See `nexa.distiller.Distiller.write_text`."""
    prompts = list(_prompts(recipe))
    if dry_run:
        return WrittenText(prompts=len(prompts), rows=0, requests=0, left_out={}, output=output)
    section = recipe.distill.text
    journal = _Journal(output.with_name(output.name + JOURNAL), _identity(recipe))
    writer: Writer | None = None
    for number, messages in enumerate(prompts):
        if on_progress is not None:
            on_progress("writing", number, len(prompts))
        key = hashlib.sha256(canonical_json(messages)).hexdigest()[:24]
        if key not in journal.outcomes:
            writer = writer or _writer(recipe)
            journal.add(key, _one(messages, writer, section))
        journal.order.append(key)
    left_out = journal.write_rows(output, prompts)
    return WrittenText(
        prompts=len(prompts),
        rows=len(prompts) - sum(left_out.values()),
        requests=writer.requests if writer else 0,
        left_out=dict(left_out),
        output=output,
    )


def _prompts(recipe: Recipe) -> Iterator[list[dict[str, str]]]:
    """Conversations up to the turn that is to be written. Raises DataError where rows hold none."""
    source = open_training(recipe)
    limit = recipe.data.max_documents
    documents = parse_documents(source.records(), recipe.data.format, answers=False)
    for number, document in enumerate(documents):
        if limit is not None and number >= limit:
            return
        if not document.messages:
            raise DataError(
                f"{document.place}: the row is no conversation, so there is nothing to answer",
                hint="give rows of messages, prompt/response or instruction",
            )
        turns = [{"role": str(turn["role"]), "content": str(turn["content"])} for turn in document.messages]
        while turns and turns[-1]["role"] == "assistant":
            turns.pop()
        if turns:
            yield turns


def _writer(recipe: Recipe) -> Writer:
    section = recipe.distill.text
    teacher = TeacherName.of(recipe)
    if section.endpoint is not None:
        if not section.endpoint.startswith(("http://", "https://")):
            raise UserError(
                f"distill.text.endpoint {section.endpoint!r} is no http address",
                hint="such as http://localhost:8000/v1",
            )
        return EndpointWriter(section, section.endpoint_model or teacher.name)
    from nexa_torch.chat import TorchChatSession
    from nexa_torch.data.tokenizer import load_tokenizer
    from nexa_torch.models import load_network, quiet_libraries

    quiet_libraries()
    model = teacher.section.model_copy(update={"chat_template": recipe.model.chat_template})
    tokenizer = load_tokenizer(model)
    session = TorchChatSession(load_network(teacher.source(), revision=teacher.revision).eval(), tokenizer)
    return LocalWriter(
        session, lambda text: len(tokenizer(text, add_special_tokens=False)["input_ids"]), section.max_new_tokens
    )


def _one(messages: list[dict[str, str]], writer: Writer, section: TextSection) -> dict[str, Any]:
    """The outcome of one prompt: {"answer", "mark"}, or {"reason"} of the last failure."""
    reason, mark = "", None
    for _ in range(section.attempts):
        asked = [*messages, {"role": "user", "content": _AGAIN.format(mark=mark)}] if mark else messages
        answer = writer.answer(asked, temperature=section.sampling_temperature)
        reason, mark = _filtered(answer, section), None
        if reason:
            continue
        if not section.judge:
            return {"answer": answer.text.strip(), "mark": None}
        mark = _marked(messages, answer.text, writer)
        if mark is not None and mark >= section.judge_threshold:
            return {"answer": answer.text.strip(), "mark": mark}
        reason = "without a mark" if mark is None else "marked too low"
    return {"reason": reason}


def _filtered(answer: Answer, section: TextSection) -> str:
    """Why an answer is not used, empty where it is."""
    text = answer.text.strip()
    if not answer.whole:
        return "cut off at the longest length"
    if len(text) < section.min_characters:
        return "too short"
    if "\ufffd" in text:
        return "not text"
    return "going round in circles" if _LOOP.search(text) else ""


def _marked(messages: list[dict[str, str]], answer: str, writer: Writer) -> int | None:
    question = "\n".join(turn["content"] for turn in messages if turn["role"] != "system")
    asked = [{"role": "user", "content": _JUDGE.format(question=question, answer=answer)}]
    found = _MARK.search(writer.answer(asked, temperature=0.0).text)
    return int(found[1]) if found else None


def _identity(recipe: Recipe) -> dict[str, Any]:
    """What answers depend on, besides their prompts."""
    teacher, section = TeacherName.of(recipe), recipe.distill.text
    ignored = {"api_key_variable", "requests_per_minute", "retries", "timeout_seconds", "endpoint"}
    return {"teacher": teacher.name, "revision": teacher.revision, **section.model_dump(exclude=ignored)}


class _Journal:
    """Outcomes of prompts, one JSON line each behind a line that says what they depend on."""

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        self._path = path
        self.outcomes: dict[str, dict[str, Any]] = {}
        self.order: list[str] = []
        lines = path.read_bytes().split(b"\n") if path.exists() else []
        if not lines or not lines[0]:
            self._append(identity)
            return
        try:
            known = json.loads(lines[0])
        except ValueError:
            raise UserError(f"{path} is no journal of answers", hint="remove it, or choose another --output") from None
        if known != json.loads(json.dumps(identity)):
            raise UserError(
                f"{path} holds answers of another teacher or other settings",
                hint="choose another --output, or remove it",
            )
        for line in lines[1:]:
            try:
                record = json.loads(line)
            except ValueError:
                # The end of a line that a kill cut off.
                continue
            self.outcomes[record["prompt"]] = record["outcome"]

    def add(self, key: str, outcome: dict[str, Any]) -> None:
        """Keep an outcome, durably. Raises UserError where it can't be written."""
        self._append({"prompt": key, "outcome": outcome})
        self.outcomes[key] = outcome

    def _append(self, record: dict[str, Any]) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as stream:
                if stream.tell() and not _ends_line(self._path):
                    stream.write(b"\n")
                stream.write(json.dumps(record).encode() + b"\n")
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise UserError(f"can't write {self._path}: {error.strerror or error}") from error

    def write_rows(self, output: Path, prompts: list[list[dict[str, str]]]) -> Counter[str]:
        """Write the answers as rows of messages, and count the reasons of prompts without one."""
        left_out: Counter[str] = Counter()
        with output_file(output) as stream:
            for key, messages in zip(self.order, prompts, strict=True):
                outcome = self.outcomes[key]
                if "answer" not in outcome:
                    left_out[outcome["reason"]] += 1
                    continue
                row = {"messages": [*messages, {"role": "assistant", "content": outcome["answer"]}]}
                stream.write(json.dumps(row, ensure_ascii=False) + "\n")
        return left_out


def _ends_line(path: Path) -> bool:
    with path.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read(1) == b"\n"
