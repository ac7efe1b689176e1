"""A study with ``[measures]``: every gap explained, nothing computed twice, no failure that goes further."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from safetensors.torch import save_file
from sklearn import metrics
from sklearn.datasets import load_digits

import metaeval
from metaeval.cube.layout import MEASURE_STATUS
from metaeval.cube.status import status
from metaeval.cube.store import CubeStore
from metaeval.cube.verify import verify
from metaeval.errors import StudyError
from metaeval.measures.performance import Accuracy
from metaeval.measures.spec import Context, Split, Value
from metaeval.measures.uncertainty import LogLoss
from metaeval.runner import job
from metaeval.runner.forecast import forecast
from metaeval.runner.measuring import Scopes
from metaeval.runner.prepare import prepare
from metaeval.runner.run import run_study
from metaeval.sources.models.building import build_module
from metaeval.study import Study, load_study
from metaeval.study.plan import Cost

STUDY = """
schema_version = 1
[study]
name = "measured"
[data]
source = "digits"
samples = 40
[[models]]
source = "train"
architecture = "mlp"
epochs = 2
grid = { width = [8, 16] }
[[threat_models]]
norm = "linf"
epsilons = ["0", "0.1"]
attacks = ["apgd-ce"]
[measures]
train_samples = 100
"""
ALL = 'families = ["performance", "uncertainty", "calibration", "margin", "gradient", "attacked"]'
FEW = 'names = ["accuracy", "log_loss", "weight_gradient_norm"]'
CODES = {code: name for name, code in MEASURE_STATUS.items()}


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train each model once for all of these tests."""
    folder = tmp_path_factory.getbasetemp() / "measured-cache"
    monkeypatch.setenv("METAEVAL_CACHE_DIR", str(folder))


def study_of(folder: Path, measures: str = FEW, text: str = STUDY) -> Study:
    path = folder / "study.toml"
    path.write_text(text + measures + "\n")
    return load_study(path)


def run(folder: Path, measures: str = FEW, text: str = STUDY, **options: object) -> job.Summary:
    return run_study(study_of(folder, measures, text), output=folder / "out", quiet=True, **options)  # type: ignore[arg-type]


def measured(folder: Path) -> xr.Dataset:
    return metaeval.open_cube(folder / "out")["measures"].to_dataset().load()


def words(group: xr.Dataset, **at: str) -> tuple[str, str]:
    cell = group.sel(at)
    return CODES[int(cell.status)], str(cell.reason.item())


def test_every_cell_has_a_value_or_a_reason(tmp_path: Path) -> None:
    summary = run(tmp_path, ALL)
    assert summary.failures == []
    group = measured(tmp_path)
    ok = group.status == MEASURE_STATUS["ok"]
    assert (np.isfinite(group.value) == ok).all()
    assert ((group.reason != "") != ok).all()
    assert (group.status > MEASURE_STATUS["failed"]).sum() + ok.sum() == group.status.size
    for scope in ("clean", "train"):
        assert ok.sel(scope=scope, measure=["accuracy", "ece", "brier", "probability_margin"]).all()
    assert words(group, model="mlp-width=8", measure="pgd_kl", scope="clean") == (
        "skipped",
        "computed on attacked copies only; the study has none",
    )
    assert words(group, model="mlp-width=8", measure="weight_gradient_norm", scope="clean") == (
        "skipped",
        "computed once per model, in the scope 'train'",
    )
    inside = (group.lower <= group.value) & (group.value <= group.upper)
    assert (inside | group.lower.isnull() | group.upper.isnull()).all()
    assert int(group.forwards.sel(measure="weight_gradient_norm", scope="train")[0]) == 100
    assert json.loads(str(group.settings.sel(measure="ece").item())) == {"bins": 15}
    assert str(group.family.sel(measure="ece").item()) == "calibration"
    # Plain xarray reads it too, and every number is what the records say.
    plain = xr.open_zarr(tmp_path / "out" / "cube.zarr", group="measures", chunks=None)
    np.testing.assert_array_equal(plain.value, group.value)
    assert verify(tmp_path / "out") == []
    rows = [row for row in status(tmp_path / "out") if row.norm == "measures"]
    assert {row.status for row in rows if row.attack in ("accuracy", "ece")} == {"ok"}
    assert {(row.ok, row.pending, row.failed) for row in rows if row.attack == "brier"} == {(2, 0, 0)}


