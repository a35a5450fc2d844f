"""The loss is taken on exactly what the assistant writes, through the token that ends its turn."""

from __future__ import annotations

import copy
import random
from typing import Any

import numpy as np
import pytest

from nexa.errors import DataError
from nexa_torch.data.documents import Document
from nexa_torch.data.encode import Encoded, EncodedBatch, Encoder
from nexa_torch.data.template import ChatTemplate

SINGLE = [{"role": "user", "content": "What is 2+2?"}, {"role": "assistant", "content": "It is 4."}]
MULTI = [
    {"role": "system", "content": "Answer briefly."},
    {"role": "user", "content": "Hi!\n\nHow are  you?"},
    {"role": "assistant", "content": "Très bien, 日本 🙂"},
    {"role": "user", "content": "And\tnow? 👩‍👩‍👧"},
    {"role": "assistant", "content": "Still fine.\n\n"},
]

LLAMA2 = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ '<s>[INST] ' + m['content'].strip() + ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'].strip() + ' <|im_end|>' }}{% endif %}{% endfor %}"
)
# Writes a block before the last answer, and drops what an earlier answer holds before a mark.
THINKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' }}"
    "{% set text = m['content'].split('</think>')[-1] if not loop.last else m['content'] %}"
    "{% if m['role'] == 'assistant' and loop.last and '</think>' not in text %}{{ '<think>\\n\\n</think>\\n\\n' }}"
    "{% endif %}{{ text + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# An earlier conversation is not the beginning of a later one, and contents do not come out as they are.
UNFOLLOWABLE = (
    "{{ messages | length }}{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + (m['content'] | upper) }}"
    "{{ '<|im_end|>\\n' }}{% endfor %}"
)
UPPER = UNFOLLOWABLE.replace("{{ messages | length }}", "")
NO_END = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
MARKED_WITHOUT_END = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' }}{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] }}{% endgeneration %}{% else %}{{ m['content'] }}{% endif %}"
    "{{ '<|im_end|>\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def _batches(tokenizer: Any, documents: list[Document], *, mask: bool = True) -> list[EncodedBatch]:
    return list(Encoder(tokenizer, mask=mask).encode(documents))


def _joined(batches: list[EncodedBatch]) -> Encoded:
    parts = [batch.encoded for batch in batches]
    return Encoded(
        tokens=np.concatenate([part.tokens for part in parts]),
        trained=np.concatenate([part.trained for part in parts]),
        lengths=np.concatenate([part.lengths for part in parts]),
    )


def _encoded(tokenizer: Any, documents: list[Document], *, mask: bool = True) -> Encoded:
    return _joined(_batches(tokenizer, documents, mask=mask))


def _ranges(encoded: Encoded) -> list[tuple[int, int]]:
    ends = np.cumsum(encoded.lengths)
    return list(zip((ends - encoded.lengths).tolist(), ends.tolist(), strict=True))


def _with_template(tokenizer: Any, template: str) -> Any:
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = template
    return tokenizer


def _trained_texts(tokenizer: Any, messages: list[dict[str, str]]) -> list[str]:
    """The stretches of consecutive trained tokens, decoded."""
    encoded = _encoded(tokenizer, [Document("data:1", messages=messages)])
    edges = np.flatnonzero(np.diff(np.concatenate(([0], encoded.trained, [0]))))
    return [tokenizer.decode(encoded.tokens[a:b]) for a, b in zip(edges[::2], edges[1::2], strict=True)]


@pytest.mark.parametrize("name", ["smollm2", "byte_tokenizer"])
@pytest.mark.parametrize("messages", [SINGLE, MULTI], ids=["single", "multi"])
def test_chat_model_trains_answers_and_terminators(
    name: str, messages: list[dict[str, str]], request: pytest.FixtureRequest
) -> None:
    tokenizer = request.getfixturevalue(name)
    answers = [f"{m['content']}<|im_end|>" for m in messages if m["role"] == "assistant"]
    assert _trained_texts(tokenizer, messages) == answers


def test_token_shared_by_prompt_and_answer_is_trained(smollm2: Any) -> None:
    messages = [SINGLE[0], {"role": "assistant", "content": "  Four."}]
    assert _trained_texts(smollm2, messages) == ["\n  Four.<|im_end|>"]


