"""Headless Chromium by its DevTools protocol: open a page, run JavaScript in it, take its picture."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Page:
    """A page in a browser of its own; `errors` collects what it threw or logged as an error, `requests` what it fetched."""

    def __init__(self, url: str, width: int = 1300, height: int = 900) -> None:
        assert CHROMIUM
        self._folder = Path(tempfile.mkdtemp(prefix="chromium"))
        self.downloads = self._folder / "downloads"
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._number = 0
        self._browser = subprocess.Popen(
            [
                CHROMIUM, "--headless=new", "--no-sandbox", "--remote-debugging-port=0", "--disable-extensions",
                "--hide-scrollbars", "--enable-unsafe-swiftshader", f"--window-size={width},{height}",
                f"--user-data-dir={self._folder}", "about:blank",
            ],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self._loop = asyncio.new_event_loop()
        try:
            self._socket = self._loop.run_until_complete(self._connect())
            for domain in ("Page", "Runtime", "Log", "Network"):
                self.send(f"{domain}.enable")
            self.send("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(self.downloads))
            self.send("Page.navigate", url=url)
        except BaseException:
            self.close()
            raise

    async def _connect(self) -> Any:
        from tornado.httpclient import AsyncHTTPClient
        from tornado.websocket import websocket_connect

        port_file = self._folder / "DevToolsActivePort"
        end = time.monotonic() + 60
        while not port_file.exists() or len(port_file.read_text().splitlines()) < 2:
            if time.monotonic() > end or self._browser.poll() is not None:
                raise RuntimeError("Chromium did not start")
            await asyncio.sleep(0.05)
        port = port_file.read_text().splitlines()[0]
        answer = await AsyncHTTPClient().fetch(f"http://127.0.0.1:{port}/json/list")
        target = next(t for t in json.loads(answer.body) if t["type"] == "page")
        return await websocket_connect(target["webSocketDebuggerUrl"], max_message_size=2**28)

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and return its result; events that come before it are looked through for errors."""
        return self._loop.run_until_complete(self._send(method, params))

    async def _send(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        self._number += 1
        await self._socket.write_message(json.dumps({"id": self._number, "method": method, "params": params}))
        while True:
            text = await asyncio.wait_for(self._socket.read_message(), 120)
            message = json.loads(text)
            if message.get("id") == self._number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message["result"]
            self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        params = message.get("params", {})
        if message["method"] == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(params["exceptionDetails"])[:2000])
        elif message["method"] == "Runtime.consoleAPICalled" and params["type"] == "error":
            self.errors.append(json.dumps(params["args"])[:2000])
        elif message["method"] == "Network.requestWillBeSent" and not params["request"]["url"].startswith(
            ("data:", "blob:")
        ):
            self.requests.append(params["request"]["url"])
        elif message["method"] == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(params["entry"]["text"])

    def run(self, code: str) -> Any:
        """Return the value of a JavaScript expression, a promise's result included."""
        answer = self.send("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(json.dumps(answer["exceptionDetails"])[:2000])
        return answer["result"].get("value")

    def wait(self, condition: str, seconds: float = 60) -> None:
        """Wait until a JavaScript expression holds."""
        end = time.monotonic() + seconds
        while not self.run(condition):
            if time.monotonic() > end:
                raise RuntimeError(f"never came true: {condition}; errors: {self.errors}")
            self._loop.run_until_complete(asyncio.sleep(0.05))

    def frames(self, number: int = 3) -> None:
        """Let the page draw."""
        self.run(
            f"(async () => {{ for (let i = 0; i < {number}; i++) await new Promise(r => requestAnimationFrame(r)) }})()"
        )

    def screenshot(self, path: Path, whole: bool = True) -> None:
        """Write a png of the page."""
        data = self.send("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))

    def saved(self, ending: str, seconds: float = 30) -> Path:
        """Wait for a downloaded file and return it."""
        end = time.monotonic() + seconds
        while not (found := sorted(self.downloads.glob(f"*.{ending}"))):
            if time.monotonic() > end:
                raise RuntimeError(f"no .{ending} was saved; errors: {self.errors}")
            self.frames()
        return found[0]

    def close(self) -> None:
        """End this browser and remove its folder."""
        self._browser.terminate()
        try:
            self._browser.wait(10)
        except subprocess.TimeoutExpired:
            self._browser.kill()
            self._browser.wait()
        self._loop.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
