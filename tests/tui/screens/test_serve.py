"""The UI in a browser: who gets in, and what Chromium shows."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from nexa.cli.main import main

SECONDS = 60.0
CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)


@pytest.fixture
def served(project: Path, tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Starts `nexa tui --serve` with further arguments and returns its link."""
    processes: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> str:
        process = subprocess.Popen(
            [sys.executable, "-m", "nexa.cli.main", "tui", "--serve", "--port", "0", *arguments],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        processes.append(process)
        assert process.stdout is not None
        for line in process.stdout:
            found = re.search(r"http://\S+", line)
            if found:
                return found.group()
        raise AssertionError(f"it ended with exit code {process.wait()}")

    yield start
    for process in processes:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(SECONDS)


def _get(link: str, path: str, **headers: str) -> http.client.HTTPResponse:
    """The answer to one request, with headers as they are given."""
    connection = http.client.HTTPConnection(*re.search(r"//(.+?):(\d+)", link).groups(), timeout=SECONDS)
    connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    return connection.getresponse()


def test_only_who_holds_the_link_gets_in(served):
    """No token, a wrong one, another host name, another page's socket: 403. The page loads nothing from elsewhere."""
    link = served()
    path = link.partition("//")[2].partition("/")[2]
    host = link.split("/")[2]
    assert _get(link, "/").status == 403
    assert _get(link, "/?token=guess").status == 403
    assert _get(link, f"/{path}", Host="evil.example:80").status == 403
    entered = _get(link, f"/{path}")
    assert (entered.status, entered.getheader("Location")) == (302, "/")
    cookie = entered.getheader("Set-Cookie")
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    cookie = cookie.partition(";")[0]
    page = _get(link, "/", Cookie=cookie)
    assert page.status == 200
    assert "frame-ancestors 'none'" in page.getheader("Content-Security-Policy")
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec_WebSocket_Version": "13"}
    key = {"Sec_WebSocket_Key": base64.b64encode(b"x" * 16).decode()}
    for origin in ({"Origin": "http://evil.example"}, {}, {"Origin": "http://localhost:1"}):
        assert _get(link, "/ws", Cookie=cookie, **upgrade, **key, **origin).status == 403
    assert _get(link, "/ws", **upgrade, **key, Origin=f"http://{host}").status == 403
    assert _get(link, "/ws", Cookie=cookie, **upgrade, **key, Origin=f"http://{host}").status == 101


def test_what_can_not_be_served_is_said(project, capsys):
    """Before a browser is opened."""
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main(["tui", "--serve", "--port", str(taken.getsockname()[1])]) == 2
    assert "--port 0" in capsys.readouterr().err
    assert main(["tui", "--serve", "--run", "nothing"]) == 2
    assert main(["tui", "--port", "1"]) == 2
    assert main(["tui", "--serve", "--readonly", "--allow-actions"]) == 2


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_two_runs_side_by_side_in_chromium(project, served):
    """The real page in a real browser: the Compare screen over two runs, read-only; the picture goes to $NEXA_SHOTS."""
    for name, steps in (("slow", "30"), ("long", "60")):
        subprocess.run(
            [
                sys.executable,
                "-m",
                "nexa.cli.main",
                "launch",
                "tiny",
                f"run.name={name}",
                f"training.max_steps={steps}",
            ],
            check=True,
            capture_output=True,
        )
    picture = asyncio.run(_picture_of(served(), keys="4", wanted=b"baseline"))
    assert picture.startswith(b"\x89PNG")
    folder = os.environ.get("NEXA_SHOTS")
    if folder:
        Path(folder, "chromium.png").write_bytes(picture)


async def _picture_of(link: str, *, keys: str, wanted: bytes) -> bytes:
    """Open the link in headless Chromium, type keys, wait until the terminal was sent `wanted`, take a picture."""
    with tempfile.TemporaryDirectory() as profile:
        arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--remote-debugging-port=0",
            "--window-size=1400,800",
        ]
        browser = subprocess.Popen(
            [str(CHROMIUM), *arguments, f"--user-data-dir={profile}", "about:blank"], stderr=subprocess.DEVNULL
        )
        try:
            port_file = Path(profile, "DevToolsActivePort")
            deadline = time.monotonic() + SECONDS
            while not port_file.exists() or not port_file.read_text().strip():
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
            async with aiohttp.ClientSession() as session:
                base = f"http://127.0.0.1:{port_file.read_text().split()[0]}"
                [page] = [p for p in await (await session.get(f"{base}/json")).json() if p["type"] == "page"]
                async with session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                    return await _drive(socket, link, keys=keys, wanted=wanted)
        finally:
            browser.terminate()
            browser.wait(SECONDS)


async def _drive(socket: Any, link: str, *, keys: str, wanted: bytes) -> bytes:
    number = 0
    received = b""

    async def call(method: str, **params: Any) -> dict[str, Any]:
        nonlocal number
        number += 1
        mine = number
        await socket.send_json({"id": mine, "method": method, "params": params})
        while True:
            message = await receive()
            if message.get("id") == mine:
                return message.get("result", {})

    async def receive() -> dict[str, Any]:
        nonlocal received
        message = json.loads((await socket.receive(timeout=SECONDS)).data)
        if message.get("method") == "Network.webSocketFrameReceived":
            response = message["params"]["response"]
            data = response["payloadData"]
            received += base64.b64decode(data) if response["opcode"] == 2 else data.encode()
        return message

    async def until(text: bytes) -> None:
        deadline = time.monotonic() + SECONDS
        while text not in received:
            assert time.monotonic() < deadline, received[-500:]
            await receive()

    await call("Network.enable")
    await call("Page.enable")
    await call("Page.navigate", url=link)
    await until(b"Compare")
    await call("Runtime.evaluate", expression="document.querySelector('.xterm-helper-textarea').focus()")
    await call("Input.insertText", text=keys)
    await until(wanted)
    await until(b"read-only")
    # The page draws what it was sent in frames of its own.
    for _ in range(3):
        await call(
            "Runtime.evaluate",
            expression="new Promise(done => requestAnimationFrame(() => setTimeout(done, 300)))",
            awaitPromise=True,
        )
    return base64.b64decode((await call("Page.captureScreenshot", format="png"))["data"])
