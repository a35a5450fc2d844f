"""Render conversations through a chat template, and find the assistant's turns in the result.

The spans that carry loss run from where the model starts to write (behind the generation prompt) through
the token that ends its turn. They are exact: a conversation whose template can't be followed is refused.

A template is followed in one of three ways, the first that applies:
1. It marks turns itself with {% generation %}.
2. It puts fixed pieces of text around the messages' contents. The pieces are learned once for each
   sequence of roles, and must put together exactly what the template rendered, or by proof always do.
3. The rendering of a conversation's beginning is a prefix of the rendering of the whole.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nexa.errors import DataError
from nexa_torch.data.documents import Document
from nexa_torch.data.template_proof import prove

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Messages = Sequence[Mapping[str, str]]
Span = tuple[int, int]

# transformers keeps the marks of the rendering in progress in the compiled template, which threads share.
_RENDERING = threading.Lock()
_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
# Characters of a private use area: no template changes them, and no text holds them.
_MARK_OPEN, _MARK_CLOSE = "\U000f4e45", "\U000f5841"


@dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation as text, with the character ranges [start, end) that carry loss."""

    text: str
    spans: list[Span]


@dataclass(slots=True)
class _Pieces:
    """Fixed text around the contents of one sequence of roles: before the first, between, after the last.

    leads: for each message, how many characters the model writes before the content itself.
    """

    literal: list[str]
    leads: list[int]


