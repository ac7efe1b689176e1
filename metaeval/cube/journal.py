"""The journal: one commit record per task, written last, outside the zarr folder.

A task is (model, norm, attack, shard of samples); the clean forward pass has the norm "clean" and no attack.
Its files share one stem: `.json` the record of what is stored and checked, `.open` while the stored values
may be changing, `.failed` and `.skipped` with a reason.
"""

from __future__ import annotations

import hashlib
import json
import os
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from metaeval.cube.files import read_json, sync_folder, write_atomically
from metaeval.cube.layout import EVIDENCE
from metaeval.hashing import hash_json

CLEAN = "clean"
SUFFIXES = (".json", ".open", ".failed", ".skipped")


@dataclass(frozen=True)
class Task:
    """What one commit record is about."""

    model: str
    norm: str
    attack: str
    shard: int

    def __str__(self) -> str:
        return f"{self.model} / {self.norm} / {self.attack or 'forward'} / shard {self.shard}"


@dataclass(frozen=True)
class Stage:
    """What one stage of a cascade spent: seconds by epsilon, and passes."""

    attack: str
    seconds: Mapping[float, float]
    forwards: int
    backwards: int


@dataclass(frozen=True)
class Record:
    """What a finished task stored: enough to tell whether it covers a plan and whether it is still intact.

    `epsilons` maps each radius that has verdicts to the number of first samples with one; `levels` are all
    radii of the store when the task was written, in the store's order (and of its `cell`).
    """

    identity: str
    sample_hashes: tuple[str, ...]
    checksums: Mapping[str, str]
    epsilons: Mapping[float, int] = field(default_factory=dict)
    levels: tuple[float, ...] = ()
    seconds: float | None = None
    forwards: int = 0
    backwards: int = 0
    verification: int = 0
    verification_seconds: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    reduced: tuple[str, ...] = ()
    flags: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    time: str = ""
    stages: tuple[Stage, ...] = ()


@dataclass(frozen=True)
class Failure:
    """Why a task failed or was skipped, and the identity of the column it would have had."""

    identity: str
    reason: str
    time: str


def epsilon_hex(epsilon: float) -> str:
    """Return an epsilon as files name it: every bit of the float64."""
    return float(epsilon).hex()


def covers(
    record: Record | None,
    identity: str,
    sample_hashes: Sequence[str],
    epsilons: Iterable[float],
    *,
    evidence: bool = False,
) -> bool:
    """Tell whether a record makes a task done.

    Parameters
    ----------
    record : Record or None
        The task's record, if there is one.
    identity : str
        Identity of the column that the plan wants.
    sample_hashes : sequence of str
        Content hashes of the task's samples in order; they must be a prefix of the record's.
    epsilons : iterable of float
        Radii that the plan wants, any order; empty for the clean forward pass.
    evidence : bool
        Whether the plan wants the adversarials too.
    """
    if record is None or record.identity != identity:
        return False
    if evidence and EVIDENCE not in record.checksums:
        return False
    if tuple(sample_hashes) != record.sample_hashes[: len(sample_hashes)]:
        return False
    return all(record.epsilons.get(epsilon, -1) >= len(sample_hashes) for epsilon in epsilons)