def test_values_are_those_of_the_stored_logits(tmp_path: Path) -> None:
    run(tmp_path, ALL)
    group, cube = measured(tmp_path), metaeval.open_cube(tmp_path / "out")
    for scope in ("clean", "train"):
        samples = cube[f"samples/{scope}"].to_dataset().load()
        assert (samples.prediction == samples.logits.argmax("logit")).all()
        for model in group.model.values:
            logits = torch.from_numpy(samples.logits.sel(model=model).values).double()
            y = samples.label.values
            at = group.value.sel(model=model, scope=scope)
            assert at.sel(measure="accuracy") == (logits.argmax(dim=1).numpy() == y).mean()
            expected = metrics.log_loss(y, logits.softmax(dim=1).numpy(), labels=range(10))
            assert float(at.sel(measure="log_loss")) == pytest.approx(expected, rel=1e-6)
    # The training samples are some of the digits' training split, each with its own label.
    train = cube["samples/train"].to_dataset()
    assert train.sizes["sample"] == 100
    position = [int(str(name).split("/")[-1].split("-")[-1]) for name in train.sample_id.values]
    np.testing.assert_array_equal(train.label, load_digits().target[position])


def test_singular_values_are_in_the_predicted_time(tmp_path: Path) -> None:
    """Each kind once, whatever asks for it: 400 passes of the operator's, for weights and for distances."""
    asked = 'names = ["accuracy", "spectral_sum", "log_spectral_product", "frobenius_over_spectral"'
    for measures, passes in (
        ('names = ["accuracy", "frobenius_sum"]', 0),
        (asked + "]", 400),
        (asked + ', "spectral_distance_sum", "spectral_distance_sum_over_margin"]', 800),
        (asked + "]\n[measures.settings.spectral_sum]\nmethod = 'circular'", 600),
    ):
        prepared = prepare(study_of(tmp_path, measures))
        found = forecast(prepared, directory=tmp_path / "out", device=torch.device("cpu"))
        model = found.models["mlp-width=8"]
        assert model.algebra == Cost(passes, passes)
        others = model.training + model.attacks + model.measures
        assert model.seconds == pytest.approx(
            model.speed.seconds(others) + passes * (model.speed.forward + model.speed.backward)
        )
        assert (f"about {passes} forward and backward passes of a sample" in found.text()) == bool(passes)


def test_a_second_run_computes_nothing(tmp_path: Path) -> None:
    first = run(tmp_path)
    before, again = measured(tmp_path), run(tmp_path)
    # Two models: one attack and three measures each.
    assert (first.computed, again.computed, again.reused) == (8, 0, 8)
    assert (again.forwards, again.backwards) == (0, 0)
    xr.testing.assert_identical(before, measured(tmp_path))


def test_only_what_changed_is_computed_again(tmp_path: Path) -> None:
    run(tmp_path)
    added = run(tmp_path, FEW.replace("]", ', "ece"]'))
    assert (added.computed, added.forwards) == (2, 0)
    changed = run(tmp_path, FEW + "\n[measures.settings.weight_gradient_norm]\nsamples = 30")
    assert (changed.computed, changed.forwards, changed.backwards) == (2, 60, 60)
    more = run(tmp_path, text=STUDY.replace("train_samples = 100", "train_samples = 120"))
    # The training set is another one: its passes (in full batches) and all three measures' values on it.
    assert more.computed == 6
    assert more.forwards >= 2 * (120 + 120)
    assert metaeval.open_cube(tmp_path / "out")["samples/train"].sizes["sample"] == 120
    assert verify(tmp_path / "out") == []


def test_only_some_measures_are_asked_for(tmp_path: Path) -> None:
    summary = run(tmp_path, only="*=8/measures/log*")
    assert (summary.computed, summary.reused) == (1, 0)
    group = measured(tmp_path)
    assert words(group, model="mlp-width=8", measure="log_loss", scope="clean")[0] == "ok"
    assert words(group, model="mlp-width=8", measure="accuracy", scope="clean")[0] == "pending"
    assert words(group, model="mlp-width=16", measure="log_loss", scope="clean")[0] == "pending"
    rest = run(tmp_path)
    assert (rest.computed, rest.reused) == (7, 1)


