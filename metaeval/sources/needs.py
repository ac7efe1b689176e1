"""What a study needs that may have to be fetched: data, weights, published files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from metaeval import registry
from metaeval.errors import MissingInputError, Problem
from metaeval.sources.downloading import download, is_offline
from metaeval.study import Study

Note = Callable[[str], None]

# Functions from a study to its needs, one per kind of source.
CONTRIBUTORS = (
    "metaeval.sources.data.needs:data_needs",
    "metaeval.sources.models.needs:model_needs",
    "metaeval.sources.shifts.needs:shift_needs",
)


@dataclass(frozen=True, eq=False)
class Need:
    """A file, folder or cached data set that a study needs.

    Attributes
    ----------
    kind : str
        ``weights`` are fetched for the models that a run asks for; all else before anything is opened.
    name : str
        Which one, as in ``cifar10``.
    place : Path
        Where it is looked for.
    have : bool
        Whether it is there; its content is checked when the study is prepared.
    at : Problem
        Where the study names it.
    by_hand : str
        How to get it without `fetch`.
    address : str
        Where it comes from; empty where it cannot be fetched.
    fetch : callable, optional
        Brings it, whole and with its known hash, or raises MissingInputError or StudyError; it is told a
        function for what there is to say. None where only the user can bring it.
    """

    kind: Literal["data", "weights", "shift"]
    name: str
    place: Path
    have: bool
    at: Problem
    by_hand: str
    address: str = ""
    fetch: Callable[[Note], None] | None = None

    @property
    def what(self) -> str:
        """What it is, in words."""
        return f"{self.kind} {self.name}"

    def problem(self, reason: str = "") -> Problem:
        """Return what is missing, and why it could not be fetched, at the place where the study names it."""
        parts = [f"{self.what}: {self.place} is missing", reason]
        if self.fetch and not reason:
            parts.append(f"`metaeval fetch {self.at.file}` brings it")
        message = "; ".join(part for part in (*parts, self.by_hand) if part)
        return replace(self.at, message=message)


def needs(study: Study) -> list[Need]:
    """Return what a study needs, of all kinds; a file that two tables name is listed once.

    Raises
    ------
    StudyError
        If a table names what does not exist anywhere.
    """
    found = [need for contributor in CONTRIBUTORS for need in registry.resolve(contributor)(study)]
    return list({need.place: need for need in reversed(found)}.values())[::-1]


def downloaded(address: str, place: Path, md5: str = "") -> Callable[[Note], None]:
    """Return what fetches a file to a place.

    Raises
    ------
    MissingInputError
        When called, if the file cannot be had or is not the published one.
    """

    def fetch(note: Note) -> None:
        if is_offline():
            raise MissingInputError("METAEVAL_OFFLINE is set")
        download(address, place, known=("md5", md5) if md5 else None, note=note)

    return fetch