def now() -> str:
    """Return the time as records carry it (UTC, seconds)."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Journal:
    """The records below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, task: Task, suffix: str) -> Path:
        """Return where a task's file of this kind is."""
        parts = [task.norm, _safe(task.model)] + ([_safe(task.attack)] if task.attack else [])
        return self.folder.joinpath(*parts, f"{task.shard:06d}{suffix}")

    def read(self, task: Task) -> Record | None:
        """Return a task's record, or None where there is none or it is damaged."""
        content = self._content(task, ".json")
        if content is None:
            return None
        try:
            content["sample_hashes"] = tuple(content["sample_hashes"].split())
            content["epsilons"] = {float.fromhex(epsilon): n for epsilon, n in content["epsilons"].items()}
            content["levels"] = tuple(float.fromhex(epsilon) for epsilon in content["levels"])
            content["reduced"] = tuple(content["reduced"])
            content["stages"] = tuple(_stage(stage) for stage in content.get("stages", ()))
            return Record(**content)
        except (KeyError, TypeError):  # written by a version with other fields
            return None

    def failure(self, task: Task) -> Failure | None:
        """Return why a task failed last, or None."""
        content = self._content(task, ".failed")
        return None if content is None else Failure(**content)

    def skip(self, task: Task) -> Failure | None:
        """Return why a task was skipped, or None."""
        content = self._content(task, ".skipped")
        return None if content is None else Failure(**content)

    def is_open(self, task: Task) -> bool:
        """Tell whether the task's stored values may be half written."""
        return not self.path(task, ".json").exists() and self.path(task, ".open").exists()

    def begin(self, task: Task) -> None:
        """Withdraw a task's record before its chunks are rewritten."""
        done, opened = self.path(task, ".json"), self.path(task, ".open")
        try:
            os.replace(done, opened)
            sync_folder(opened.parent)
        except FileNotFoundError:
            self._write(task, ".open", {"time": now()})

    def commit(self, task: Task, record: Record) -> None:
        """Write a task's record, and remove what it supersedes."""
        content = asdict(record)
        content["sample_hashes"] = " ".join(record.sample_hashes)  # one string is read far faster than a list
        content["epsilons"] = {epsilon_hex(epsilon): n for epsilon, n in record.epsilons.items()}
        content["levels"] = [epsilon_hex(epsilon) for epsilon in record.levels]
        for stage in content["stages"]:
            stage["seconds"] = {epsilon_hex(epsilon): spent for epsilon, spent in stage["seconds"].items()}
        self.commit_content(task, content)

    def commit_content(self, task: Task, content: Mapping[str, Any]) -> None:
        """Write a record of other fields than `Record`'s, and remove what it supersedes."""
        self._write(task, ".json", dict(content))
        self._remove(task, ".open", ".failed", ".skipped")

    def content(self, task: Task) -> dict[str, Any] | None:
        """Return what `commit_content` wrote, or None where there is nothing or it is damaged."""
        return self._content(task, ".json")

    def fail(self, task: Task, reason: str, identity: str) -> None:
        """Note a task's failure; an earlier record stays, it still describes what is stored."""
        self._write(task, ".failed", asdict(Failure(identity, reason, now())))
        self._remove(task, ".skipped")

    def skip_task(self, task: Task, reason: str, identity: str) -> None:
        """Note that a task does not apply."""
        self._write(task, ".skipped", asdict(Failure(identity, reason, now())))
        self._remove(task, ".failed")

    def task_of(self, path: Path) -> Task | None:
        """Return the task that a journal file is about, or None if the file is damaged."""
        content = read_json(path)
        try:
            task = Task(**content["task"])
        except (KeyError, TypeError):
            return None
        return task if self.path(task, path.suffix) == path else None

    def files(self) -> list[Path]:
        """Return the journal's task files, sorted."""
        return sorted(path for path in self.folder.glob("*/**/*") if path.suffix in SUFFIXES)

    def digest(self) -> str:
        """Return a hash of the whole journal: which states it holds, and every byte of them."""
        digest = hashlib.sha256()
        for path in self.files():
            digest.update(f"{path.relative_to(self.folder).as_posix()}\n".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()

    def _content(self, task: Task, suffix: str) -> dict[str, Any] | None:
        content = read_json(self.path(task, suffix))
        if not isinstance(content, dict) or content.pop("sha256", None) != hash_json(content):
            return None
        if content.pop("task") != asdict(task):
            return None
        return content

    def _write(self, task: Task, suffix: str, content: dict[str, Any]) -> None:
        content = {"task": asdict(task), **content}
        content["sha256"] = hash_json(content)  # a flipped bit in a record must not make it claim more
        text = json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False)
        write_atomically(self.path(task, suffix), text.encode())

    def _remove(self, task: Task, *suffixes: str) -> None:
        for suffix in suffixes:
            self.path(task, suffix).unlink(missing_ok=True)


def _stage(content: Mapping[str, Any]) -> Stage:
    seconds = {float.fromhex(epsilon): spent for epsilon, spent in content["seconds"].items()}
    return Stage(**{**content, "seconds": seconds})


def _safe(name: str) -> str:
    """Return a name as a folder name: reversible where it is short, distinct where it is not."""
    quoted = urllib.parse.quote(name, safe="@ +=,")
    if quoted.startswith("."):
        quoted = "%2E" + quoted[1:]
    if len(quoted) > 120:
        quoted = f"{quoted[:80]}-{hashlib.sha256(name.encode()).hexdigest()[:32]}"
    return quoted