class Stopped(KeyboardInterrupt):
    """Somebody pressed Ctrl-C."""


def test_an_interrupted_run_keeps_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = iter(range(10))
    compute = LogLoss.compute

    def stop(self: LogLoss, *arguments: object, **options: object) -> object:
        if next(calls) == 3:  # the second model, its training samples
            raise Stopped
        return compute(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(LogLoss, "compute", stop)
    with pytest.raises(Stopped):
        run(tmp_path)
    assert words(measured(tmp_path), model="mlp-width=16", measure="log_loss", scope="clean")[0] == "pending"
    monkeypatch.undo()
    monkeypatch.setenv("METAEVAL_CACHE_DIR", str(tmp_path.parent / "measured-cache"))
    rest = run(tmp_path)
    assert (rest.computed, rest.reused) == (2, 6)
    assert (measured(tmp_path).sel(measure="log_loss").status == MEASURE_STATUS["ok"]).all()


def test_an_answer_that_is_no_value_stops_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(
        [0.5, None, Value(1.0, per_class=np.arange(3.0)), Value(np.float32(0.25), forwards=np.int64(7))]
    )
    with monkeypatch.context() as patch:
        patch.setattr(Accuracy, "compute", lambda *_, **__: next(answers))
        assert len(run(tmp_path).failures) == 3
    group = measured(tmp_path)
    cells = [(f"mlp-width={width}", scope) for width in (8, 16) for scope in ("clean", "train")]
    found = [words(group, model=model, measure="accuracy", scope=scope) for model, scope in cells]
    assert found == [
        ("failed", "TypeError: the measure returned a float, not a Value"),
        ("failed", "TypeError: the measure returned a NoneType, not a Value"),
        ("failed", "ValueError: the measure returned 3 numbers for 10 classes"),
        ("ok", ""),
    ]
    assert (group.status.sel(measure="log_loss", scope="clean") == MEASURE_STATUS["ok"]).all()
    last = group.sel(model="mlp-width=16", measure="accuracy", scope="train")
    assert (float(last.value), int(last.forwards)) == (0.25, 7)


def test_a_measure_that_fails_stops_no_other_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Accuracy, "compute", lambda *_, **__: 1 / 0)
        summary = run(tmp_path)
    assert summary.failures == [
        f"mlp-width={width}/measures/accuracy ({scope}): ZeroDivisionError: division by zero"
        for width in (8, 16)
        for scope in ("clean", "train")
    ]
    group = measured(tmp_path)
    failed = ("failed", "ZeroDivisionError: division by zero")
    assert words(group, model="mlp-width=8", measure="accuracy", scope="clean") == failed
    assert np.isnan(group.value.sel(measure="accuracy")).all()
    assert words(group, model="mlp-width=8", measure="log_loss", scope="clean")[0] == "ok"
    again = run(tmp_path)
    assert (again.computed, again.failures) == (2, [])


def write_checkpoint(folder: Path, *, broken: bool) -> str:
    torch.manual_seed(0)
    state = build_module("mlp", {"width": 8}, (1, 8, 8), 10).state_dict()
    if broken:
        next(iter(state.values())).fill_(3e38)
    save_file(state, folder / "weights.safetensors")
    return """
[[models]]
source = "checkpoint"
name = "loaded"
architecture = "mlp"
architecture_settings = { width = 8 }
weights = "weights.safetensors"
expect = false
"""


def test_a_measure_knows_how_many_samples_the_model_was_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def look(self: Accuracy, context: Context, split: Split, **settings: object) -> Value:
        seen.append((context.training_size, None if context.train is None else len(context.train.y)))
        return Value(0.5)

    monkeypatch.setattr(Accuracy, "compute", look)
    run(tmp_path, 'names = ["accuracy"]', STUDY.replace('"digits"', '"digits"\ntrain_samples = 400', 1))
    assert set(seen) == {(400, 100)}


