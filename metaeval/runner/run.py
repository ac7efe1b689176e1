"""Run a study: models one after the other, their tasks one by one, every result committed at once."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from metaeval.cube.importing import refuse_run
from metaeval.cube.locks import Lock
from metaeval.cube.store import CubeStore
from metaeval.errors import MissingInputError, StudyError
from metaeval.runner.devices import choose_device
from metaeval.runner.fetch import fetch_data, fetch_measured
from metaeval.runner.job import Job, Summary
from metaeval.runner.prepare import prepare, with_weights
from metaeval.runner.publish import publish_distances
from metaeval.runner.records import log_event
from metaeval.study.schema import Study

if TYPE_CHECKING:
    import xarray


def run(study: Study, **options: Any) -> xarray.DataTree:
    """Evaluate a study and return its cube; options as for `run_study`.

    Failed tasks are in the cube with their status and reason.
    """
    from metaeval.cube.opening import open_cube

    return open_cube(run_study(study, **options).directory)


def run_study(
    study: Study,
    *,
    output: Path | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    only: str | None = None,
    limit: int | None = None,
    quiet: bool = False,
    verbose: bool = False,
) -> Summary:
    """Evaluate a study into its cube, computing only what no finished record covers.

    Parameters
    ----------
    output : Path, optional
        Folder of the cube; default ``reports/<study>``.
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    batch_size : int, optional
        Samples at a time; default: found for each model. Halved when memory runs out.
    only, limit
        As for `metaeval.runner.prepare.prepare`.

    Raises
    ------
    StudyError, UsageError, MissingInputError
        Before anything is computed, if the study cannot run.
    LockedError
        If another run works on the same cube.
    """
    started = time.monotonic()
    directory = Path(output) if output else study.output
    refuse_run(directory)  # before anything is fetched
    try:
        prepared = prepare(study, only=only, limit=limit)
    except StudyError as error:
        if error.exit_code != MissingInputError.exit_code:
            raise
        fetch_data(study, quiet=quiet)
        prepared = prepare(study, only=only, limit=limit)
    fetch_measured(study, quiet=quiet)
    prepared = with_weights(prepared, quiet=quiet)
    for line in () if quiet else prepared.notes:
        print(line, file=sys.stderr)
    directory.mkdir(parents=True, exist_ok=True)
    with Lock(directory, "run"):
        job = Job(prepared, CubeStore.open_or_create(directory), choose_device(device), batch_size, verbose)
        job.run(quiet=quiet)
        publish_distances(job.store, prepared)
        job.summary.seconds = time.monotonic() - started
        log_event(directory, "end", summary=job.summary.as_dict())
    return job.summary