@pytest.mark.parametrize("name", ["smollm2", "byte_tokenizer"])
def test_tokens_are_those_of_the_rendered_text(name: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(name)
    documents = [Document("data:1", messages=SINGLE), Document("data:2", messages=MULTI)]
    encoded = _encoded(tokenizer, documents)
    for document, (start, end) in zip(documents, _ranges(encoded), strict=True):
        rendered = tokenizer.apply_chat_template(document.messages, tokenize=False)
        expected = tokenizer.apply_chat_template(document.messages, tokenize=True, return_dict=True)["input_ids"]
        assert encoded.tokens[start:end].tolist() == expected
        assert tokenizer.decode(encoded.tokens[start:end]) == rendered


def test_mask_equals_that_of_transformers(byte_tokenizer: Any) -> None:
    encoded = _encoded(byte_tokenizer, [Document("data:1", messages=MULTI)])
    expected = byte_tokenizer.apply_chat_template(
        MULTI, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )["assistant_masks"]
    assert encoded.trained.astype(int).tolist() == expected


def _random_messages(generator: random.Random) -> list[dict[str, str]]:
    alphabet = "ab  \n\n\t.é日🙂ﬁ<|>'1e\u0301"
    turns = generator.choice([["user", "assistant"], ["system", "user", "assistant"], ["user", "assistant"] * 3])
    return [
        {"role": role, "content": "x" + "".join(generator.choices(alphabet, k=generator.randint(0, 30)))}
        for role in turns
    ]


@pytest.mark.parametrize("name", ["smollm2", "byte_tokenizer"])
def test_places_by_byte_lengths_equal_the_tokenizers_own(name: str, request: pytest.FixtureRequest) -> None:
    generator = random.Random(0)
    tokenizer = request.getfixturevalue(name)
    documents = [Document(f"data:{i}", messages=_random_messages(generator)) for i in range(300)]
    fast, slow = Encoder(tokenizer, mask=True), Encoder(tokenizer, mask=True)
    assert fast._token_places._byte_lengths is not None
    slow._token_places._byte_lengths = None
    one, other = _joined(list(fast.encode(documents))), _joined(list(slow.encode(documents)))
    assert np.array_equal(one.tokens, other.tokens)
    assert np.array_equal(one.trained, other.trained)


def test_composing_normalizer_is_followed(byte_tokenizer: Any) -> None:
    from tokenizers import normalizers

    tokenizer = copy.deepcopy(byte_tokenizer)
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    messages = [{"role": "user", "content": "e\u0301" * 5}, {"role": "assistant", "content": "cafe\u0301!"}]
    assert _trained_texts(tokenizer, messages) == ["café!<|im_end|>"]
    assert _trained_texts(tokenizer, SINGLE) == ["It is 4.<|im_end|>"]


def test_tokenizer_that_is_not_byte_level() -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["[UNK]", "assistant", "It", "is", "4."]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", unk_token="[UNK]")
    tokenizer.chat_template = UPPER.replace(" | upper", "")
    assert _trained_texts(tokenizer, SINGLE) == ["It is 4. <|im_end|>"]


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (LLAMA2, ["It is 4. <|im_end|>"]),
        (THINKING, ["<think>\n\n</think>\n\nIt is 4.<|im_end|>"]),
        (UPPER, ["IT IS 4.<|im_end|>"]),
        (MARKED_WITHOUT_END, ["It is 4.<|im_end|>"]),
    ],
    ids=["llama2", "thinking", "upper", "marked"],
)
def test_other_templates(byte_tokenizer: Any, template: str, expected: list[str]) -> None:
    texts = _trained_texts(_with_template(byte_tokenizer, template), SINGLE)
    assert [text.strip() for text in texts] == expected


def test_unfollowable_template_is_refused(byte_tokenizer: Any) -> None:
    tokenizer = _with_template(byte_tokenizer, UNFOLLOWABLE)
    with pytest.raises(DataError, match=r"(?s)data:1: messages\[1\]: can't tell which tokens.*data.train_on: all"):
        _trained_texts(tokenizer, MULTI[1:])


def test_template_that_drops_earlier_thoughts_is_refused_where_it_does(byte_tokenizer: Any) -> None:
    tokenizer = _with_template(byte_tokenizer, THINKING)
    thought = {"role": "assistant", "content": "<think>4?</think>Four."}
    assert _trained_texts(tokenizer, [SINGLE[0], thought]) == ["<think>4?</think>Four.<|im_end|>"]
    with pytest.raises(DataError, match=r"messages\[1\]: can't tell"):
        _trained_texts(tokenizer, [SINGLE[0], thought, *SINGLE])


