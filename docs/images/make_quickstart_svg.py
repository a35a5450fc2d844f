#!/usr/bin/env python3
"""Remakes quickstart.svg: a picture of what `make quickstart` prints on a terminal.

    .venv/bin/python docs/images/make_quickstart_svg.py [COMMAND...]

Runs the command (default: make quickstart) on a pseudo-terminal of 100 columns, and draws the lines that remain
on the screen. Takes as long as the command. Linux and macOS.
"""

from __future__ import annotations

import io
import os
import pty
import re
import struct
import sys
from pathlib import Path

COLUMNS = 100
TARGET = Path(__file__).with_name("quickstart.svg")
_REDRAW = re.compile(rb"\r\x1b\[2K")
_CONTROL = re.compile(rb"\x1b\[\?[0-9;]*[a-zA-Z]|\x1b\[[0-9]*[A-HJKST]")


def record(command: list[str]) -> bytes:
    """Everything the command writes to a terminal. SystemExit when it fails."""
    size = struct.pack("HHHH", 50, COLUMNS, 0, 0)
    output = bytearray()

    def read(descriptor: int) -> bytes:
        data = os.read(descriptor, 65536)
        output.extend(data)
        return data

    os.environ.update({"COLUMNS": str(COLUMNS), "TERM": "xterm-256color", "COLORTERM": "truecolor"})
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvp(command[0], command)
    import fcntl
    import termios

    fcntl.ioctl(terminal, termios.TIOCSWINSZ, size)
    try:
        while read(terminal):
            pass
    except OSError:  # Linux reports the end of a terminal as an error.
        pass
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status:
        sys.exit(f"{' '.join(command)} ended with exit code {status}:\n{output.decode(errors='replace')[-2000:]}")
    return bytes(output)


def remaining_lines(output: bytes) -> list[str]:
    """The lines that stay on the screen: of a line that is redrawn, the last state."""
    lines = []
    for line in output.replace(b"\r\n", b"\n").split(b"\n"):
        shown = _CONTROL.sub(b"", _REDRAW.split(line)[-1]).split(b"\r")[-1]
        lines.append(shown.decode(errors="replace").rstrip())
    return lines


def draw(lines: list[str]) -> None:
    """Write the picture."""
    from rich.console import Console
    from rich.terminal_theme import MONOKAI
    from rich.text import Text

    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    for line in lines:
        console.print(Text.from_ansi(line), soft_wrap=False)
    picture = console.export_svg(title="make quickstart", theme=MONOKAI)
    # A picture in a page must not fetch fonts; without them the viewer's own monospace is used.
    TARGET.write_text(re.sub(r"\s*@font-face \{.*?\}", "", picture, flags=re.DOTALL), encoding="utf-8")


def main() -> None:
    """Record, draw, say where."""
    command = sys.argv[1:] or ["make", "quickstart"]
    draw([f"$ {' '.join(command)}", *remaining_lines(record(command))])
    print(TARGET)


if __name__ == "__main__":
    main()
