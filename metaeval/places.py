"""What the command line's arguments mean: a study file that is sound, the folder of a study's results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from metaeval.errors import MissingInputError, StudyError, unknown

if TYPE_CHECKING:
    import xarray as xr

    from metaeval.study.schema import Study


def load(path: Path) -> Study:
    """Load a study; if it has problems, unknown attacks are among those that are reported at once."""
    from metaeval.attacks.catalogue import names
    from metaeval.attacks.presets import PRESETS
    from metaeval.study.load import load_study

    try:
        study = load_study(path)
    except StudyError:
        return load_study(path, attacks=names(), presets=PRESETS)
    if study.report.figures != "all":
        from metaeval import registry
        from metaeval.report.figures import FIGURES

        known = registry.names("figures", FIGURES)
        wrong = [(i, name) for i, name in enumerate(study.report.figures) if name not in known]
        if wrong:  # known only here: no room below the report may import its table
            raise StudyError(
                [
                    study.problem(("report", "figures", i), *unknown("figure", name, known))
                    for i, name in wrong
                ]
            )
    return study


def refresh(folder: Path) -> None:
    """Rebuild the aggregates of a cube whose journal has changed since they were written."""
    from metaeval.cube.aggregate import rebuild
    from metaeval.cube.importing import provenance_of
    from metaeval.cube.locks import Lock
    from metaeval.cube.store import CubeStore

    if provenance_of(folder) is not None:
        return  # published aggregates rest on no records
    store = CubeStore.open(folder)
    selection = store.selection()
    if selection is None:
        raise MissingInputError(f"the cube in {folder} holds no study yet; `metaeval run` fills it")
    if store.attributes().get("journal") != store.journal.digest():
        with Lock(folder, "layout", wait=60):
            rebuild(store, selection)


def opened(place: Path | None, folder: Path) -> xr.DataTree:
    """Return the cube in the folder of a place; of a study file, with its analysis and report of now."""
    from metaeval.cube.opening import open_cube

    cube = open_cube(folder)
    said = cube.attrs.get("study")
    if place is None or place.suffix != ".toml" or said is None:
        return cube
    now = load(place).to_dict()
    study = json.loads(said) | {key: now[key] for key in ("analysis", "report") if key in now}
    cube.attrs["study"] = json.dumps(study)
    return cube


def locate(place: Path | None) -> Path:
    """Return the folder of a study's, a cube's or the newest results.

    Raises
    ------
    MissingInputError
        If there is no cube there.
    """
    if place is None:
        cubes = sorted(Path("reports").glob("*/cube.zarr/zarr.json"), key=lambda file: file.stat().st_mtime)
        if not cubes:
            raise MissingInputError("no cube under reports/; name a study, a cube or its folder")
        return cubes[-1].parent.parent
    if place.suffix == ".toml":
        folder = load(place).output
    else:
        folder = place.parent if place.name == "cube.zarr" else place
    if not (folder / "cube.zarr").is_dir():
        raise MissingInputError(f"no cube in {folder}; `metaeval run` makes one")
    return folder
