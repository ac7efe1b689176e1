"""A small W3C WebDriver client for headless Chromium through chromedriver, standard library only."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
]


def missing() -> str:
    """Return which program is not there; empty if both are."""
    return ", ".join(name for name in ("chromium", "chromedriver") if shutil.which(name) is None)


class Browser:
    """One headless Chromium with a fresh profile; a context manager."""

    def __init__(self, profile: Path) -> None:
        port_file = profile / "driver.log"
        profile.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "HOME": str(profile), "XDG_CONFIG_HOME": str(profile / "config")}
        with port_file.open("w") as log:
            self.driver = subprocess.Popen(
                ["chromedriver", "--port=0"], stdout=log, stderr=subprocess.STDOUT, env=environment
            )
        deadline = time.monotonic() + 30
        while "successfully on port" not in (text := port_file.read_text()):
            if time.monotonic() > deadline or self.driver.poll() is not None:
                raise RuntimeError(f"chromedriver did not start: {text}")
            time.sleep(0.05)
        port = int(text.split("successfully on port")[1].split(".")[0])
        self.base = f"http://127.0.0.1:{port}"
        capabilities = {
            "browserName": "chrome",
            "goog:chromeOptions": {
                "binary": shutil.which("chromium"),
                "args": [*FLAGS, f"--user-data-dir={profile / 'profile'}"],
            },
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        try:
            answer = self._call("POST", "/session", {"capabilities": {"alwaysMatch": capabilities}})
        except BaseException:
            self.close()
            raise
        self.base += f"/session/{answer['sessionId']}"

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if "/session/" in self.base:
            self._call("DELETE", "", None)
        self.driver.terminate()
        self.driver.wait(20)

    def _call(self, method: str, path: str, body: Any) -> Any:
        data = None if method == "DELETE" or method == "GET" else json.dumps(body or {}).encode()
        request = urllib.request.Request(self.base + path, data, {"Content-Type": "application/json"})
        request.method = method
        # No proxy from the environment may stand between us and our own driver.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=120) as response:
                return json.load(response)["value"]
        except urllib.error.HTTPError as error:
            with error:
                raise RuntimeError(error.read().decode()[:2000]) from None

    def open(self, page: Path) -> None:
        self.logs("browser"), self.logs("performance")
        self._call("POST", "/url", {"url": page.resolve().as_uri()})

    def run(self, script: str, *arguments: Any) -> Any:
        """Run a function body in the page; a promise that it returns is awaited."""
        return self._call("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def cdp(self, command: str, **parameters: Any) -> Any:
        return self._call("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def logs(self, kind: str) -> list[dict[str, Any]]:
        return self._call("POST", "/se/log", {"type": kind})

    def requests(self) -> list[str]:
        """Return every address that the page asked for since it was opened."""
        messages = [json.loads(entry["message"])["message"] for entry in self.logs("performance")]
        return [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]

    def size(self, width: int, height: int, mobile: bool = False) -> None:
        self.cdp(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=mobile,
        )

    def theme(self, name: str) -> None:
        self.cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def screenshot(self, target: Path, whole: bool = True) -> None:
        answer = self.cdp("Page.captureScreenshot", captureBeyondViewport=whole, format="png")
        target.write_bytes(base64.b64decode(answer["data"]))

    def pdf(self) -> bytes:
        return base64.b64decode(self.cdp("Page.printToPDF")["data"])
