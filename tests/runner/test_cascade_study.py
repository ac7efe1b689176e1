"""A study with a cascade beside pure columns: the cube's stages, growth, what cannot run."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import xarray as xr
from counted import Counted

import metaeval
from metaeval.cube.verify import verify
from metaeval.errors import StudyError
from metaeval.outcomes import Cell
from metaeval.places import load
from metaeval.runner.forecast import forecast
from metaeval.runner.prepare import prepare
from metaeval.runner.run import Summary, run_study

STAGES = ["apgd-ce", "fab", "square"]
EPSILONS = '["0", "0.05", "0.1", "0.2"]'
SETTINGS = """
[[threat_models.attack]]
name = "square"
queries = 50
[[threat_models.attack]]
name = "fab"
iterations = 5
"""


def cascade_study(
    counted: Counted, *, epsilons: str = EPSILONS, samples: int = 24, search: str = "exact", pure: bool = True
) -> str:
    listed = json.dumps(STAGES)
    first = f'\n[[threat_models]]\nnorm = "linf"\nepsilons = {epsilons}\nattacks = {listed}\n'
    extra = f'search = "{search}"\nmode = "cascade"\n{SETTINGS}'
    if pure:
        extra = f'search = "{search}"\n{SETTINGS}' + first + extra
    path = counted.write({"one": ""}, samples=samples, epsilons=epsilons, attacks=listed, extra=extra)
    return str(path)


def run(counted: Counted, study: str, folder: str = "reports/counted") -> Summary:
    """Run a study in this process: most of a command's time is its start."""
    return run_study(metaeval.load_study(study), output=counted.folder / folder, quiet=True)


def groups(counted: Counted, folder: str = "reports/counted") -> tuple[xr.Dataset, xr.Dataset]:
    cube = metaeval.open_cube(counted.folder / folder)
    return cube["linf"].to_dataset(), cube["samples/linf"].to_dataset()


def test_a_cascade_is_one_row_and_its_stages_are_kept(counted: Counted) -> None:
    study = cascade_study(counted)
    assert run(counted, study).computed == 4
    linf, samples = groups(counted)
    assert linf.attack.values.tolist() == ["worst-case", *STAGES, "cascade"]
    assert linf.stage.values.tolist() == samples.stage.values.tolist() == STAGES
    assert linf.stage_accuracy.dims == linf.stage_seconds.dims == ("model", "epsilon", "stage")
    assert samples.stage_distance.dims == ("model", "attack", "stage", "sample")
    assert linf.attrs["cascade"] == "cascade"
    # Each stage's accuracy, counted again from the distances; the last is the cascade's.
    distance = samples.stage_distance.sel(attack="cascade", model="one").values
    assert (distance[1:] <= distance[:-1]).all()
    accuracy = (distance[None] > linf.epsilon.values[:, None, None] * (1 + 1e-9)).mean(axis=2)
    np.testing.assert_array_equal(linf.stage_accuracy.sel(model="one").values, accuracy)
    correct = linf.correct.sum("class").sel(model="one")
    np.testing.assert_allclose(accuracy[:, -1], correct.sel(attack="cascade") / 24)
    assert samples.stage_distance.sel(attack="square").isnull().all()
    # In exact mode the first stage is the pure column of the same attack and seeds, and nothing that a pure
    # column breaks is left unbroken by the cascade.
    np.testing.assert_allclose(accuracy[:, 0], correct.sel(attack="apgd-ce") / 24)
    assert (correct.sel(attack="cascade") == correct.sel(attack="worst-case")).all()
    assert accuracy[-1, -1] < accuracy[1, -1] < accuracy[0, 0] < 1
    # All that was measured of the stages is theirs, and less than the task took; epsilon 0 costs nothing.
    cost = metaeval.open_cube(counted.folder / "reports/counted")["cost"].to_dataset()
    seconds = linf.stage_seconds.sel(model="one")
    assert (seconds.isel(epsilon=0) == 0).all()
    assert 0 < float(seconds.sum()) <= float(cost.seconds.sel(attack="cascade").sum())
    settings = json.loads(str(linf.settings.sel(attack="cascade").item()))
    assert settings["square"] == {"queries": 50, "restarts": 1}
    assert "square: queries 50 (standard 5000)" in str(linf.reduced.sel(attack="cascade").item())
    assert not verify(counted.folder / "reports/counted")
    again = run(counted, study)
    assert (again.computed, again.reused) == (0, 4)