def test_a_search_without_an_answer_counts_its_passes(tmp_path: Path) -> None:
    trained = STUDY.replace("epochs = 2", "epochs = 20").replace("[8, 16]", "[32]")
    settings = "settings.pac_bayes_flatness = { target = 0.93 }"  # more than guessing costs
    summary = run(tmp_path, f'names = ["accuracy", "pac_bayes_flatness"]\n{settings}', trained)
    group = measured(tmp_path).sel(scope="train").isel(model=0)
    assert float(group.value.sel(measure="accuracy")) > 0.93
    state, reason = words(group, measure="pac_bayes_flatness")
    assert (state, "a drop of 0.93" in reason) == ("undefined", True)
    rows = int(group.forwards.sel(measure="pac_bayes_flatness"))
    assert rows >= 32 * 8
    assert summary.forwards >= rows


def test_a_model_whose_logits_are_not_finite(tmp_path: Path) -> None:
    text = STUDY.replace("[[threat", write_checkpoint(tmp_path, broken=True) + "[[threat", 1)
    run(tmp_path, 'families = ["performance", "uncertainty", "calibration", "margin", "gradient"]', text)
    group = measured(tmp_path).sel(model="loaded", scope="clean")
    reason = "logits of 40 of 40 samples are not finite"
    for name in ("log_loss", "ece", "logit_margin", "input_margin"):
        assert words(group, measure=name) == ("undefined", reason)
    assert words(group, measure="input_gradient_norm")[0] == "undefined"
    assert words(group, measure="accuracy")[0] == "ok"
    assert float(group.value.sel(measure="accuracy")) == 0
    others = measured(tmp_path).sel(model="mlp-width=8", scope="clean")
    assert words(others, measure="log_loss")[0] == "ok"


def test_without_training_data_the_rest_has_values(tmp_path: Path) -> None:
    digits = load_digits()
    np.savez(tmp_path / "data.npz", x_test=digits.images[:40] / 16, y_test=digits.target[:40])
    text = STUDY.replace('source = "digits"', 'source = "npz"\npath = "data.npz"')
    start, end = text.index("[[models]]"), text.index("[[threat")
    text = text[:start] + write_checkpoint(tmp_path, broken=False) + text[end:]
    assert run(tmp_path, text=text).failures == []
    group = measured(tmp_path).sel(model="loaded")
    for name in ("accuracy", "weight_gradient_norm"):
        state, reason = words(group, measure=name, scope="train")
        assert state == "skipped"
        assert reason.startswith("no training data: ")
        assert "x_train" in reason
    assert words(group, measure="log_loss", scope="clean")[0] == "ok"
    assert "train" not in metaeval.open_cube(tmp_path / "out")["samples"]


def test_a_model_that_cannot_be_had_fails_its_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(job, "run_clean", lambda *_, **__: 1 / 0)
        summary = run(tmp_path)
    assert "mlp-width=8/measures: ZeroDivisionError: division by zero" in summary.failures
    group = measured(tmp_path)
    assert words(group, model="mlp-width=8", measure="log_loss", scope="clean") == (
        "failed",
        "ZeroDivisionError: division by zero",
    )
    assert run(tmp_path).failures == []
    assert words(measured(tmp_path), model="mlp-width=8", measure="log_loss", scope="clean")[0] == "ok"


def shifted(names: dict[str, float]) -> object:
    """Return a reader of shifts: the clean samples with logits that shrink, the last an attacked copy."""

    def read(store: CubeStore, entry: object, model: object) -> Scopes:
        stored = store.read_clean(entry.name, 0, model.identity)  # type: ignore[attr-defined]
        assert stored is not None
        y, clean = store.labels, np.arange(len(store.labels))
        splits = {
            name: Split(y, stored.logits * np.float32(factor), clean=clean, distance=np.full(len(y), 0.1))
            for name, factor in names.items()
        }
        return Scopes(splits, frozenset(name for name in names if name.startswith("pgd")))

    return read


