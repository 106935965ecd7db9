"""A page opened in headless Chromium, driven over its own debugging protocol: clicks, scripts, errors, requests."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Browser:
    """A page of headless Chromium, driven over its own debugging protocol."""

    def __init__(self, socket: Any) -> None:
        self.socket = socket
        self.sent = 0
        self.problems: list[str] = []
        self.requested: list[str] = []

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self.sent += 1
        await self.socket.write_message(json.dumps({"id": self.sent, "method": method, "params": parameters}))
        while True:
            message = json.loads(await self.socket.read_message())
            if message.get("id") == self.sent:
                assert "error" not in message, message
                return message["result"]
            self.note(message)

    def note(self, message: dict[str, Any]) -> None:
        kind, given = message["method"], message["params"]
        if kind == "Runtime.exceptionThrown" or (
            kind == "Runtime.consoleAPICalled" and given["type"] == "error"
        ):
            self.problems.append(json.dumps(given))
        if kind == "Log.entryAdded" and given["entry"]["level"] == "error":
            self.problems.append(given["entry"]["text"])
        if kind == "Network.requestWillBeSent":
            self.requested.append(given["request"]["url"])

    async def js(self, code: str) -> Any:
        found = await self.call("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def open(self, page: Path) -> float:
        """Open the page and return the milliseconds until it was drawn."""
        await self.call("Page.navigate", url=page.resolve().as_uri())
        until = time.monotonic() + 60
        while not (ready := await self.js("document.body && document.body.dataset.ready")):
            assert time.monotonic() < until, self.problems
            await asyncio.sleep(0.05)
        return float(ready)

    async def mouse(self, kind: str, x: float, y: float) -> None:
        pressed = {"button": "left", "clickCount": 1} if kind != "mouseMoved" else {}
        await self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **pressed)

    async def click(self, x: float, y: float) -> None:
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            await self.mouse(kind, x, y)


def in_browser(page: Path, folder: Path, script: Any) -> Browser:
    from tornado.websocket import websocket_connect

    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1400,900"]
    options = [f"--user-data-dir={folder}", "--remote-debugging-port=0", "--no-first-run", "about:blank"]
    process = subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    async def run() -> Browser:
        port = await when(lambda: (folder / "DevToolsActivePort").read_text().splitlines()[0])
        from tornado.httpclient import AsyncHTTPClient

        listed = await AsyncHTTPClient().fetch(f"http://127.0.0.1:{port}/json/list")
        target = next(t for t in json.loads(listed.body) if t["type"] == "page")
        socket = await websocket_connect(target["webSocketDebuggerUrl"], max_message_size=1 << 28)
        browser = Browser(socket)
        for domain in ("Runtime", "Log", "Network", "Page"):
            await browser.call(f"{domain}.enable")
        await browser.open(page)
        await script(browser)
        return browser

    async def when(found: Any) -> Any:
        until = time.monotonic() + 30
        while time.monotonic() < until:
            try:
                return found()
            except (OSError, IndexError):
                await asyncio.sleep(0.05)
        raise TimeoutError("Chromium does not start")

    try:
        return asyncio.run(run())
    finally:
        process.kill()
        process.wait()
