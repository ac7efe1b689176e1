"""Nothing finished is computed twice: growth, Ctrl-C and kill -9, counted at the models themselves."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time

import numpy as np
import pytest
from counted import Counted

import metaeval

SLOW = "delay = 0.002"


def cube_of(counted: Counted) -> dict[str, np.ndarray]:
    """Return every number of the cube that a second run must reproduce."""
    cube = metaeval.open_cube(counted.folder / "reports" / "counted")
    linf, samples = cube["linf"].to_dataset(), cube["samples/linf"].to_dataset()
    found = {name: linf[name].values for name in ("robust_accuracy", "correct", "inferred", "evaluated")}
    found |= {
        name: samples[name].values for name in ("distance", "searched", "cell", "forwards", "backwards")
    }
    return found


def assert_same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def overhead(models: int) -> int:
    """Return the rows that each start of a run may send through models to time and to measure them."""
    return 1_000 * models


def test_second_run_attacks_nothing(counted: Counted) -> None:
    study = str(counted.write({"one": "", "two": ""}))
    counted.metaeval("run", study)
    before = cube_of(counted)
    result = counted.metaeval("run", study)
    assert "0 tasks computed, 2 reused" in result.stdout
    assert_same(before, cube_of(counted))


@pytest.mark.parametrize(
    ("change", "computed"),
    [
        ({"models": {"one": "", "two": ""}}, 1),
        ({"attacks": '["apgd-ce", "apgd-dlr"]'}, 1),
        ({"epsilons": '["0", "0.1", "0.15", "0.2"]'}, 1),
        ({"samples": 90}, 1),
    ],
    ids=["model", "attack", "epsilon", "samples"],
)
def test_growing_a_study_computes_only_what_is_new(
    counted: Counted, change: dict[str, object], computed: int
) -> None:
    start: dict[str, object] = {"models": {"one": ""}}
    counted.metaeval("run", str(counted.write(**start)))  # type: ignore[arg-type]
    small = metaeval.open_cube(counted.folder / "reports" / "counted")
    old = small["samples/linf"].to_dataset().load()
    result = counted.metaeval("run", str(counted.write(**{**start, **change})))  # type: ignore[arg-type]
    assert f"{computed} tasks computed" in result.stdout
    new = metaeval.open_cube(counted.folder / "reports" / "counted")["samples/linf"].to_dataset()
    kept = new.sel(model=old.model, attack=old.attack).isel(sample=slice(0, old.sizes["sample"]))
    if "epsilons" not in change:
        # What was there is untouched, passes included.
        for name in ("distance", "searched", "forwards", "backwards"):
            np.testing.assert_array_equal(kept[name], old[name], err_msg=name)
    else:
        # Only samples whose bracket holds the new epsilon were attacked again.
        outside = (old.searched >= 0.15) | (old.distance <= 0.1)
        again = (kept.forwards - old.forwards).values
        assert (again[outside.values] == 0).all()
        assert (again[~outside.values] > 0).all()


def test_a_grown_column_says_what_a_fresh_one_says(counted: Counted) -> None:
    counted.metaeval("run", str(counted.write({"one": ""}, samples=40, epsilons='["0", "0.1"]')))
    study = str(counted.write({"one": ""}, samples=60, epsilons='["0", "0.1", "0.2"]'))
    counted.metaeval("run", study)
    counted.metaeval("run", study, "--output", "fresh")
    grown = metaeval.open_cube(counted.folder / "reports" / "counted")["linf"].to_dataset()
    fresh = metaeval.open_cube(counted.folder / "fresh")["linf"].to_dataset()
    # A different path through the levels may find a different adversarial, but hardly ever another verdict.
    difference = np.abs(grown.correct - fresh.correct).sum(["class"]).max()
    assert int(difference) <= 1
    assert (grown.evaluated == grown.total).all()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_killed_runs_continue(counted: Counted, kill: signal.Signals) -> None:
    settings = {"one": SLOW, "two": SLOW}
    study = str(counted.write(settings, attacks='["apgd-ce", "apgd-dlr"]', samples=40))
    undisturbed = counted.forwards_of(lambda: counted.metaeval("run", study, "--output", "undisturbed"))
    cost = metaeval.open_cube(counted.folder / "undisturbed")["cost"].to_dataset()
    largest = int(cost.forwards.sum("stage").max())  # of one task
    kills, interrupted = 3, 0
    before = counted.forwards()
    for attempt in range(kills):
        process = subprocess.Popen(
            counted.command("run", study),
            cwd=counted.folder,
            env=counted.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        # Wait until it works (each start sends far fewer rows to time the models), then a little longer.
        start = counted.forwards()
        while counted.forwards() - start < 2_500 and process.poll() is None:
            time.sleep(0.05)
        time.sleep(random.Random(attempt).uniform(0.1, 1.5))
        if process.poll() is not None:
            break
        os.kill(process.pid, kill)
        said, errors = process.communicate(timeout=60)
        if process.returncode == 0 and "tasks computed" in said:
            break  # it was done before the signal came
        interrupted += 1
        if kill == signal.SIGINT:
            assert process.returncode == 130, errors
            assert "To continue: " in errors
    assert interrupted
    counted.metaeval("run", study)
    spent = counted.forwards() - before
    assert spent <= undisturbed + kills * (largest + overhead(2))
    counted.metaeval("verify", "reports/counted")
    disturbed, calm = cube_of(counted), metaeval.open_cube(counted.folder / "undisturbed")
    np.testing.assert_array_equal(
        disturbed["robust_accuracy"], calm["linf"].to_dataset().robust_accuracy.values
    )
    np.testing.assert_array_equal(disturbed["cell"], calm["samples/linf"].to_dataset().cell.values)


def test_a_second_run_on_the_same_cube_is_refused(counted: Counted) -> None:
    study = str(counted.write({"one": "delay = 0.2"}))
    first = subprocess.Popen(
        counted.command("run", study),
        cwd=counted.folder,
        env=counted.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while counted.forwards() < 200:
            time.sleep(0.05)
        result = counted.metaeval("run", study, expect=5)
        assert str(first.pid) in result.stderr
    finally:
        first.kill()
        first.wait()
