"""Computing what a cube holds of its samples' inputs again, which the cube itself does not keep."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from metaeval.cube import separation
from metaeval.cube.importing import provenance_of
from metaeval.cube.store import CubeStore
from metaeval.cube.verify import Finding
from metaeval.errors import MissingInputError, UsageError
from metaeval.hashing import hash_json
from metaeval.runner.records import read_lock
from metaeval.sources.data import open_data, take

# Another machine may add in another order.
ROUNDING = 1e-12


def recount(directory: Path) -> list[Finding]:
    """Compare the distances between classes in a cube with those of the study's samples.

    Takes as long as the run took for them, about a minute a norm at most. Damaged ones, which verifying finds
    anyway, are left out; where the study or its data are not there, a line on stderr says so.
    """
    held = separation.read(CubeStore.open(directory)) if provenance_of(directory) is None else None
    if held is None or held.distance is None:
        return []
    try:
        study = read_lock(directory)
        samples = take(study, open_data(study, study.data.split), limit=held.distance.shape[1])
    except (MissingInputError, UsageError) as error:
        print(f"distances between classes are not computed again: {error}", file=sys.stderr)
        return []
    if hash_json(list(samples.hashes)) != held.attributes.get("samples_hash"):
        return [Finding("error", "interclass/distance", "the data of the study are no longer these samples")]
    return [
        Finding("error", f"interclass/distance/{norm}", "the distances are not those of the samples")
        for norm, stored in zip(held.norms, held.distance, strict=True)
        if not np.allclose(stored, separation.distances(samples.x, samples.y, norm), rtol=ROUNDING, atol=0)
    ]