def test_shifts_and_attacked_copies_are_scopes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"fog/3": 0.5}
    monkeypatch.setattr(job, "shift_scopes", lambda *_: shifted(names))
    run(tmp_path, ALL)
    names["pgd"] = 0.25
    grown = run(tmp_path, ALL)
    group = measured(tmp_path)
    assert list(group.scope.values) == ["clean", "train", "fog/3", "pgd"]
    assert words(group, model="mlp-width=8", measure="input_margin", scope="fog/3") == (
        "skipped",
        "the inputs of this scope are not kept",
    )
    value = group.value.sel(model="mlp-width=8")
    assert value.sel(measure="accuracy", scope="pgd") == value.sel(measure="accuracy", scope="clean")
    same = value.sel(scope="pgd", measure=["pgd_loss", "log_loss"])
    assert float(same[0]) == float(same[1])
    logits = metaeval.open_cube(tmp_path / "out")["samples/clean/logits"].sel(model="mlp-width=8").values
    expected = (np.abs(logits * 0.75).sum(axis=1) / 0.1).mean()
    assert float(value.sel(measure="local_lipschitz", scope="pgd")) == pytest.approx(expected, rel=1e-5)
    assert words(group, model="mlp-width=8", measure="pgd_kl", scope="fog/3")[0] == "skipped"
    # What is computed once per model was not computed again for the new scope.
    assert grown.backwards == 0
    assert verify(tmp_path / "out") == []


def test_the_shifts_of_a_study_are_scopes(tmp_path: Path) -> None:
    shifts = """
[[shifts]]
source = "corruptions"
names = ["contrast"]
severities = [1, 5]

[[shifts]]
source = "attacked"
attack = "fgsm"
norm = "linf"
epsilon = "1/16"
"""
    names = 'names = ["accuracy", "pgd_kl", "local_lipschitz"]'
    assert run(tmp_path, names, STUDY.replace("[measures]", shifts + "[measures]")).failures == []
    group, cube = measured(tmp_path), metaeval.open_cube(tmp_path / "out")
    attacked = next(name for name in group.scope.values if "fgsm" in str(name))
    assert set(group.scope.values) == {"clean", "train", "contrast/1", "contrast/5", attacked}
    accuracy = cube["shifts"].to_dataset()
    counted = accuracy.correct.sum("class") / accuracy.total.where(accuracy.total > 0, 0).sum("class")
    for severity in (1, 5):
        np.testing.assert_allclose(
            group.value.sel(measure="accuracy", scope=f"contrast/{severity}"),
            counted.sel(shift="contrast", severity=severity),
        )
    samples = cube[f"samples/shifts/{attacked}"].to_dataset().isel(severity=0).load()
    clean = cube["samples/clean"].to_dataset().load()
    change = abs(samples.logits - clean.logits.isel(sample=samples["clean"].values)).sum("logit")
    expected = (change / samples.distance).where(samples.distance > 0).mean("sample")
    at = group.value.sel(measure="local_lipschitz", scope=attacked)
    np.testing.assert_allclose(at, expected, rtol=1e-4)
    assert run(tmp_path, names, STUDY.replace("[measures]", shifts + "[measures]")).computed == 0


def test_damage_is_found_and_computed_again(tmp_path: Path) -> None:
    run(tmp_path)
    record = next((tmp_path / "out" / "journal" / "measures").glob("*/log_loss/*.json"))
    record.write_text(record.read_text().replace('"ok"', '"odd"', 1))
    logits = tmp_path / "out" / "cube.zarr" / "samples" / "train" / "logits" / "c"
    chunk = next(path for path in sorted(logits.rglob("*")) if path.is_file())
    chunk.write_bytes(chunk.read_bytes()[:-5])
    found = {finding.where: finding.message for finding in verify(tmp_path / "out")}
    assert "its record is damaged or of another version" in found.values()
    assert found["mlp-width=8 / train / forward / shard 0"] == "the stored values do not match their record"
    again = run(tmp_path)
    assert again.computed == 1
    assert again.forwards >= 100
    assert verify(tmp_path / "out") == []


