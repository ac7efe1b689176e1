"""Kept adversarials: complete, exactly what the distances are of, and replayed from the stored numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from evidence_study import NOISY, Evidence, evidence_folder
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import metaeval
from metaeval.cli import app
from metaeval.cube.journal import Task
from metaeval.cube.verify import verify
from metaeval.errors import LockedError, UsageError
from metaeval.hashing import hash_array
from metaeval.runner.forecast import forecast
from metaeval.runner.prepare import prepare
from metaeval.runner.records import read_lock
from metaeval.runner.replay import replay
from metaeval.runner.run import run_study
from metaeval.study.load import load_study

TASK = Task("first", "linf", "apgd-ce", 0)


@pytest.fixture
def small(tmp_path: Path) -> Evidence:
    return evidence_folder(tmp_path)


def command(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.output


@pytest.mark.parametrize(
    ("shape", "dims", "norm"),
    [
        ((4,), ("feature",), "l2"),
        ((1, 4, 3), ("channel", "height", "width"), "linf"),
        ((3, 4, 3), ("channel", "height", "width"), "linf"),
        ((3, 4, 3), ("channel", "height", "width"), "l2"),
    ],
    ids=["vector l2", "grey linf", "colour linf", "colour l2"],
)
def test_every_adversarial_is_kept_and_is_what_the_distance_says(
    tmp_path: Path, shape: tuple[int, ...], dims: tuple[str, ...], norm: str
) -> None:
    study = evidence_folder(tmp_path, shape)
    study.run(norm=norm, attacks='["apgd-ce", "fab"]', epsilons='["0", "0.02", "0.05", "0.1"]')
    columns = study.replay()
    assert [column.attack for column in columns] == ["apgd-ce", "fab"]
    array = metaeval.open_cube(study.output)[f"samples/{norm}"]["evidence"]
    assert array.dims == ("model", "attack", "sample", *dims)
    assert array.dtype == np.float32
    for column in columns:
        stored = study.column(column.attack, norm)
        distance, kept = stored["distance"], ~np.isnan(stored["evidence"].reshape(len(study.x), -1)).all(1)
        np.testing.assert_array_equal(kept, np.isfinite(distance) & (distance > 0))
        # Checked here from numbers alone: box, norm, label by the matrix itself, the closed form as a bound.
        points = stored["evidence"][kept]
        assert points.min() >= 0
        assert points.max() <= 1
        delta = (points.astype(np.float64) - study.x[kept]).reshape(kept.sum(), -1)
        size = np.linalg.norm(delta, np.inf if norm == "linf" else 2, axis=1)
        np.testing.assert_allclose(size, distance[kept], rtol=1e-6)
        logits = study.logits(points)
        own = logits[np.arange(len(points)), study.y[kept]]
        assert (logits.max(axis=1) - own > -1e-5).all()
        assert (distance[kept] >= study.minimum(norm)[kept] * (1 - 1e-5)).all()
        assert 0 < kept.sum() == column.claimed == column.replayed == column.confirmed
        assert column.good
    assert not verify(study.output)


def test_a_study_that_does_not_ask_keeps_nothing(small: Evidence) -> None:
    small.run(evidence=False)
    assert "evidence" not in metaeval.open_cube(small.output)["samples/linf"]
    assert "evidence" not in small.store.record("first", "linf", "apgd-ce", 0).checksums
    with pytest.raises(UsageError, match="evidence = true"):
        small.replay()


def test_asked_for_later_the_missing_ones_are_found_again(small: Evidence) -> None:
    small.run(evidence=False)
    before = small.column()
    study = load_study(small.write())
    (incomplete,) = small.replay()
    found = int((np.isfinite(before["distance"]) & (before["distance"] > 0)).sum())
    assert f"{found} adversarials were found and are not stored" in incomplete.problems[0]
    prepared = prepare(study)
    assert forecast(prepared, directory=small.output, device=torch.device("cpu")).models["first"].tasks == 1
    assert small.run() == 1
    (complete,) = small.replay()
    assert complete.good
    assert complete.confirmed == complete.claimed == found
    after = small.column()
    np.testing.assert_array_equal(after["distance"], before["distance"])
    np.testing.assert_array_equal(after["cell"], before["cell"])
    assert small.run() == 0


def test_switched_off_later_it_stays_and_its_columns_stay_complete(small: Evidence) -> None:
    small.run()
    before = small.column()
    assert small.run(evidence=False) == 0
    np.testing.assert_array_equal(small.column()["evidence"], before["evidence"])
    small.run(evidence=False, epsilons='["0", "0.03", "0.05", "0.1"]', attacks='["apgd-ce", "fab"]')
    (column,) = small.replay()  # fab was never asked to keep any
    assert column.attack == "apgd-ce"
    assert column.good
    assert np.isnan(small.column("fab")["evidence"]).all()
    assert (small.column()["distance"] < before["distance"]).any()


@pytest.mark.parametrize(
    ("change", "evidence"),
    [
        ({"models": ("first", "second")}, True),
        ({"attacks": '["apgd-ce", "square"]'}, True),
        ({"epsilons": '["0", "0.02", "0.05", "0.1", "0.15"]'}, True),
        ({"samples": 14}, True),
        ({"epsilons": '["0", "0.02", "0.05", "0.1", "0.15"]', "samples": 14}, False),
    ],
    ids=["model", "attack", "epsilon", "samples", "not kept before"],
)
def test_grown_studies_keep_all(small: Evidence, change: dict[str, object], evidence: bool) -> None:
    small.run(samples=10, evidence=evidence)
    before = small.column()
    small.run(**{"samples": 10, **change})
    after = small.column()
    columns = small.replay()
    assert all(column.good for column in columns)
    assert len(columns) == (2 if {"models", "attacks"} & set(change) else 1)
    assert sum(column.confirmed for column in columns) == sum(column.claimed for column in columns) > 0
    if evidence:
        same = after["distance"][:10] == before["distance"]
        np.testing.assert_array_equal(after["evidence"][:10][same], before["evidence"][same])
        if "epsilons" in change:  # a smaller one was found, and one where there was none
            assert (after["distance"][:10] < before["distance"])[np.isfinite(before["distance"])].any()
    assert not verify(small.output)


def tamper(small: Evidence, change: Callable[[np.ndarray, np.ndarray], np.ndarray], *, sign: bool) -> int:
    """Change the stored adversarial of one sample, with `sign` also its record; return the sample."""
    array = zarr.open_array(small.output / "cube.zarr" / "samples" / "linf" / "evidence", mode="r+")
    distance = small.column()["distance"]
    sample = int(np.flatnonzero(np.isfinite(distance) & (distance > 0))[2])
    array[0, 0, sample] = change(small.x[sample], array[0, 0, sample])
    if sign:
        journal = small.store.journal
        record = journal.read(TASK)
        assert record is not None
        record.checksums["evidence"] = hash_array(array[0, 0, : len(small.x)])  # type: ignore[index]
        journal.commit(TASK, record)
    return sample


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda x, adversarial: 2 * x - adversarial, "the model classifies it correctly"),
        (lambda x, adversarial: x, "its norm is 0, the stored distance"),
        (lambda x, adversarial: x + 1.01 * (adversarial - x), "its norm is"),
        (lambda x, adversarial: x + 0.99 * (adversarial - x), "its norm is"),
        (lambda x, adversarial: adversarial + 1, "not inside [0, 1]"),
        (lambda x, adversarial: np.full_like(x, np.nan), "an adversarial was found and is not stored"),
        (lambda x, adversarial: np.where(x == x.max(), np.nan, adversarial), "not inside [0, 1]"),
    ],
    ids=["mirrored", "the input", "longer", "shorter", "outside", "absent", "partly absent"],
)
def test_a_false_adversarial_is_named(
    small: Evidence, change: Callable[[np.ndarray, np.ndarray], np.ndarray], reason: str
) -> None:
    small.run()
    sample = tamper(small, change, sign=True)
    (column,) = small.replay()
    (failure,) = column.failures
    assert (failure.model, failure.norm, failure.attack, failure.sample) == (
        "first",
        "linf",
        "apgd-ce",
        sample,
    )
    assert reason in failure.reason
    assert column.confirmed == column.claimed - 1
    code, output = command("verify", "--evidence", small.output)
    assert code == 3
    assert f"first/linf/apgd-ce, sample {sample} (test/{sample}): {failure.reason}" in output
    code, output = command("verify", "--evidence", "--json", small.output)
    assert code == 3
    assert json.loads(output)["evidence"][0]["failures"][0]["sample"] == sample


def test_an_adversarial_that_nothing_claims_is_named(small: Evidence) -> None:
    small.run()
    array = zarr.open_array(small.output / "cube.zarr" / "samples" / "linf" / "evidence", mode="r+")
    array[0, 0, 0] = 0.5  # of the sample that is misclassified as it is
    journal = small.store.journal
    record = journal.read(TASK)
    assert record is not None
    record.checksums["evidence"] = hash_array(array[0, 0])  # type: ignore[index]
    journal.commit(TASK, record)
    (column,) = small.replay()
    assert [failure.sample for failure in column.failures] == [0]
    assert "none was found" in column.failures[0].reason


def test_a_damaged_chunk_is_found_and_computed_again(small: Evidence) -> None:
    small.run()
    before = small.column()
    tamper(small, lambda x, adversarial: x, sign=False)
    assert [finding.kind for finding in verify(small.output)] == ["error"]
    (column,) = small.replay()
    assert "do not match their record" in column.problems[0]
    assert small.run() == 1
    assert small.replay()[0].good
    np.testing.assert_array_equal(small.column()["evidence"], before["evidence"])


def test_a_write_that_was_interrupted_is_computed_again(small: Evidence) -> None:
    small.run()
    before = small.column()
    small.store.journal.begin(TASK)  # as a kill between the arrays and the record leaves it
    (column,) = small.replay()
    assert "not computed" in column.problems[0]
    assert small.run() == 1
    assert small.replay()[0].good
    for name, values in small.column().items():
        np.testing.assert_array_equal(values, before[name], err_msg=name)


def test_other_weights_and_other_settings_are_said(small: Evidence) -> None:
    small.run()
    file = small.folder / "first.safetensors"
    state = load_file(file)
    study = load_study(small.write(attacks='["apgd-ce"]\nsearch = "exact"'))
    assert "other settings" in replay(study, small.output, device="cpu")[0].problems[0]
    small.write()
    save_file({**state, "1.bias": state["1.bias"] + 1e-3}, file)
    (column,) = small.replay()
    assert column.replayed == 0
    assert "another model" in column.problems[0]
    assert "identities do not match" in column.problems[0]
    small.run()  # with the new weights, into the same places
    assert small.replay()[0].good


def test_new_weights_without_evidence_leave_no_adversarials_of_the_old(small: Evidence) -> None:
    small.run()
    file = small.folder / "first.safetensors"
    state = load_file(file)
    save_file({**state, "1.bias": state["1.bias"] + 1e-3}, file)
    small.run(evidence=False)
    assert np.isnan(small.column()["evidence"]).all()


def test_a_randomised_model_is_replayed_as_far_as_that_goes(small: Evidence) -> None:
    small.run(tables=NOISY, evidence=False)
    small.run(tables=NOISY)
    (column,) = small.replay()
    broken = np.isin(small.column()["cell"], (2, 3, 4)).any(axis=1)
    assert np.isnan(small.column()["distance"][broken]).all()
    assert column.good
    assert 0 < broken.sum() == column.claimed == column.replayed == column.confirmed + column.unrepeated
    assert column.confirmed > 0


def test_the_command_takes_the_study_or_the_lock_file(
    small: Evidence, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(small.folder)
    small.run(models=("first", "second"))
    code, output = command("verify", "--evidence", small.output)
    assert code == 0, output
    assert "every adversarial is confirmed" in output
    study = read_lock(small.output)
    assert study.to_dict() == load_study(small.folder / "study.toml").to_dict()
    assert study.base == small.folder
    code, output = command("verify", small.output)
    assert code == 0
    assert "confirmed" not in output
    (small.output / "study.lock.toml").unlink()
    assert "name the study file" in str(CliRunner().invoke(app, ["verify", "--evidence", "output"]).exception)


def test_the_plan_says_what_evidence_takes(small: Evidence) -> None:
    changes = {"models": ("first", "second"), "attacks": '["apgd-ce", "fab", "square"]'}
    study = load_study(small.write(**changes))  # type: ignore[arg-type]
    expected = forecast(prepare(study), directory=small.output, device=torch.device("cpu"))
    assert expected.evidence_bytes == 2 * 3 * 14 * 4 * 4
    assert "evidence: up to 1.3 kB of adversarials" in expected.text()
    small.run(**changes)
    array = zarr.open_array(small.output / "cube.zarr" / "samples" / "linf" / "evidence", mode="r")
    assert array.nbytes == expected.evidence_bytes
    study = load_study(small.write(evidence=False))
    expected = forecast(prepare(study), directory=small.output, device=torch.device("cpu"))
    assert "evidence" not in expected.text()


def test_a_running_study_keeps_the_replay_out(small: Evidence) -> None:
    from metaeval.cube.locks import Lock

    small.run()
    with Lock(small.output, "run"), pytest.raises(LockedError):
        small.replay()


def test_a_trained_model_is_taken_from_the_cache_and_never_trained_to_verify(
    small: Evidence, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METAEVAL_CACHE_DIR", str(small.folder / "cache"))
    table = '[[models]]\nsource = "train"\nname = "trained"\narchitecture = "mlp"\nwidth = 8\nepochs = 100\n'
    table += "learning_rate = 0.05"
    study = load_study(small.write(tables=table))
    text = study.path.read_text().replace("samples = ", 'train_split = "test"\nsamples = ')
    study.path.write_text(text)
    run_study(load_study(study.path), output=small.output, device="cpu", quiet=True)
    (column,) = small.replay()
    assert column.good
    (small.folder / "cache").rename(small.folder / "elsewhere")
    (column,) = small.replay()
    assert "not in the cache" in column.problems[0]
    assert not (small.folder / "cache").exists()
