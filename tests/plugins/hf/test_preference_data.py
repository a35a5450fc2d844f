"""Preference rows: what they become, and every flaw named by file, row and field."""

import json

import pytest

from nexa.errors import DataError
from nexa.recipe.schema import Recipe
from nexa_hf.methods.dpo import load_pairs
from nexa_hf.methods.grpo import load_prompts
from nexa_hf.methods.kto import load_judged
from nexa_hf.methods.reward import load_whole_pairs
from nexa_hf.preference_preview import preview_examples
from nexa_torch.data.preferences import parse_examples
from nexa_torch.data.readers import read_file
from nexa_torch.data.streaming import silent

PAIR = {"prompt": "Name a colour.", "chosen": "Blue.", "rejected": "Seven."}
ASKED = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name a colour."}]
BLUE, SEVEN = ({"role": "assistant", "content": text} for text in ("Blue.", "Seven."))
DROPS_SYSTEM = (
    "{% for m in messages %}{% if m.role != 'system' %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture
def write(tmp_path):
    def write(*rows, name="data.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return write


def recipe(path, method="dpo", **sections):
    model = {"name": "llama", "d_model": 32, "n_layers": 1, "n_heads": 2, "tokenizer": "bytes", "max_seq_len": 64}
    return Recipe.model_validate(
        {
            "method": method,
            "backend": "hf",
            "model": {**model, **sections.pop("model", {})},
            "data": {"remote_uri": str(path), **sections.pop("data", {})},
            **sections,
        }
    )


def parse(path, layout):
    return list(parse_examples(read_file(path), layout))


def test_text_becomes_turns(write):
    (example,) = parse(write({**PAIR, "system": "Be brief."}), "preference")
    assert example.prompt == ASKED
    assert example.answers == ([BLUE], [SEVEN])


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": ASKED, "chosen": [BLUE], "rejected": [SEVEN]},
        {"prompt": ASKED, "chosen": [*ASKED, BLUE], "rejected": [*ASKED, SEVEN]},
        {"chosen": [*ASKED, BLUE], "rejected": [*ASKED, SEVEN]},
        {"prompt": ASKED, "chosen": "Blue.", "rejected": "Seven."},
    ],
    ids=["answers", "repeated prompt", "implied prompt", "text answers"],
)
def test_conversations_in_all_their_forms(write, row):
    (example,) = parse(write(row), "preference")
    assert (example.prompt, example.answers) == (ASKED, ([BLUE], [SEVEN]))


FLAWS = {
    "no rejected": ({"prompt": "a", "chosen": "b"}, r":2: rejected: missing; a pair needs an answer that is worse"),
    "null rejected": ({**PAIR, "rejected": None}, r":2: rejected: missing"),
    "empty rejected": ({**PAIR, "rejected": "  "}, r":2: rejected: empty"),
    "empty chosen": ({**PAIR, "chosen": []}, r":2: chosen: empty; a pair needs an answer that is better"),
    "identical": ({**PAIR, "rejected": " Blue. "}, r":2: chosen and rejected are the same answer"),
    "identical turns": (
        {"chosen": [*ASKED, BLUE], "rejected": [*ASKED, BLUE]},
        r":2: chosen and rejected are the same answer",
    ),
    "one longer": (
        {"chosen": [*ASKED, BLUE], "rejected": [*ASKED, BLUE, ASKED[1], SEVEN]},
        r":2: chosen and rejected are the same answer",
    ),
    "no prompt": ({"chosen": "b", "rejected": "c"}, r":2: prompt: missing"),
    "empty prompt": ({**PAIR, "prompt": ""}, r":2: prompt: the text is empty"),
    "nothing shared": (
        {"chosen": [ASKED[1], BLUE], "rejected": [{"role": "user", "content": "x"}, SEVEN]},
        r":2: chosen and rejected share no beginning",
    ),
    "number": ({**PAIR, "chosen": 3}, r":2: chosen: must be text, not 3"),
    "prompt ends with an answer": ({**PAIR, "prompt": [ASKED[1], BLUE]}, r":2: prompt: ends with a turn of role"),
    "answer of a user": ({**PAIR, "chosen": [ASKED[1]]}, r":2: chosen: an answer begins and ends with"),
    "unknown role": (
        {**PAIR, "chosen": [{"role": "bot", "content": "x"}]},
        r":2: chosen\[0\]\.role: unknown role 'bot'",
    ),
    "two systems": ({**PAIR, "prompt": ASKED, "system": "x"}, r":2: system: the prompt begins with a system turn"),
}


@pytest.mark.parametrize(("row", "said"), FLAWS.values(), ids=FLAWS)
def test_a_flaw_in_a_pair_names_its_row(write, row, said):
    with pytest.raises(DataError, match=rf"data\.jsonl{said}"):
        parse(write(PAIR, row), "preference")


@pytest.mark.parametrize(
    ("label", "said"),
    [(None, "label: missing"), ("yes", "label: must be true"), (2, "label: must be true"), (0.0, "label: must be")],
)
def test_a_label_is_true_or_false(write, label, said):
    good = {"prompt": "a", "completion": "b", "label": True}
    with pytest.raises(DataError, match=rf"data\.jsonl:2: {said}"):
        parse(write(good, {**good, "label": label}), "unpaired")


def test_pairs_become_good_and_bad_answers_for_kto(write):
    rows = load_judged(recipe(write(PAIR, {**PAIR, "prompt": "Another?"}), "kto"), silent)
    assert [row.example.good for row in rows.train] == [True, False, True, False]
    assert rows.warnings == []
    good = [{"prompt": f"{i}?", "completion": "b", "label": 1} for i in range(2)]
    assert "all answers are good" in load_judged(recipe(write(*good), "kto"), silent).warnings[0]