@pytest.mark.parametrize(
    ("measures", "line", "message", "near"),
    [
        ('families = ["margins"]', 22, "unknown family 'margins'; allowed: attacked,", "margin"),
        ('names = ["accuracy", "acuracy"]', 22, "unknown measure 'acuracy'; allowed: ", "accuracy"),
        (f"{FEW}\n[measures.settings.eec]\nbins = 3", 23, "unknown measure 'eec'", "ece"),
        (f"{FEW}\n[measures.settings.ece]\nbins = 3", 23, "does not ask for this measure", None),
        (
            'names = ["ece"]\n[measures.settings.ece]\nbin = 3',
            24,
            "unknown setting of ece 'bin'; allowed: bins",
            "bins",
        ),
        ('names = ["ece"]\n[measures.settings.ece]\nbins = 0', 24, "expected 1 to 10000, got 0", None),
        ('names = ["f1"]\n[measures.settings.f1]\naverage = "mean"', 24, "expected one of macro,", None),
    ],
)
def test_mistakes_are_found_before_anything_runs(
    tmp_path: Path, measures: str, line: int, message: str, near: str | None
) -> None:
    with pytest.raises(StudyError) as caught:
        prepare(study_of(tmp_path, measures))
    problem = caught.value.problems[0]
    assert message in problem.message
    assert problem.suggestion == near
    lines = (tmp_path / "study.toml").read_text().splitlines()
    assert problem.key.split(".")[-1].split("[")[0] in lines[problem.line - 1], problem


def test_the_plan_predicts_what_a_run_counts_with_shared_passes_once(tmp_path: Path) -> None:
    trained = STUDY.replace("epochs = 2", "epochs = 20").replace("[8, 16]", "[32]")
    study = study_of(tmp_path, 'families = ["norm", "sharpness"]', trained)
    output = tmp_path / "out"
    prepared = prepare(study)
    expected = forecast(prepared, directory=output, device=torch.device("cpu"))
    run_study(study, output=output, quiet=True)
    group = measured(tmp_path)
    model = str(group.model.values[0])
    predicted, at = expected.models[model].measures, group.sel(model=model)
    ran = at.status == MEASURE_STATUS["ok"]
    training = 100  # the forward passes for the logits of the training samples
    assert int(at.forwards.where(ran, 0).sum()) + training == pytest.approx(predicted.forwards, rel=0.3)
    assert int(at.backwards.where(ran, 0).sum()) == pytest.approx(predicted.backwards, rel=0.3)
    assert int(at.forwards.sel(measure="pac_bayes_bound", scope="train")) == 0
    assert "passes are shared" in str(at.note.sel(measure="pac_bayes_bound", scope="train").item())


def test_a_black_box_has_what_logits_give_and_reasons_for_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a_forest.py").write_text(
        "from sklearn.datasets import load_digits\nfrom sklearn.ensemble import RandomForestClassifier\n"
        "def forest():\n    data = load_digits()\n"
        "    return RandomForestClassifier(5, random_state=0).fit(data.data[:800] / 16, data.target[:800])\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    trained = STUDY[STUDY.index("[[models]]") : STUDY.index("[[threat_models]]")]
    forest = '[[models]]\nsource = "sklearn"\nname = "forest"\nmodel = "a_forest:forest"\n'
    text = STUDY.replace(trained, forest).replace("apgd-ce", "square")
    everything = f'{ALL[:-1]}, "norm", "sharpness"]'
    prepared = prepare(study_of(tmp_path, everything, text))
    expected = forecast(prepared, directory=tmp_path / "out", device=torch.device("cpu"))
    assert expected.models["forest"].measures == Cost(100, 0)  # the logits of the training samples
    assert run(tmp_path, everything, text).failures == []
    group = measured(tmp_path).sel(model="forest")
    ok = group.status == MEASURE_STATUS["ok"]
    assert (np.isfinite(group.value) == ok).all()
    assert ((group.reason != "") != ok).all()
    assert ok.sel(measure=["accuracy", "brier", "ece", "probability_margin"], scope="clean").all()
    for measure in ("log_spectral_product", "pac_bayes_flatness", "weight_gradient_norm"):
        reasons = {words(group, measure=measure, scope=scope) for scope in ("clean", "train")}
        assert any(status == "skipped" and "gives no gradients" in reason for status, reason in reasons)
