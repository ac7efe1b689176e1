"""Progress of a run on stderr: a bar with an ETA on a terminal, log lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

LOG_INTERVAL = 10.0  # seconds between log lines when stderr is no terminal


class Progress:
    """Shows how much of the predicted work is done; work is in predicted seconds.

    Parameters
    ----------
    total : float
        Predicted seconds of the whole run; only ratios matter, so a machine that is slower throughout
        than predicted still gets a right ETA.
    quiet : bool
        Show nothing.
    """

    def __init__(self, total: float, *, quiet: bool = False) -> None:
        self._total = max(total, 1e-9)
        self._done = 0.0
        self._step_size = 0.0
        self._step_done = 0.0
        self._text = ""
        self._started = time.monotonic()
        self._logged = self._started
        self._quiet = quiet
        self._bar: Bar | None = None
        if not quiet and sys.stderr.isatty():
            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[eta]}"),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task("", total=1.0, eta="")

    def __enter__(self) -> Self:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()

    def begin(self, text: str, size: float) -> None:
        """Start a step whose predicted work is `size` seconds."""
        self.finish()
        self._text, self._step_size, self._step_done = text, size, 0.0
        self._show(force=not self._bar)

    def advance(self, work: float) -> None:
        """Add predicted seconds to the step; a step never runs past its size before it is finished."""
        self._step_done = min(self._step_done + work, self._step_size)
        self._show()

    def finish(self) -> None:
        """End the step: all of its work counts as done, however much it took."""
        self._done += self._step_size
        self._step_size = self._step_done = 0.0
        self._show()

    def note(self, message: str) -> None:
        """Show a line that stays, such as a failure."""
        if self._bar:
            self._bar.console.print(message, markup=False, highlight=False)
        elif not self._quiet:
            print(message, file=sys.stderr, flush=True)

    def eta(self) -> float | None:
        """Return the predicted seconds left, or None before anything is known."""
        done = self._done + self._step_done
        if done <= 0:
            return None
        return (time.monotonic() - self._started) * max(self._total - done, 0.0) / done

    def _show(self, *, force: bool = False) -> None:
        if self._quiet:
            return
        fraction = min((self._done + self._step_done) / self._total, 1.0)
        left = self.eta()
        eta = "" if left is None else f"ETA {duration(left)}"
        if self._bar:
            self._bar.update(self._task, completed=fraction, description=self._text, eta=eta)
            return
        now = time.monotonic()
        if now - self._logged >= LOG_INTERVAL or (force and now - self._logged >= 1.0):
            self._logged = now
            print(f"{fraction:4.0%} {self._text} {eta}".rstrip(), file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Return a time span as people write it: 8 s, 3 min 20 s, 2 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
