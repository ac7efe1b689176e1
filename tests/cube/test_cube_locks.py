"""Locks exclude whom they should, and say who holds them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from metaeval.cube.locks import STALE, Lock
from metaeval.errors import LockedError, UsageError

HOLDER = """
import sys, time
from metaeval.cube.locks import Lock
with Lock(sys.argv[1], sys.argv[2], exclusive=sys.argv[3] == "exclusive"):
    print("held", flush=True)
    time.sleep(60)
"""


class Other:
    """Another process that holds a lock until it is killed."""

    def __init__(self, directory: Path, name: str, mode: str) -> None:
        command = [sys.executable, "-c", HOLDER, str(directory), name, mode]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"held\n"

    def __enter__(self) -> Other:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


@pytest.mark.parametrize("theirs", ["exclusive", "shared"])
@pytest.mark.parametrize("ours", ["exclusive", "shared"])
def test_between_processes(tmp_path: Path, theirs: str, ours: str) -> None:
    with Other(tmp_path, "layout", theirs) as other:
        lock = Lock(tmp_path, "layout", exclusive=ours == "exclusive")
        if theirs == ours == "shared":
            with lock:
                pass
        else:
            with (
                pytest.raises(
                    LockedError, match=f"in use .layout. by process {other.process.pid} on "
                ) as caught,
                lock,
            ):
                pass
            assert caught.value.exit_code == 5
        with Lock(tmp_path, "shard-2-of-8"):
            pass
    with lock:  # the dead process holds nothing
        pass


def test_within_a_process_and_again(tmp_path: Path) -> None:
    with (
        Lock(tmp_path, "run"),
        pytest.raises(LockedError, match=f"process {os.getpid()}"),
        Lock(tmp_path, "run"),
    ):
        pass
    with Lock(tmp_path, "run"):
        pass
    with Lock(tmp_path, exclusive=False), Lock(tmp_path, exclusive=False):
        pass
    assert list((tmp_path / "locks").glob("*.holder")) == []


def test_waiting(tmp_path: Path) -> None:
    with Other(tmp_path, "layout", "exclusive") as other:
        started = time.monotonic()
        with pytest.raises(LockedError), Lock(tmp_path, "layout", wait=0.5):
            pass
        assert 0.5 <= time.monotonic() - started < 5
        subprocess.Popen(["sh", "-c", f"sleep 0.5; kill -9 {other.process.pid}"]).wait(10)
        with Lock(tmp_path, "layout", wait=10):
            pass


def test_released_on_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), Lock(tmp_path):
        raise ZeroDivisionError
    with Lock(tmp_path):
        pass


@pytest.mark.parametrize("exclusive", [True, False])
def test_fresh_holder_on_another_host_counts_a_stale_one_does_not(tmp_path: Path, exclusive: bool) -> None:
    with Lock(tmp_path, "run"):
        pass
    sign = tmp_path / "locks" / "run.node17.4242.abcdef00.holder"
    sign.write_text(json.dumps({"host": "node17", "pid": 4242, "exclusive": True, "since": "today"}))
    with (
        pytest.raises(LockedError, match=r"process 4242 on node17 \(since today\)"),
        Lock(tmp_path, "run", exclusive=exclusive),
    ):
        pass
    old = time.time() - STALE - 5
    os.utime(sign, (old, old))
    with Lock(tmp_path, "run", exclusive=exclusive):
        pass
    sign.write_text(json.dumps({"host": "node17", "pid": 4242, "exclusive": False, "since": "today"}))
    with Lock(tmp_path, "run", exclusive=False):
        pass


def test_the_holder_gives_signs_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metaeval.cube.locks.HEARTBEAT", 0.02)
    with Lock(tmp_path, "run"):
        (sign,) = (tmp_path / "locks").glob("run.*.holder")
        os.utime(sign, (0, 0))
        deadline = time.monotonic() + 5
        while sign.stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert sign.stat().st_mtime > 0


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write in"), Lock(tmp_path / "file"):
        pass