@pytest.mark.parametrize("search", ["exact", "frontier"])
def test_new_epsilons_and_samples_give_the_cube_of_one_run(counted: Counted, search: str) -> None:
    start = {"pure": False, "search": search}
    run(counted, cascade_study(counted, epsilons='["0", "0.1"]', samples=16, **start))
    run(counted, cascade_study(counted, epsilons='["0", "0.1"]', **start))
    study = cascade_study(counted, epsilons='["0", "0.1", "0.05", "0.2"]', **start)
    run(counted, study)
    run(counted, study, "fresh")
    assert not verify(counted.folder / "reports/counted")
    (grown, grown_samples), (fresh, fresh_samples) = groups(counted), groups(counted, "fresh")
    if search == "exact":
        for name in ("distance", "searched", "cell", "stage_distance"):
            np.testing.assert_array_equal(grown_samples[name], fresh_samples[name], err_msg=name)
        for name in ("robust_accuracy", "inferred", "stage_accuracy"):
            np.testing.assert_array_equal(grown[name], fresh[name], err_msg=name)
    assert abs(grown.correct - fresh.correct).sum("class").max() <= 1
    assert (grown_samples.cell != Cell.PENDING).all()
    assert (grown.evaluated == grown.total).all()
    last = grown.stage_accuracy.isel(stage=-1, model=0)
    np.testing.assert_allclose(last, grown.correct.sum("class").sel(attack="cascade").isel(model=0) / 24)


def test_a_failed_cascade_has_no_accuracy_after_any_stage(counted: Counted) -> None:
    cascade_study(counted, pure=False)
    path = counted.folder / "study.toml"
    path.write_text(
        path.read_text().replace(
            "architecture_settings = {  }", "architecture_settings = { fail_when_attacked = true }"
        )
    )
    assert len(run(counted, str(path)).failures) == 1
    linf, samples = groups(counted)
    assert linf.stage_accuracy.isnull().all()
    assert linf.stage_seconds.isnull().all()
    assert samples.stage_distance.isnull().all()


def test_a_changed_stage_is_another_column(counted: Counted) -> None:
    run(counted, cascade_study(counted, pure=False))
    path = counted.folder / "study.toml"
    path.write_text(path.read_text().replace('["apgd-ce", "fab", "square"]', '["fab", "apgd-ce", "square"]'))
    assert run(counted, str(path)).computed == 1
    linf, samples = groups(counted)
    assert linf.stage.values.tolist() == ["fab", "apgd-ce", "square"]
    assert samples.stage.values.tolist() == STAGES  # stored where they came first
    distance = samples.stage_distance.sel(attack="cascade", model="one", stage=linf.stage.values).values
    assert (distance[1:] <= distance[:-1]).all()
    assert not verify(counted.folder / "reports/counted")


@pytest.mark.parametrize(
    ("attacks", "said"),
    [
        ('"autoattack-standart"', "did you mean 'autoattack-standard'?"),
        ('"apgd-ce"', "did you mean '[\"apgd-ce\"]'?"),
    ],
)
def test_a_misspelt_preset_is_found_with_its_line(counted: Counted, attacks: str, said: str) -> None:
    study = counted.write({"one": ""}, attacks=attacks)
    line = study.read_text().splitlines().index(f"attacks = {attacks}") + 1
    with pytest.raises(StudyError) as raised:
        prepare(load(study))
    text = str(raised.value)
    assert f"study.toml:{line}:1: threat_models[0].attacks: unknown preset" in text
    assert "autoattack-plus, autoattack-rand, autoattack-standard" in text
    assert said in text


def test_plan_shows_the_stages(counted: Counted) -> None:
    study = prepare(metaeval.load_study(cascade_study(counted)))
    text = forecast(study, directory=counted.folder, device=torch.device("cpu")).text()
    rows = [line.split() for line in text.splitlines()]
    first = next(i for i, row in enumerate(rows) if row[:1] == ["cascade"])
    stages = rows[first + 1 : first + 4]
    assert [row[:2] for row in stages] == [["1.", "apgd-ce"], ["2.", "fab"], ["3.", "square"]]
    total = sum(float(row[2].replace(",", "")) for row in stages)
    assert abs(float(rows[first][4].replace(",", "")) - total) <= 2  # rounded
