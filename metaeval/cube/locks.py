"""Locks of an output folder: `flock`, and who holds it in words.

`flock` decides among the processes of one host. On network file systems it may be advisory or missing, so
every holder also keeps a small file alive; one of another host that is fresh counts as held.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Any

from metaeval.cube.files import read_json
from metaeval.cube.journal import now
from metaeval.errors import LockedError, UsageError

HEARTBEAT = 10.0
"""Seconds between signs of life of a holder."""

STALE = 60.0
"""Seconds without one after which a holder on another host counts as dead."""


class Lock:
    """Hold a named lock of an output folder, exclusively or shared, as a context manager.

    Parameters
    ----------
    directory : path
        The output folder; created if missing.
    name : str
        What is locked: "layout" (exclusive: axes and aggregates; shared: columns), "run", "shard-3-of-8".
    exclusive : bool
        Alone, or together with other shared holders.
    wait : float
        Seconds to wait for other holders before giving up.

    Raises
    ------
    LockedError
        On entering, if others hold it; the message says who.
    UsageError
        If the folder cannot be written.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        name: str = "layout",
        *,
        exclusive: bool = True,
        wait: float = 0.0,
    ) -> None:
        self.folder = Path(directory) / "locks"
        self.name = name
        self.exclusive = exclusive
        self.wait = wait
        self._file: Any = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._host = socket.gethostname()
        self._sign = self.folder / f"{name}.{self._host}.{os.getpid()}.{uuid.uuid4().hex[:8]}.holder"

    def __enter__(self) -> Lock:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file = open(self.folder / f"{self.name}.lock", "a+b")
        except OSError as error:
            raise UsageError(f"cannot write in {self.folder.parent}: {error.strerror}") from None
        deadline = time.monotonic() + self.wait
        try:
            while not self._acquired():
                if time.monotonic() >= deadline:
                    raise LockedError(self._message())
                time.sleep(min(0.2, max(0.0, deadline - time.monotonic())))
        except BaseException:
            self._release()
            raise
        self._stop.clear()
        self._thread = threading.Thread(target=self._beat, name=f"lock {self.name}", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._release()

    def _acquired(self) -> bool:
        mode = fcntl.LOCK_EX if self.exclusive else fcntl.LOCK_SH
        try:
            fcntl.flock(self._file, mode | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            pass  # a file system without flock: the holders' files alone decide
        # The sign goes up before the others are read: of two that come at once, both may give way, not none.
        content = {"host": self._host, "pid": os.getpid(), "exclusive": self.exclusive, "since": now()}
        self._sign.write_text(json.dumps(content))
        if not self._others(elsewhere=True):
            return True
        self._sign.unlink(missing_ok=True)
        fcntl.flock(self._file, fcntl.LOCK_UN)
        return False

    def _others(self, *, elsewhere: bool) -> list[dict[str, Any]]:
        """Return live holders that exclude this one; with `elsewhere` only those that flock may not see."""
        reference = self._sign.stat().st_mtime if self._sign.exists() else time.time()
        found = []
        for path in self.folder.glob(f"{self.name}.*.holder"):
            if path == self._sign:
                continue
            content = read_json(path)
            if not isinstance(content, dict) or not (self.exclusive or content.get("exclusive")):
                continue
            here = content.get("host") == self._host
            try:
                age = reference - path.stat().st_mtime
            except FileNotFoundError:
                continue
            if here and not _alive(int(content.get("pid", 0))):
                path.unlink(missing_ok=True)
            elif age < STALE and not (here and elsewhere):
                found.append(content)
        return found

    def _message(self) -> str:
        who = " and ".join(
            f"process {holder.get('pid')} on {holder.get('host')} (since {holder.get('since')})"
            for holder in self._others(elsewhere=False)
        )
        return f"{self.folder.parent} is in use ({self.name}) by {who or 'another process'}"

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT):
            try:
                os.utime(self._sign)
            except OSError:  # a full or lost disk: the work itself will say so
                continue

    def _release(self) -> None:
        self._sign.unlink(missing_ok=True)
        if self._file is not None:
            self._file.close()  # gives the flock back
            self._file = None


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid > 0
