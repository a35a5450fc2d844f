"""Text from outside: nothing drives the terminal, nothing secret stays."""

from __future__ import annotations

import sys
import unicodedata

import pytest

from nexa.text import REDACTED, is_secret_name, redact_arguments, redactor, sanitize, sanitize_line


def test_escapes_are_shown_instead_of_obeyed():
    assert sanitize("\x1b[2J\x1b]0;title\x07") == "␛[2J␛]0;title␇"
    assert sanitize("a\rb\x7f\x9b31m") == "a␍b␡<U+009B>31m"
    assert sanitize("a\r\nb\tc") == "a\nb\tc"
    assert sanitize_line("a\nb") == "a␤b"


@pytest.mark.parametrize("text", ["plain", "é 漢字 😀 🇩🇪", "a\tb\nc", "नमस्ते", "👩‍👩‍👧"])
def test_innocent_text_stays(text):
    assert sanitize(text) == text


def test_no_character_that_moves_or_reorders_passes():
    for code in range(sys.maxunicode + 1):
        shown = sanitize(chr(code))
        for character in shown:
            kind = unicodedata.category(character)
            assert kind not in ("Cc", "Cs") or character in "\t\n", hex(code)
            assert unicodedata.bidirectional(character) not in {
                "LRE",
                "RLE",
                "LRO",
                "RLO",
                "PDF",
                "LRI",
                "RLI",
                "FSI",
                "PDI",
            }
        assert sanitize(shown) == shown


@pytest.mark.parametrize(
    "name", ["HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "wandb_api_key", "DB_PASSWORD", "OPENAI_KEY", "MY_AUTH"]
)
def test_secret_names(name):
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name", ["PATH", "TOKENIZERS_PARALLELISM", "max_new_tokens", "model_tokenizer", "KEYBOARD", "MONKEY"]
)
def test_innocent_names(name):
    assert not is_secret_name(name)


def test_values_of_secret_variables_vanish_wherever_they_stand():
    clean = redactor({"HF_TOKEN": "hf_abcdefgh", "X_SECRET": "abcdefgh-longer", "API_KEY": "1", "HOME": "/home/me"})
    assert clean("x hf_abcdefgh y abcdefgh-longer z 1 /home/me") == f"x {REDACTED} y {REDACTED} z 1 /home/me"


@pytest.mark.parametrize(
    ("text", "gone"),
    [
        ("git clone https://me:s3cret@host/x", "s3cret"),
        ("s3://AKIA123:topsecret@bucket/key", "topsecret"),
        ("https://ghp_tokentoken@github.com/x", "ghp_tokentoken"),
        ("Authorization: Bearer abc.def-ghi123", "abc.def-ghi123"),
        ("api_key=sk-1234567890", "sk-1234567890"),
        ('{"password": "correct horse"}', "correct"),
        ("access-token: ya29.abcdef", "ya29.abcdef"),
    ],
)
def test_well_known_forms_of_secrets_vanish(text, gone):
    assert gone in text
    assert gone not in redactor({})(text)


@pytest.mark.parametrize(
    "text", ["https://host/a@b", "tokens_per_second=812.3", "tokenizer: smollm2", "user@host: ok", "key: value"]
)
def test_innocent_text_is_not_redacted(text):
    assert redactor({})(text) == text


def test_command_lines_lose_their_secrets():
    argv = [
        "nexa",
        "launch",
        "x",
        "--api-key",
        "abc",
        "--hub-token=abc",
        "meta.password=abc",
        "model.tokenizer=bytes",
        "--steps",
        "3",
    ]
    shown = redact_arguments(argv)
    assert "abc" not in " ".join(shown)
    assert shown[-3:] == ["model.tokenizer=bytes", "--steps", "3"]
    assert len(shown) == len(argv)
