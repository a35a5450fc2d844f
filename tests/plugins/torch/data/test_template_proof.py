"""A template is taken as proven only where contents can't change anything but themselves."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest

from nexa_torch.data.documents import Document
from nexa_torch.data.template import ChatTemplate
from nexa_torch.data.template_proof import prove

PLAIN = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
FIRST = "{% if messages[0]['role'] != 'system' %}{{ 'none' }}{% endif %}"
PROVEN = {
    "plain": (PLAIN, False),
    "attributes": (PLAIN.replace("message['content']", "message.content"), False),
    "trim": (PLAIN.replace("message['content']", "(message['content'] | trim)"), True),
    "tilde": (PLAIN.replace("+ message['content'] +", "~ message['content'] ~"), False),
    "first": (FIRST + PLAIN, False),
    "slice": (PLAIN.replace("in messages", "in messages[1:]"), False),
    "refusal": (PLAIN + "{% if messages | length > 9 %}{{ raise_exception('long') }}{% endif %}", False),
}
UNPROVEN = {
    "condition": PLAIN + "{% if messages[0]['content'] == 'x' %}y{% endif %}",
    "test": PLAIN + "{% for m in messages %}{% if 'a' in m.content %}y{% endif %}{% endfor %}",
    "set": "{% set c = messages[0]['content'] %}" + PLAIN,
    "whole message": PLAIN + "{{ messages[0] }}",
    "loop variable": PLAIN + "{% for m in messages %}{{ m | tojson }}{% endfor %}",
    "alias": "{% set other = messages %}" + PLAIN,
    "shadow": "{% set messages = messages[1:] %}" + PLAIN,
    "filter": PLAIN.replace("message['content']", "(message['content'] | upper)"),
    "method": PLAIN.replace("message['content']", "message['content'].strip()"),
    "call": PLAIN + "{{ strftime_now('%Y') }}",
    "other field": PLAIN + "{% if messages[0].thinking %}y{% endif %}",
    "length of content": PLAIN + "{{ messages[0].content | length }}",
    "filtered loop": PLAIN.replace("in messages", "in messages | reverse"),
    "selected": PLAIN.replace("in messages", "in messages if message.content != 'x'"),
    "dynamic index": PLAIN + "{{ messages[0][what] }}",
    "computed index": PLAIN + "{{ messages[loop.index0 - 1].content }}",
    "macro": "{% macro f(x) %}{{ x }}{% endmacro %}" + PLAIN + "{{ f(messages) }}",
    "broken": "{% for",
}


@pytest.mark.parametrize("name", PROVEN)
def test_proven(name: str) -> None:
    template, trims = PROVEN[name]
    proof = prove(template)
    assert proof is not None
    assert proof.trims is trims


@pytest.mark.parametrize("name", UNPROVEN)
def test_unproven(name: str) -> None:
    assert prove(UNPROVEN[name]) is None


@pytest.mark.parametrize("name", [*PROVEN, "smollm2"])
def test_assembled_equals_rendered(name: str, byte_tokenizer: Any, request: pytest.FixtureRequest) -> None:
    if name == "smollm2":
        tokenizer = request.getfixturevalue("smollm2")
    else:
        tokenizer = copy.deepcopy(byte_tokenizer)
        tokenizer.chat_template = PROVEN[name][0]
    generator = random.Random(0)
    documents = []
    for i in range(100):
        turns = generator.choice([["user", "assistant"], ["system", "user", "assistant"], ["user", "assistant"] * 3])
        text = lambda: "".join(generator.choices(" \n{}%<|>é日a'", k=9)) + "b" * generator.randint(0, 1)  # noqa: E731
        documents.append(Document(f"a:{i}", messages=[{"role": role, "content": text() or "x"} for role in turns]))
    quick, slow = ChatTemplate(tokenizer), ChatTemplate(tokenizer)
    assert quick._proof is not None
    slow._proof = None
    assert quick.render(documents, mask=False) == slow.render(documents, mask=False)
    if name != "slice":
        assert quick.render(documents, mask=True) == slow.render(documents, mask=True)
