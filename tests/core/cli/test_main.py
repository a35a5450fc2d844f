"""The frame of the command line: help without imports, exit codes, and what errors look like."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys

import click
import pytest

from nexa import __version__
from nexa.cli import main as cli
from nexa.errors import NexaError, UserError


def nexa(*arguments, **variables):
    return subprocess.run(
        [sys.executable, "-m", "nexa.cli.main", *arguments],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def failing(monkeypatch):
    """Makes `nexa plugins` raise."""

    def install(error):
        @click.command()
        def command():
            raise error

        monkeypatch.setattr(cli.LazyGroup, "get_command", lambda self, context, name: command)

    return install


def test_help_lists_every_command():
    answer = nexa("--help")
    assert answer.returncode == 0
    for name, entry in cli.COMMANDS.items():
        assert any(line.split() == [name, *entry.help.split()] for line in answer.stdout.splitlines()), name


def test_no_arguments_print_the_help():
    assert nexa().stdout == nexa("--help").stdout


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_of_the_table_exists_and_explains_itself(name):
    module, _, attribute = cli.COMMANDS[name].target.partition(":")
    command = getattr(importlib.import_module(module), attribute)
    assert isinstance(command, click.Command)
    assert command.help


def test_version():
    assert nexa("--version").stdout == f"nexa {__version__}\n"


def test_an_unknown_command_names_the_nearest():
    answer = nexa("lanch")
    assert answer.returncode == 2
    assert "there is no command 'lanch'; did you mean `nexa launch`?" in answer.stderr


def test_an_unknown_option_is_a_user_error():
    answer = nexa("plugins", "--jsn")
    assert answer.returncode == 2
    assert "--json" in answer.stderr


@pytest.mark.parametrize(("error", "code"), [(NexaError("disk full"), 1), (UserError("no such file"), 2)])
def test_expected_errors_are_one_message(failing, capsys, error, code):
    failing(error)
    assert cli.main(["plugins"]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"error: {error}\n"


def test_error_text_can_not_drive_the_terminal(failing, capsys):
    failing(UserError("bad\x1b]0;owned\x07 name", hint="\u202etxt"))
    cli.main(["plugins"])
    err = capsys.readouterr().err
    assert not {"\x1b", "\x07", "\u202e"} & set(err)


def test_a_bug_is_short_and_keeps_its_traceback(failing, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    failing(ZeroDivisionError("1/0"))
    assert cli.main(["plugins"]) == 70
    err = capsys.readouterr().err
    assert "internal error: ZeroDivisionError: 1/0" in err
    assert "Traceback (most recent call last)" not in err
    (kept,) = tmp_path.glob("nexa-traceback-*.txt")
    assert str(kept) in err
    assert "ZeroDivisionError" in kept.read_text()
    assert kept.stat().st_mode & 0o077 == 0


def test_debug_prints_the_traceback(failing, capsys, monkeypatch):
    monkeypatch.setenv("NEXA_DEBUG", "1")
    failing(ZeroDivisionError("1/0"))
    assert cli.main(["plugins"]) == 70
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_ctrl_c_ends_with_130(failing, capsys):
    failing(KeyboardInterrupt())
    assert cli.main(["plugins"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_a_reader_that_leaves_is_no_error():
    script = f"{sys.executable} -m nexa.cli.main plugins --json | head -c 1; exit ${{PIPESTATUS[0]}}"
    answer = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert answer.stdout == "["
    assert answer.stderr == ""
    assert answer.returncode in (0, 141)