@dataclass
class ChatTemplate:
    """The chat template of a tokenizer. `warnings` collects what a person should know, each once.

    answers: the assistant's turns are trained on, so that a template which never ends them is refused: raises
    DataError.
    """

    tokenizer: PreTrainedTokenizerBase
    answers: bool = False
    warnings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.template: str = self._own_template()
        self._marked = bool(_GENERATION.search(self.template))
        # Marks are only known of what is rendered.
        self._proof = None if self._marked else prove(self.template)
        self._pieces: dict[tuple[str, ...], _Pieces | None] = {}
        self._special = special_texts(self.tokenizer)
        probe = [{"role": "user", "content": f"{_MARK_OPEN}0{_MARK_CLOSE}"}]
        self._generation_prompt = self._probe_generation_prompt(probe)
        # The terminator is the text of the token that ends an assistant turn; None where the template has none.
        self._header, self.terminator = self._probe_answer(probe)
        if self.terminator is None and self.answers:
            self._require_ending(probe)

    def render(self, documents: Sequence[Document], *, mask: bool) -> list[Rendered]:
        """Render conversations; with `mask` the spans are the assistant's turns, else the whole text.

        Raises DataError naming the row that the template refuses or can't be followed on.
        """
        rendered = [self._assemble(document.messages or (), mask=mask) for document in documents]
        rest = [i for i, item in enumerate(rendered) if item is None]
        for i, item in zip(rest, self._render([documents[i] for i in rest], mask=mask), strict=True):
            rendered[i] = item
        found = [item for item in rendered if item is not None]
        for document, item in zip(documents, found, strict=True):
            first = (document.messages or [{}])[0]
            if first.get("role") == "system" and first["content"].strip() not in item.text:
                self._warn(f"the chat template drops the system turn of conversations, first that of {document.place}")
                break
        return found

    def _assemble(self, messages: Messages, *, mask: bool) -> Rendered | None:
        """The rendering of a conversation by a template that only prints contents, without rendering it."""
        if self._proof is None:
            return None
        roles = tuple([message["role"] for message in messages])
        pieces = self._pieces_of(roles)
        contents = [message["content"] for message in messages]
        if pieces is None or (self._proof.trims and any(text != text.strip() for text in contents)):
            return None
        text, spans = self._put_together(pieces, roles, contents)
        return Rendered(text, spans if mask else [(0, len(text))])

    def _render(self, documents: Sequence[Document], *, mask: bool) -> list[Rendered]:
        """Render conversations with Jinja, and find the spans in what comes out."""
        if not documents:
            return []
        conversations = [document.messages or () for document in documents]
        try:
            texts, marks = self._apply(conversations, marked=mask and self._marked)
        except Exception:
            # One row at a time tells which one the template refuses.
            for document in documents:
                self._apply_one(document)
            raise
        if not mask:
            return [Rendered(text, [(0, len(text))]) for text in texts]
        return [
            Rendered(text, self._spans(document, text, mark))
            for document, text, mark in zip(documents, texts, marks, strict=True)
        ]

    def _own_template(self) -> str:
        try:
            return self.tokenizer.get_chat_template()
        except ValueError:
            raise DataError(
                "the tokenizer has no chat template, so conversations can't be rendered",
                hint="set model.chat_template to a Jinja file, or model.tokenizer to that of a chat model",
            ) from None

    def _apply(
        self, conversations: Sequence[Messages], *, marked: bool = False, add_generation_prompt: bool = False
    ) -> tuple[list[str], list[list[Span]]]:
        from transformers.utils import chat_template_utils

        render: Any = chat_template_utils.render_jinja_template
        with _RENDERING:
            texts, marks = render(
                conversations=conversations,
                chat_template=self.template,
                return_assistant_tokens_mask=marked,
                add_generation_prompt=add_generation_prompt,
                **self.tokenizer.special_tokens_map,
            )
        return texts, [[(start, end) for start, end in mark] for mark in marks] if marked else [[] for _ in texts]

    def _text(self, messages: Messages, *, add_generation_prompt: bool = False) -> str:
        return self._apply([messages], add_generation_prompt=add_generation_prompt)[0][0]

    def _apply_one(self, document: Document) -> None:
        try:
            self._text(document.messages or ())
        # Templates raise what Jinja raises, and what they raise themselves.
        except Exception as error:
            raise DataError(f"{document.place}: the chat template refuses this conversation: {error}") from None

    def _spans(self, document: Document, text: str, marks: list[Span]) -> list[Span]:
        if self._marked:
            spans = [self._through_terminator(text, span) for span in marks if span[0] < span[1]]
            if not spans:
                raise DataError(f"{document.place}: the chat template marks no assistant turn in this conversation")
            return spans
        messages = document.messages or ()
        return self._spans_by_pieces(messages, text) or self._spans_by_prefix(document.place, messages, text)

    def _through_terminator(self, text: str, span: Span) -> Span:
        """A marked turn, extended over the terminator where the template's marks leave it out."""
        start, end = span
        if self.terminator is None or self.terminator in text[start:end]:
            return span
        gap = len(text) - end - len(text[end:].lstrip())
        if not text.startswith(self.terminator, end + gap):
            return span
        self._warn(
            f"the chat template's {{% generation %}} marks leave out {self.terminator}; it is trained on all the same, "
            "so that the model learns to stop"
        )
        return start, end + gap + len(self.terminator)

    def _spans_by_pieces(self, messages: Messages, text: str) -> list[Span] | None:
        roles = tuple(message["role"] for message in messages)
        pieces = self._pieces_of(roles)
        if pieces is None:
            return None
        for contents in ([m["content"] for m in messages], [m["content"].strip() for m in messages]):
            whole, spans = self._put_together(pieces, roles, contents)
            if whole == text:
                return spans
        return None

    def _pieces_of(self, roles: tuple[str, ...]) -> _Pieces | None:
        if roles not in self._pieces:
            self._pieces[roles] = self._learn_pieces(roles)
        return self._pieces[roles]

    def _put_together(self, pieces: _Pieces, roles: Sequence[str], contents: Sequence[str]) -> tuple[str, list[Span]]:
        """The text of pieces and contents, and the spans of the assistant's turns in it."""
        spans, parts, place = [], [pieces.literal[0]], len(pieces.literal[0])
        for role, content, lead, tail in zip(roles, contents, pieces.leads, pieces.literal[1:], strict=True):
            if role == "assistant":
                spans.append((place - lead, place + len(content) + self._terminator_end(tail)))
            parts += (content, tail)
            place += len(content) + len(tail)
        return "".join(parts), spans

    def _terminator_end(self, tail: str) -> int:
        """Characters of what follows an assistant's content that belong to its turn."""
        at = tail.find(self.terminator) if self.terminator else -1
        return at + len(self.terminator or "") if at >= 0 else 0

    def _learn_pieces(self, roles: tuple[str, ...]) -> _Pieces | None:
        """Text around the contents of a conversation with these roles, None where they do not come out as they are."""
        contents = [f"{_MARK_OPEN}{i}{_MARK_CLOSE}" for i in range(len(roles))]
        try:
            rest = self._text([{"role": role, "content": text} for role, text in zip(roles, contents, strict=True)])
        except Exception:
            # A template may look into contents and refuse these.
            return None
        literal = []
        for content in contents:
            if rest.count(content) != 1:
                return None
            before, rest = rest.split(content)
            literal.append(before)
        literal.append(rest)
        leads = []
        for piece in literal[:-1]:
            at = piece.rfind(self._generation_prompt) if self._generation_prompt else -1
            leads.append(len(piece) - at - len(self._generation_prompt) if at >= 0 else 0)
        return _Pieces(literal, leads)

    def _spans_by_prefix(self, place: str, messages: Messages, text: str) -> list[Span]:
        spans = []
        for i, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = self._text(messages[:i], add_generation_prompt=True)
            after = text if i + 1 == len(messages) else self._text(messages[: i + 1])
            if not (after.startswith(before) and text.startswith(after)):
                raise DataError(
                    f"{place}: messages[{i}]: can't tell which tokens of the rendered conversation are this turn's: "
                    "the chat template renders the beginning of a conversation differently when more follows",
                    hint="set model.chat_template to a version with {% generation %} marks, or data.train_on: all",
                )
            start = len(before)
            # Without a generation prompt, what stands before an answer is written for the model, not by it.
            if not self._generation_prompt and text.startswith(self._header, start):
                start += len(self._header)
            at = text.rfind(self.terminator, start, len(after)) if self.terminator else -1
            spans.append((start, at + len(self.terminator or "") if at >= 0 else len(after)))
        return spans

    def _probe_generation_prompt(self, probe: Messages) -> str:
        """Text that asks the model to answer, behind a conversation; empty where the template has none."""
        try:
            plain, asking = self._text(probe), self._text(probe, add_generation_prompt=True)
        except Exception:
            # A template may refuse the probe, for want of a system message say; rows that it refuses are named later.
            return ""
        return asking[len(plain) :] if asking.startswith(plain) else ""

    def _probe_answer(self, probe: Messages) -> tuple[str, str | None]:
        """Text before an answer's content, and of the first special token behind a final one."""
        answer = f"{_MARK_OPEN}1{_MARK_CLOSE}"
        try:
            plain, text = self._text(probe), self._text([*probe, {"role": "assistant", "content": answer}])
        except Exception:
            return "", self.tokenizer.eos_token
        before, _, tail = text.partition(answer)
        header = before[len(plain) :] if before.startswith(plain) else ""
        found = [(tail.find(special), -len(special), special) for special in self._special if special in tail]
        return header, min(found)[2] if found else None

    def _require_ending(self, probe: Messages) -> None:
        """Raise DataError unless the template marks a text of its own behind an answer as the assistant's."""
        content = f"{_MARK_OPEN}1{_MARK_CLOSE}"
        (text,), (marks,) = self._apply([[*probe, {"role": "assistant", "content": content}]], marked=self._marked)
        ending = text.partition(content)[2].strip()
        if ending and any(ending in text[start:end].partition(content)[2] for start, end in marks):
            self._warn(f"the chat template ends assistant turns with {ending!r}, which is no special token")
            return
        wanted = self.tokenizer.eos_token or "a special token"
        raise DataError(
            "the chat template ends assistant turns without a special token, so the model can't learn to stop",
            hint=f"set model.chat_template to a template that ends them with {wanted}, or data.train_on: all",
        )

    def _warn(self, text: str) -> None:
        kind = text.partition(",")[0]
        if not any(warning.startswith(kind) for warning in self.warnings):
            self.warnings.append(text)


def special_texts(tokenizer: Any) -> list[str]:
    """Texts of the special tokens, which stand for control and not for what they spell."""
    added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    return sorted({*added, *tokenizer.all_special_tokens} - {""})
