"""A headless Chromium, told what to do through a pipe in its DevTools protocol: no driver, no further dependency."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
# It must not reach out to anything but the page.
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--remote-debugging-pipe"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1400,1400"),
)
POLL_SECONDS = 0.2


class Page:
    """One page of a browser of its own, with a new profile in ``folder``; to be closed."""

    def __init__(self, folder: Path):
        commands, self._commands = os.pipe()
        self._replies, replies = os.pipe()
        self._log = (folder / "chromium.log").open("wb")
        # Chromium reads its descriptor 3 and writes its 4.
        self._process = subprocess.Popen(
            [
                "bash",
                "-c",
                f'exec "$@" 3<&{commands} 4>&{replies}',
                "bash",
                CHROMIUM,
                *FLAGS,
                f"--user-data-dir={folder}",
            ],
            stdout=self._log,
            stderr=self._log,
            pass_fds=(commands, replies),
        )
        os.close(commands)
        os.close(replies)
        self._received, self._number, self._session = b"", 0, None
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def open(self, url: str) -> None:
        # From one fragment to another of the same page nothing would be loaded.
        self._call("Page.navigate", url="about:blank")
        self._call("Page.navigate", url=url)

    def show(self, width: int, scheme: str) -> None:
        """Sets how wide the screen is, in pixels, and whether it is "light" or "dark"."""
        screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self._call("Emulation.setDeviceMetricsOverride", **screen)
        self._call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def evaluate(self, expression: str) -> object:
        """The value of a JavaScript expression."""
        reply = self._call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in reply, reply
        return reply["result"].get("value")

    def wait_for(self, expression: str, seconds: float) -> object:
        """The value of an expression, once it is true; its last value when that takes too long."""
        end = time.monotonic() + seconds
        while not (value := self.evaluate(expression)) and time.monotonic() < end:
            time.sleep(POLL_SECONDS)
        return value

    def close(self) -> None:
        os.close(self._commands)
        os.close(self._replies)
        self._process.kill()
        self._process.wait()
        self._log.close()

    def _call(self, method: str, **parameters) -> dict:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:  # what is no reply to this is an event
            reply = self._receive()
            if reply.get("id") == self._number:
                assert "error" not in reply, reply
                return reply["result"]

    def _receive(self) -> dict:
        while b"\0" not in self._received:
            part = os.read(self._replies, 1 << 20)
            assert part, "the browser has ended"
            self._received += part
        message, _, self._received = self._received.partition(b"\0")
        return json.loads(message)