def test_other_columns_are_the_row_that_rewards_see(write):
    rows = load_prompts(
        recipe(
            write({"prompt": "2 + 2?", "answer": 4, "system": "Add."}), "grpo", rollouts={"max_completion_length": 8}
        ),
        silent,
    )
    (row,) = rows.train
    assert dict(row.example.row) == {"answer": 4}
    assert row.example.prompt[0] == {"role": "system", "content": "Add."}
    assert row.answers == []


def test_tokens_are_those_of_trl(write):
    trl = pytest.importorskip("trl.trainer.dpo_trainer")
    rows = load_pairs(recipe(write(PAIR)), silent)
    (row,) = rows.train
    prompt = [{"role": "user", "content": PAIR["prompt"]}]
    for answer, ids in zip(row.example.answers, row.answers, strict=True):
        asked = trl._tokenize(rows.tokenizer, prompt, add_generation_prompt=True)["input_ids"]
        whole = trl._tokenize(rows.tokenizer, [*prompt, *answer])["input_ids"]
        assert row.prompt == asked
        assert row.prompt + ids == whole


def test_rows_that_do_not_fit_are_counted(write):
    long_prompt = {**PAIR, "prompt": "x" * 80}
    long_answer = {**PAIR, "chosen": "y" * 80}
    rows = load_pairs(recipe(write(PAIR, long_prompt, long_answer)), silent)
    assert (len(rows.train), rows.dropped, rows.cut) == (2, 1, 1)
    assert "left out, prompts that fill a row of 64 tokens: 1 (first: " in rows.warnings[0]
    assert "answers cut to fit a row of 64 tokens: 1 (first: " in rows.warnings[1]
    whole = load_whole_pairs(recipe(write(PAIR, long_answer), "reward"), silent)
    assert (len(whole.train), whole.dropped) == (1, 1)
    with pytest.raises(DataError, match=r"none of 1 examples fits a row of 64 tokens"):
        load_pairs(recipe(write(long_prompt)), silent)
    with pytest.raises(DataError, match=r"none of 1 examples fits"):
        load_prompts(recipe(write(PAIR), "grpo", rollouts={"max_completion_length": 60}), silent)


def test_a_template_that_drops_the_system_turn_is_refused(write, tmp_path):
    template = tmp_path / "drops.jinja"
    template.write_text(DROPS_SYSTEM)
    chosen = {"model": {"chat_template": str(template)}}
    assert len(load_pairs(recipe(write(PAIR), **chosen), silent).train) == 1
    with pytest.raises(DataError, match=r"drops the system turn of conversations, first that of .*data\.jsonl:2"):
        load_pairs(recipe(write(PAIR, {**PAIR, "prompt": ASKED}), **chosen), silent)


def test_answers_that_a_template_makes_equal_are_refused(write, tmp_path):
    template = tmp_path / "upper.jinja"
    template.write_text(DROPS_SYSTEM.replace("{{ m.content }}", "{{ m.content | upper }}"))
    row = {**PAIR, "rejected": "BLUE."}
    with pytest.raises(DataError, match=r"data\.jsonl:1: chosen and rejected become the same tokens"):
        load_pairs(recipe(write(row), model={"chat_template": str(template)}), silent)


def test_the_layout_is_told_from_the_method_and_the_first_row(write):
    with pytest.raises(DataError, match=r"data\.jsonl:1: rejected: missing; the row has 'prompt', 'chosen'"):
        load_pairs(recipe(write({"prompt": "a", "chosen": "b"})), silent)
    with pytest.raises(DataError, match=r"(?s)'text' make no layout that can be trained on here.*\"completion\""):
        load_judged(recipe(write({"text": "a"}), "kto"), silent)


def test_rows_are_held_out_by_seed_or_from_a_file(write):
    rows = [{**PAIR, "prompt": f"Question {i}?"} for i in range(10)]
    data = {"validation": {"fraction": 0.2}}
    first = load_pairs(recipe(write(*rows), data=data), silent)
    assert (len(first.train), len(first.held_out)) == (8, 2)
    again = load_pairs(recipe(write(*rows), data=data), silent)
    assert [row.prompt for row in again.held_out] == [row.prompt for row in first.held_out]
    other = {"validation": {"remote_uri": str(write(PAIR, name="held.jsonl"))}, "max_documents": 3}
    apart = load_pairs(recipe(write(*rows), data=other), silent)
    assert (len(apart.train), len(apart.held_out)) == (3, 1)


def test_the_preview_shows_prompt_and_answers(write):
    shown = preview_examples(recipe(write(PAIR), training={"max_steps": 3}), load_pairs)
    assert len(shown.rows) == 2
    assert "".join(token.text for token in shown.rows[0] if token.trained).startswith("Blue.")
    assert shown.total_steps == 3
    assert shown.trained_tokens == sum(token.trained for row in shown.rows for token in row)


def test_rewards_see_every_column_of_a_parquet_file(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    from pyarrow import table

    path = tmp_path / "sums.parquet"
    parquet.write_table(table({"prompt": ["2 + 2?"], "answer": [4], "level": ["easy"]}), path)
    (row,) = load_prompts(recipe(path, "grpo", rollouts={"max_completion_length": 8}), silent).train
    assert dict(row.example.row) == {"answer": 4, "level": "easy"}
