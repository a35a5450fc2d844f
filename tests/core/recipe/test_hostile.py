"""Hostile recipe files: nothing runs, little time and memory, exit code 2, one place named."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nexa.errors import RecipeError
from nexa.recipe.load import load_recipe

from .conftest import BASE

SECONDS = 1.0
PEAK_KIB = 200 * 1024

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)
)


def _python_tags(canary: str) -> dict[str, str]:
    touch = f"touch {canary}"
    return {
        "object-apply": f"x: !!python/object/apply:os.system ['{touch}']\n",
        "object-new": f"x: !!python/object/new:os.system ['{touch}']\n",
        "object": "x: !!python/object:os.stat_result {}\n",
        "name": "x: !!python/name:os.system\n",
        "module": "x: !!python/module:antigravity\n",
        "subprocess": f"x: !!python/object/apply:subprocess.check_output [['touch', '{canary}']]\n",
        "eval": f"x: !!python/object/apply:eval [\"open('{canary}', 'w')\"]\n",
        "full-uri": f"x: !<tag:yaml.org,2002:python/object/apply:os.system> ['{touch}']\n",
        "tag-directive": f"%TAG ! tag:yaml.org,2002:python/\n---\nx: !object/apply:os.system ['{touch}']\n",
        "local-tag": "x: !Ref y\n",
        "bare-tag": "x: ! y\n",
        "binary": "x: !!binary aGk=\n",
        "set": "x: !!set {a, b}\n",
        "omap": "x: !!omap [a: 1]\n",
        "timestamp": "x: !!timestamp 2026-01-01\n",
        "int-tag": "x: !!int '3'\n",
        "root-tag": "!!python/dict {method: sft}\n",
        "key-tag": "!!python/name:os.system x: 1\n",
        "jinja-key": "{{ cycler.__init__.__globals__.os.system('id') }}: 1\n",
        "interpolation": "model: {name: $(touch canary)}\nmethod: ${oc.env:HOME}\n",
    }


HOSTILE: dict[str, bytes | str] = {
    "alias-bomb": BOMB,
    "alias": "a: &x 1\nb: *x\n",
    "alias-cycle": "a: &x [*x]\n",
    "alias-undefined": "a: *nothing\n",
    "alias-key": "a: &x k\n*x : 1\n",
    "anchors": "&a " * 20_000,
    "merge-key": "base: {a: 1}\nmodel:\n  <<: {name: x}\n",
    "merge-alias": "base: &b {a: 1}\nmodel:\n  <<: *b\n",
    "deep-flow-list": "a: " + "[" * 10_000,
    "deep-flow-map": "a: " + "{b: " * 10_000,
    "deep-closed": "a: " + "[" * 200 + "]" * 200,
    "deep-block-list": "- " * 10_000,
    "deep-block-map": "\n".join(" " * i + "a:" for i in range(300)),
    "deep-explicit-key": "? " * 10_000,
    "deep-mixed": "[{" * 10_000,
    "deep-json-in-meta": BASE + "meta: " + '{"a": ' * 500 + "1" + "}" * 500,
    "many-keys": "".join(f"k{i}: v\n" for i in range(6_000)),
    "many-values": "a: [" + "1," * 15_000 + "]",
    "many-unknown-keys": BASE + "training:\n" + "".join(f"  max_step{i}: 1\n" for i in range(1_500)),
    "many-wrong-values": BASE + "samples: {prompts: [" + "1," * 3_500 + "]}",
    "many-plugin-names": BASE + "tracking: {observers: [" + ",".join(f"tensor{i}" for i in range(3_500)) + "]}",
    "ten-megabytes": b"a: " + b"x" * 10_000_000,
    "duplicate-key": BASE + "method: pretrain\n",
    "duplicate-nested": BASE + "training: {seed: 1, seed: 2}\n",
    "duplicate-quoted": "a: 1\n'a': 2\n",
    "nul": BASE.encode() + b"run: {name: a\x00b}\n",
    "nul-first": b"\x00",
    "escape": BASE.encode() + b"run: {name: \x1b[31m}\n",
    "bell": b"a: \x07\n",
    "delete": b"a: \x7f\n",
    "c1": "a: \x9b31m\n",
    "bad-utf8": BASE.encode() + b"run: {name: \xff\xfe}\n",
    "overlong-utf8": b"a: \xc0\xaf\n",
    "cut-utf8": b"a: \xe2\x82",
    "utf16": "method: sft\n".encode("utf-16"),
    "latin1": "name: café\n".encode("latin-1"),
    "surrogate-escape": 'a: "\\ud800"\n',
    "beyond-unicode": 'a: "\\U00110000"\n',
    "bad-escape": 'a: "\\q"\n',
    "tab-indent": "a:\n\tb: 1\n",
    "tab-in-block": BASE + "training:\n  seed: 1\n\tepochs: 1\n",
    "unclosed-quote": "a: 'x\n",
    "unclosed-bracket": "a: [1, 2\n",
    "unclosed-brace": "a: {b: 1\n",
    "stray-bracket": "a: ]\n",
    "reserved-at": "a: @x\n",
    "reserved-backtick": "a: `id`\n",
    "percent": "a: %x\n",
    "two-documents": BASE + "---\n" + BASE,
    "many-documents": "---\n" * 10_000,
    "yaml-1.1": "%YAML 1.1\n---\nmethod: sft\n",
    "yaml-99": "%YAML 99.99\n---\nmethod: sft\n",
    "huge-version": "%YAML " + "9" * 10_000 + ".1\n---\nmethod: sft\n",
    "nan": BASE + "optimizer: {lr: .nan}\n",
    "infinity": BASE + "optimizer: {lr: .inf}\n",
    "minus-infinity": BASE + "meta: {x: -.INF}\n",
    "overflow": BASE + "optimizer: {lr: 1e999}\n",
    "huge-integer": BASE + "training: {seed: " + "9" * 20_000 + "}\n",
    "wide-integer": BASE + "training: {seed: 99999999999999999999}\n",
    "negative": BASE + "training: {max_steps: -1}\n",
    "empty": "",
    "only-comment": "# nothing\n",
    "only-null": "~\n",
    "list-root": "- method\n- sft\n",
    "text-root": "just text\n",
    "number-root": "42\n",
    "list-key": "[a, b]: 1\n",
    "map-key": "{a: b}: 1\n",
    "null-key": "~: 1\n",
    "number-key": "1: x\n",
    "unknown-key": BASE + "colour: red\n",
    "dunder-keys": BASE + "__class__: x\n__init__: {__globals__: 1}\n",
    "plugin-options": BASE + "plugin_options: {torch: {}}\n",
    "long-key": "k" * 5_000 + ": 1\n",
    "long-comment": "#" * 60_000,
    "blank-lines": "\n" * 60_000,
    "folded-quote": 'a: "' + "x\n" * 30_000 + '"',
    "carriage-returns": "\r" * 60_000,
    "extends-itself": BASE + "extends: ./extends-itself.yaml\n",
    "extends-device": BASE + "extends: /dev/zero.yaml\n",
    "extends-number": BASE + "extends: 3\n",
    "extends-climb": BASE + "extends: ../../../../../../etc/passwd.yaml\n",
    "name-injection": BASE + "run: {name: '$(id); rm -rf /'}\n",
    "name-newline": BASE + 'run: {name: "a\\n#SBATCH --x"}\n',
    "bidi-name": BASE + "run: {name: 'a\u202eb'}\n",
}


def _write(folder: Path, canary: Path) -> list[Path]:
    files = {**HOSTILE, **{f"tag-{name}": text for name, text in _python_tags(str(canary)).items()}}
    paths = []
    for name, content in files.items():
        path = folder / f"{name}.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
        paths.append(path)
    return paths


def test_each_is_refused_quickly_with_its_place(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    paths = _write(tmp_path, canary)
    assert len(paths) >= 60
    for path in paths:
        start = time.process_time()
        with pytest.raises(RecipeError) as caught:
            load_recipe(path)
        assert time.process_time() - start < SECONDS, path.name
        assert caught.value.exit_code == 2
        message = str(caught.value)
        assert re.match(rf"{re.escape(str(path))}:\d+:\d+: ", message), message[:200]
        assert len(message) < 30_000, path.name
        assert "Traceback" not in message
    assert not canary.exists()


def test_the_command_ends_with_code_2_in_little_memory(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    paths = _write(tmp_path, canary)
    script = (
        "import re, sys\n"
        "from nexa.cli.main import main\n"
        "code = main(['recipe', 'validate', *sys.argv[1:]])\n"
        # Unlike getrusage, this does not count what the parent held when it forked.
        "print('PEAK', re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
        "sys.exit(code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, paths)], capture_output=True, timeout=120, check=False
    )
    assert done.returncode == 2, done.stderr[-2000:]
    assert b"Traceback" not in done.stderr
    assert b"\x1b" not in done.stdout + done.stderr
    peak = int(done.stdout.rsplit(b"PEAK", 1)[1])
    assert peak < PEAK_KIB, f"{peak} KiB"
    assert not canary.exists()


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_AS"), reason="needs POSIX")
def test_what_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
    import os

    fifo = tmp_path / "pipe.yaml"
    os.mkfifo(fifo)
    link = tmp_path / "zero.yaml"
    link.symlink_to("/dev/zero")
    folder = tmp_path / "folder.yaml"
    folder.mkdir()
    for path in (fifo, link, folder):
        with pytest.raises(RecipeError, match="not a regular file"):
            load_recipe(path)
