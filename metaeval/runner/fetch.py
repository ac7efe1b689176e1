"""Everything that a study needs, brought here and verified, so that it runs without a network."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass

from metaeval.errors import MissingInputError, StudyError
from metaeval.runner.needed import measured, needed
from metaeval.runner.prepare import plan_attacks, prepare, with_weights
from metaeval.sources.data import open_data
from metaeval.sources.needs import Need, needs
from metaeval.study import Study

HAVE, FETCHED, MISSING = "have", "fetched", "missing"


@dataclass(frozen=True)
class Fetched:
    """What became of one need: ``have``, ``fetched`` or ``missing``, and how to get it by hand."""

    what: str
    state: str
    place: str
    address: str
    reason: str = ""
    by_hand: str = ""

    def row(self) -> dict[str, str]:
        """Return what a table shows."""
        said = "; ".join(part for part in (self.reason, self.by_hand) if part)
        return {"what": self.what, "state": self.state, "file": self.place, "how": said or "-"}


def fetch(study: Study, *, quiet: bool = False) -> list[Fetched]:
    """Bring what is missing, and check all that is there: hashes, labels, layers, as far as they are known.

    Returns
    -------
    list of Fetched
        One per need, in the order of the study.

    Raises
    ------
    StudyError
        If something that is there is not what the study says, or the study is wrong otherwise.
    """
    _, wrong = plan_attacks(study, classes=None, shape=None)
    if wrong:  # nothing is fetched for a study that cannot run
        raise StudyError(wrong)
    wanted = needed(study)
    results = [_bring(need, quiet=quiet) for need in wanted]
    absent = {need.kind for need, result in zip(wanted, results, strict=True) if result.state == MISSING}
    if not absent:
        with_weights(prepare(study), quiet=quiet)
    elif "data" not in absent:
        open_data(study, study.data.split)
    return results


def fetch_measured(study: Study, *, quiet: bool = False) -> None:
    """Bring the training data that only measures look at; where they cannot be had, the measures say so."""
    for need in measured(study):
        if not need.have:
            _bring(need, quiet=quiet)


def fetch_data(study: Study, *, quiet: bool = False) -> None:
    """Bring what a study misses before its models are looked at: everything but their weights.

    Raises
    ------
    StudyError
        With everything that the study still misses, its weights included, if something cannot be had.
    """
    wanted = [need for need in needs(study) if not need.have]
    reasons = {need: _bring(need, quiet=quiet).reason for need in wanted if need.kind != "weights"}
    if any(reasons.values()):
        still = [need for need in wanted if reasons.get(need, "later")]
        raise StudyError([need.problem(reasons.get(need, "")) for need in still], missing=True)


def _bring(need: Need, *, quiet: bool) -> Fetched:
    """Fetch what is not there and say what became of it."""

    def said(state: str, reason: str = "") -> Fetched:
        by_hand = need.by_hand if state == MISSING else ""
        return Fetched(need.what, state, str(need.place), need.address, reason, by_hand)

    def note(text: str) -> None:
        if not quiet:
            print(text, file=sys.stderr)

    if need.have:
        return said(HAVE)
    if need.fetch is None:
        return said(MISSING, "it cannot be fetched")
    try:
        need.fetch(note)
    except MissingInputError as error:
        return said(MISSING, str(error))
    except StudyError as error:
        if error.exit_code != MissingInputError.exit_code:
            raise
        return said(MISSING, "; ".join(problem.message for problem in error.problems))
    return said(FETCHED)


def count(results: Iterable[Fetched]) -> str:
    """Return in words how many needs there are of each state."""
    states = [result.state for result in results]
    found = [f"{states.count(state)} {state}" for state in (HAVE, FETCHED, MISSING) if state in states]
    return ", ".join(found) or "nothing to fetch"
