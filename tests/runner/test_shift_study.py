"""A study with shifts, run: growth, resume, failures, and that nothing depends on how it was run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from counted import Counted, counted_folder

import metaeval
from metaeval.analysis import interclass
from metaeval.cube.status import status
from metaeval.cube.verify import verify
from metaeval.errors import StudyError, UsageError
from metaeval.listing import LISTINGS
from metaeval.runner import shifts as runner_shifts
from metaeval.runner.forecast import forecast
from metaeval.runner.job import Summary
from metaeval.runner.prepare import prepare
from metaeval.runner.run import run_study
from metaeval.sources.models import load_model
from metaeval.sources.shifts.corruptions import corrupt
from metaeval.study import load_study

CORRUPTIONS = """
[[shifts]]
source = "corruptions"
names = ["fog", "contrast"]
severities = [1, 5]
"""
ATTACKED = """
[[shifts]]
source = "attacked"
attack = "fgsm"
norm = "linf"
epsilon = "1/16"

[[shifts]]
source = "attacked"
attack = "deepfool"
norm = "l2"
"""
FAILING = """
[[shifts]]
source = "callable"
transform = "lens_functions:lens"
"""
MODELS = {"one": "", "two": ""}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Counted:
    folder = counted_folder(tmp_path_factory.mktemp("shifts"))
    (folder.folder / "lens_functions.py").write_text("def lens(x):\n    raise OSError('no lens')\n")
    return folder


def run(
    place: Counted,
    name: str,
    extra: str,
    *,
    samples: int = 60,
    models: dict[str, str] = MODELS,
    **options: object,
) -> tuple[Summary, xr.DataTree]:
    path = place.write(models, samples=samples, attacks='["fgsm@torchattacks"]', extra=extra)
    summary = run_study(load_study(path), output=place.folder / name, quiet=True, **options)  # type: ignore[arg-type]
    return summary, metaeval.open_cube(place.folder / name)


def test_answers_are_the_model_s_own(place: Counted) -> None:
    summary, cube = run(place, "own", CORRUPTIONS + ATTACKED)
    assert summary.failures == []
    assert summary.computed == 2 * (4 + 1)
    prepared = prepare(load_study(place.folder / "study.toml"))
    samples = prepared.samples
    for norm in map(str, cube["interclass"]["norm"].values):
        apart = interclass.distances(samples.x, samples.y, norm)
        np.testing.assert_array_equal(cube["interclass"]["distance"].sel(norm=norm), apart)
    for entry in prepared.entries:
        module = load_model(entry).module.eval()
        stored = cube["samples/shifts/fog"].sel(model=entry.name)
        np.testing.assert_array_equal(stored["clean"], np.arange(60))
        for severity in (1, 5):
            x = corrupt(samples.x, "fog", severity, samples.hashes)
            with torch.no_grad():
                expected = module(torch.from_numpy(x)).numpy()
            at = stored.sel(severity=severity)
            np.testing.assert_allclose(at["logits"], expected, atol=1e-5)
            np.testing.assert_array_equal(at["prediction"], expected.argmax(axis=1))
            right = expected.argmax(axis=1) == samples.y
            counted = cube["shifts"]["correct"].sel(model=entry.name, shift="fog", severity=severity)
            np.testing.assert_array_equal(counted, [right[samples.y == k].sum() for k in range(10)])
        # White-box copies: against each model itself, exactly epsilon away.
        x = torch.from_numpy(samples.x).requires_grad_()
        torch.nn.functional.cross_entropy(module(x), torch.from_numpy(samples.y), reduction="sum").backward()
        assert x.grad is not None
        copies = (x.detach() + x.grad.sign() / 16).clamp(0, 1)
        attacked = cube["samples/shifts/fgsm"].sel(model=entry.name, severity=0)
        with torch.no_grad():
            np.testing.assert_allclose(attacked["logits"], module(copies).numpy(), atol=1e-5)
        np.testing.assert_array_equal(attacked["distance"], 1 / 16)
    deepfool = cube["shifts"]["accuracy"].sel(shift="deepfool", severity=0)
    assert float(deepfool.max()) == 0
    assert cube["shifts"]["norm"].values.tolist() == ["", "", "linf", "l2"]
    settings = json.loads(str(cube["shifts"]["settings"].sel(shift="fgsm").item()))
    assert settings["epsilon"] == "1/16"
    assert verify(place.folder / "own") == []
    rows = [row for row in status(place.folder / "own") if row.norm == "shift"]
    assert [row.attack for row in rows[:4]] == ["fog", "contrast", "fgsm", "deepfool"]
    assert all(row.status == "ok" for row in rows)


def test_fgsm_copies_agree_with_the_sweep_at_that_epsilon(place: Counted) -> None:
    extra = ATTACKED.replace('"1/16"', '"0.1"')
    _, cube = run(place, "sweep", extra)
    swept = cube["linf"]["correct"].sel(attack="fgsm@torchattacks", epsilon=0.1)
    copies = cube["samples/shifts/fgsm"]
    right = (copies["prediction"] == copies["label"]) & (
        cube["samples/clean"]["prediction"] == copies["label"]
    )
    counted = [
        [int(right.sel(model=m)[0, copies["label"].values == k].sum()) for k in range(10)] for m in MODELS
    ]
    np.testing.assert_array_equal(swept, counted)


def test_growth_computes_only_what_is_new(place: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    _, small = run(place, "grown", CORRUPTIONS, samples=40, models={"one": ""})
    before = small["samples/shifts/fog"].to_dataset().load()
    read: list[tuple[int, int]] = []
    whole = runner_shifts._parts

    def noted(shift: object, task: runner_shifts.ShiftTask, done: int) -> list[slice]:
        parts = whole(task.plan.shift, task, done)
        read.append((done, sum(part.stop - part.start for part in parts)))
        return parts

    monkeypatch.setattr(runner_shifts, "_parts", noted)
    wider = CORRUPTIONS.replace("[1, 5]", "[1, 2, 5]")
    run(place, "grown", wider, models={"one": ""})
    assert read == [(40, 20), (0, 60), (40, 20)] * 2  # only new samples and the new severity
    read.clear()
    summary, cube = run(place, "grown", wider + ATTACKED)
    assert read == [(0, 60)] * (2 + 6 + 2)  # attacked copies of the first model; all of the second
    assert summary.reused == 3
    new = cube["samples/shifts/fog"].to_dataset()
    kept = new.sel(model=["one"], severity=[1, 5]).isel(sample=slice(0, 40))
    np.testing.assert_array_equal(kept["logits"], before["logits"])
    assert new["severity"].values.tolist() == [1, 5, 2]
    # The same numbers as of a study that was never grown, and with other batches.
    _, fresh = run(place, "fresh", wider + ATTACKED, batch_size=7)
    for name in ("correct", "total"):
        np.testing.assert_array_equal(fresh["shifts"][name], cube["shifts"][name], err_msg=name)
    again = fresh["samples/shifts/fog"].sel(severity=new["severity"].values)
    np.testing.assert_array_equal(again["logits"], new["logits"])
    # Attacks round differently in other batches, as in a sweep.
    np.testing.assert_allclose(fresh["shifts"]["log_loss"], cube["shifts"]["log_loss"], rtol=1e-6)


def test_other_weights_and_settings_count_as_new(place: Counted) -> None:
    run(place, "changed", CORRUPTIONS, models={"one": ""})
    path = place.folder / "study.toml"
    path.write_text(path.read_text().replace('title = "A study that counts"', "seed = 5"))
    summary = run_study(load_study(path), output=place.folder / "changed", quiet=True, only="one/shift/*")
    assert summary.computed == 2
    cube = metaeval.open_cube(place.folder / "changed")
    assert (cube["shifts"]["correct"] >= 0).all()
    assert (cube["linf"]["correct"] == -1).all()  # of the other seed, and not asked for
    assert json.loads(str(cube["shifts"]["settings"].values[0]))["seed"] == 5


def test_a_failing_shift_is_failed_and_the_rest_goes_on(place: Counted) -> None:
    summary, cube = run(place, "failing", FAILING + CORRUPTIONS)
    assert len(summary.failures) == 2
    assert "OSError: no lens" in summary.failures[0]
    shifts = cube["shifts"].to_dataset().load()
    assert shifts["reason"].sel(shift="lens").values.tolist() == ["OSError: no lens"] * 2
    assert (shifts["status"].sel(shift="lens") == 2).all()
    assert (shifts["correct"].sel(shift="lens") == -1).all()
    assert shifts["accuracy"].sel(shift="lens").isnull().all()
    assert (shifts["correct"].sel(shift=["fog", "contrast"], severity=[1, 5]) >= 0).all()
    assert (cube["linf"]["correct"] >= 0).all()
    # Repaired, it is tried again.
    (place.folder / "lens_functions.py").write_text("def lens(x):\n    return 1 - x\n")
    import lens_functions  # type: ignore[import-not-found]

    lens_functions.lens = lambda x: 1 - x
    again, cube = run(place, "failing", FAILING + CORRUPTIONS)
    assert (again.computed, again.failures) == (2, [])
    assert (cube["shifts"]["correct"].sel(shift="lens", severity=0) >= 0).all()


def test_an_interrupted_task_is_computed_again(place: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    from metaeval.cube import shift_store

    write, calls = shift_store.write_shift, 0

    def killed(*arguments: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(shift_store, "write_shift", killed)
    with pytest.raises(KeyboardInterrupt):
        run(place, "interrupted", CORRUPTIONS, models={"one": ""})
    monkeypatch.setattr(shift_store, "write_shift", write)
    states = {row.attack: row for row in status(place.folder / "interrupted") if row.norm == "shift"}
    assert (states["fog"].status, states["contrast"].interrupted) == ("ok", 1)
    summary, _ = run(place, "interrupted", CORRUPTIONS, models={"one": ""})
    assert (summary.computed, summary.reused) == (2, 1)
    assert verify(place.folder / "interrupted") == []


def test_a_killed_run_goes_on_where_it_was(place: Counted) -> None:
    study = str(place.write({"one": "delay = 0.05"}, attacks='["fgsm@torchattacks"]', extra=CORRUPTIONS))
    command = place.command("run", study, "--output", "killed", "--only", "one/shift/*")
    process = subprocess.Popen(
        command,
        cwd=place.folder,
        env=place.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 90
    while not list((place.folder / "killed/journal/shift").glob("*/*/*.json")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = len(list((place.folder / "killed/journal/shift").glob("*/*/*.json")))
    summary = run_study(
        load_study(Path(study)), output=place.folder / "killed", quiet=True, only="one/shift/*"
    )
    assert (summary.reused, summary.computed) == (done, 2 - done)
    assert verify(place.folder / "killed") == []


def test_limits_patterns_and_plans(place: Counted) -> None:
    summary, cube = run(place, "limited", CORRUPTIONS, limit=20, only="*/shift/fog")
    assert summary.computed == 2
    assert int(cube["shifts"]["total"].sel(shift="fog", severity=1).sum()) == 20
    assert (cube["shifts"]["correct"].sel(shift="contrast") == -1).all()
    study = load_study(place.folder / "study.toml")
    with pytest.raises(UsageError, match="model/norm/attack or model/shift/name"):
        prepare(study, only="*/shift/snow")
    expected = forecast(prepare(study), directory=place.folder / "limited", device=torch.device("cpu"))
    assert "fog corruption 1,5 60 paired 2 0" in " ".join(expected.text().split())
    assert expected.models["one"].tasks == 3
    shifts = {row["shift"]: row for row in expected.as_dict()["shifts"]}
    assert shifts["fog"]["severities"] == [1, 5]
    assert (shifts["fog"]["samples"], shifts["fog"]["forwards"], shifts["fog"]["paired"]) == (60, 2, True)
    limited = forecast(
        prepare(study, limit=20), directory=place.folder / "limited", device=torch.device("cpu")
    )
    assert (limited.models["one"].tasks, limited.models["one"].finished) == (2, 1)
    listed = {(row["kind"], row["name"]) for row in LISTINGS["shifts"]()}
    assert {("source", "cifar10-c"), ("corruption", "jpeg_compression"), ("corruption", "spatter")} <= listed


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ('attack = "fgsn"\nnorm = "linf"\nepsilon = 0.1', "did you mean 'fgsm'"),
        ('attack = "fgsm"\nnorm = "l2"\nepsilon = 0.1', "cannot run with norm l2"),
        ('attack = "fgsm"\nnorm = "linf"', "needs an epsilon above 0"),
        ('attack = "deepfool"\nnorm = "l2"\nepsilon = 0.1', "takes none"),
        ('attack = "pgd"\nnorm = "linf"\nepsilon = 2', "at most 1"),
        (
            'attack = "pgd"\nnorm = "linf"\nepsilon = 0.1\nsettings = { iteration = 3 }',
            "did you mean 'iterations'",
        ),
    ],
)
def test_attacks_that_cannot_be(place: Counted, table: str, message: str) -> None:
    path = place.write({"one": ""}, extra=f'\n[[shifts]]\nsource = "attacked"\n{table}\n')
    with pytest.raises(StudyError, match=message) as raised:
        prepare(load_study(path))
    assert raised.value.exit_code == 2


def test_a_model_without_numbers_for_some_samples_has_answered(place: Counted) -> None:
    """Where a logit is NaN the sample counts as misclassified; only a sample not asked is unknown."""
    (place.folder / "halves.py").write_text(
        "import torch\nfrom networks import Counting\n\n\nclass Half(Counting):\n    def forward(self, x):\n"
        "        bright = (x.mean((1, 2, 3)) > 0.3)[:, None]\n"
        "        return torch.where(bright, torch.nan, super().forward(x))\n"
    )
    model = (
        '\n[[models]]\nsource = "checkpoint"\nname = "half"\narchitecture = "halves:Half"\n'
        'weights = "one.safetensors"\n[measures]\nnames = ["accuracy", "brier"]\ntrain_samples = 50\n'
    )
    summary, cube = run(place, "half", CORRUPTIONS + model)
    assert summary.failures == []
    for path in ("clean", "shifts/contrast"):
        samples = cube[f"samples/{path}"].to_dataset().load().sel(model="half")
        finite = samples.logits.notnull().all("logit")
        assert 0 < finite.sum() < finite.size
        right = finite & (samples.logits.fillna(0).argmax("logit") == samples.label)
        np.testing.assert_array_equal(samples.prediction == samples.label, right)
        counts = cube[path.split("/", maxsplit=1)[0]].to_dataset().load().sel(model="half")
        counts = counts.sel(shift="contrast", severity=[1, 5]) if "shift" in counts.dims else counts
        np.testing.assert_array_equal(counts.correct.sum("class"), right.sum("sample"))
    robust = cube["linf"]["correct"].sel(model="half", epsilon=0, attack="worst-case").sum()
    assert robust == cube["clean"]["correct"].sel(model="half").sum()
    assert (cube["shifts"]["status"].sel(model="half") == 1).all()
    found = cube["measures"].to_dataset().load().sel(model="half", scope="contrast/1")
    expected = cube["shifts"]["correct"].sel(model="half", shift="contrast", severity=1).sum() / 60
    assert found.value.sel(measure="accuracy") == pytest.approx(float(expected))
    assert "not finite" in str(found.reason.sel(measure="brier").item())
    again, _ = run(place, "half", CORRUPTIONS + model)
    assert again.computed == 0  # nothing is computed twice