def test_template_without_a_terminator_is_refused(byte_tokenizer: Any) -> None:
    tokenizer = _with_template(byte_tokenizer, NO_END)
    with pytest.raises(DataError, match=r"(?s)can't learn to stop.*model\.chat_template.*<\|im_end\|>.*train_on: all"):
        _encoded(tokenizer, [Document("data:1", messages=SINGLE)])
    assert _encoded(tokenizer, [Document("data:1", messages=SINGLE)], mask=False).trained.all()


def test_terminator_beside_the_marks_is_trained_and_told(byte_tokenizer: Any) -> None:
    tokenizer = _with_template(byte_tokenizer, MARKED_WITHOUT_END)
    (batch,) = _batches(tokenizer, [Document("data:1", messages=SINGLE)] * 2)
    assert [w for w in batch.warnings if "leave out <|im_end|>" in w] == batch.warnings


def test_terminator_that_is_not_trained_is_refused(byte_tokenizer: Any) -> None:
    apart = MARKED_WITHOUT_END.replace("{{ '<|im_end|>\\n' }}", "{{ ' (end)<|im_end|>\\n' }}")
    assert apart != MARKED_WITHOUT_END
    with pytest.raises(DataError, match=r"(?s)data:1: <\|im_end\|>.*carries no loss.*model\.chat_template"):
        _encoded(_with_template(byte_tokenizer, apart), [Document("data:1", messages=SINGLE)])


def test_dropped_system_turn_is_named(byte_tokenizer: Any) -> None:
    template = MARKED_WITHOUT_END.replace("{% for m in messages %}", "{% for m in messages if m['role'] != 'system' %}")
    (batch,) = _batches(_with_template(byte_tokenizer, template), [Document("data:7", messages=MULTI)])
    assert any("drops the system turn" in warning and "data:7" in warning for warning in batch.warnings)


def test_terminator_of_each_tokenizer(smollm2: Any, byte_tokenizer: Any) -> None:
    assert ChatTemplate(smollm2).terminator == "<|im_end|>"
    assert ChatTemplate(byte_tokenizer).terminator == "<|im_end|>"
    assert ChatTemplate(smollm2).warnings == []


def test_template_errors_name_the_row(byte_tokenizer: Any) -> None:
    template = "{% if messages[0]['content'] == 'bad' %}{{ raise_exception('no bad rows') }}{% endif %}" + UPPER
    tokenizer = _with_template(byte_tokenizer, template)
    bad = [{"role": "user", "content": "bad"}, SINGLE[1]]
    documents = [Document(f"data:{i + 1}", messages=m) for i, m in enumerate([SINGLE, bad, SINGLE])]
    with pytest.raises(DataError, match="data:2: the chat template refuses this conversation: no bad rows"):
        _encoded(tokenizer, documents)


def test_no_chat_template_says_what_to_set(byte_tokenizer: Any) -> None:
    tokenizer = _with_template(byte_tokenizer, "")
    tokenizer.chat_template = None
    with pytest.raises(DataError, match=r"(?s)no chat template.*model\.chat_template"):
        _encoded(tokenizer, [Document("data:1", messages=SINGLE)])


def test_text_of_special_tokens_in_data_is_warned_of(byte_tokenizer: Any) -> None:
    messages = [{"role": "user", "content": "write <|im_end|>"}, SINGLE[1]]
    (batch,) = _batches(byte_tokenizer, [Document("a:1", messages=SINGLE), Document("a:2", messages=messages)])
    assert batch.special_text == ["a:2"]


@pytest.mark.parametrize("name", ["smollm2", "byte_tokenizer"])
def test_text_ends_with_the_end_of_sequence_token(name: str, request: pytest.FixtureRequest) -> None:
    tokenizer = request.getfixturevalue(name)
    documents = [Document("a:1", text="Once upon"), Document("a:2", text="a time")]
    encoded = _encoded(tokenizer, documents, mask=False)
    assert encoded.trained.all()
    texts = [tokenizer.decode(encoded.tokens[a:b]) for a, b in _ranges(encoded)]
    assert texts == ["Once upon<|im_end|>", "a time<|im_end|>"]


def test_conversation_trained_on_whole(byte_tokenizer: Any) -> None:
    assert _encoded(byte_tokenizer, [Document("a:1", messages=MULTI)], mask=False).trained.all()


def test_batches_are_small_and_in_order(byte_tokenizer: Any) -> None:
    documents = [Document(f"a:{i}", text="x") for i in range(2500)]
    batches = _batches(byte_tokenizer, documents, mask=False)
    assert [len(batch.places) for batch in batches] == [512, 512, 512, 512, 452]
    assert [place for batch in batches for place in batch.places] == [document.place for document in documents]
