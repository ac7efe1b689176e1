"""Black boxes: what their logits are, what is planned for them, and what the cube says of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from counted import STUDY, Counted
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier

from metaeval import open_cube
from metaeval.attacks import sweep
from metaeval.cube.verify import verify
from metaeval.errors import StudyError, UsageError
from metaeval.report.page import write_report
from metaeval.runner import job
from metaeval.runner.forecast import forecast
from metaeval.runner.job import Summary
from metaeval.runner.prepare import prepare
from metaeval.runner.run import run_study
from metaeval.sources.models.foreign.adapter import Foreign
from metaeval.sources.models.foreign.black_boxes import SMALLEST, adapt_estimator, adapt_function
from metaeval.study import load_study

BOXES = """
import numpy as np
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.svm import SVC

DATA = load_digits()
X, Y = (DATA.data[:800] / 16).astype(np.float32), DATA.target[:800]


def forest(trees=5, **more):
    return RandomForestClassifier(trees, random_state=0, **more).fit(X, Y)


def shifted():
    return RandomForestClassifier(5, random_state=0).fit(X, Y + 1)


def words():
    return RandomForestClassifier(5, random_state=0).fit(X, [f"digit {label}" for label in Y])


def unfitted():
    return RandomForestClassifier(5)


def machine():
    return SVC().fit(X, Y)


def wide():
    return RandomForestClassifier(5, random_state=0).fit(X[:, :32], Y)


def scores():
    return lambda x: np.ones((len(x), 10))


def two_classes():
    return lambda x: np.full((len(x), 2), 0.5)


def read(weights):
    return lambda x: np.full((len(x), 10), 0.1)


def predict(x):
    return np.full((len(x), 10), 0.1)


def not_a_number():
    return lambda x: np.full((len(x), 10), np.nan)
"""

FOREST = '[[models]]\nsource = "sklearn"\nname = "forest"\nmodel = "boxes:forest"\n'
L2 = '\n[[threat_models]]\nnorm = "l2"\nepsilons = ["0.5"]\nmode = "cascade"\n'
CASCADE, BLACK = (L2 + f"attacks = {attacks}\n" for attacks in ('["apgd-ce", "square"]', '["square"]'))
QUERIES = '\n[[threat_models.attack]]\nname = "square"\nqueries = 20\n'


@pytest.fixture
def study(counted: Counted) -> Callable[[str], Path]:
    """Return a function that writes a study with given models beside a module of black boxes."""
    (counted.folder / "boxes.py").write_text(BOXES)

    def write(models: str, attacks: str = '["apgd-ce", "square"]', extra: str = QUERIES) -> Path:
        text = STUDY.format(samples=20, models=models, epsilons='["0", "0.1"]', attacks=attacks)
        path = counted.folder / "study.toml"
        path.write_text(text + extra)
        return path

    return write


def digits(n: int = 30) -> tuple[np.ndarray, np.ndarray]:
    data = load_digits()
    return (data.data[1297 : 1297 + n] / 16).astype(np.float32).reshape(-1, 1, 8, 8), data.target[
        1297 : 1297 + n
    ]


def test_logits_are_logarithms_of_the_probabilities() -> None:
    data = load_digits()
    seen = data.target != 3  # a class that the estimator does not know
    forest = RandomForestClassifier(10, random_state=0).fit(
        data.data[seen][:900] / 16, data.target[seen][:900]
    )
    module = Foreign(adapt_estimator(forest, weights=None, shape=(1, 8, 8), classes=10))
    x, _ = digits()
    logits = module(torch.from_numpy(x).requires_grad_())
    assert not logits.requires_grad
    probabilities = np.zeros((len(x), 10))
    probabilities[:, forest.classes_] = forest.predict_proba(x.reshape(len(x), -1))
    np.testing.assert_allclose(logits.numpy(), np.log(np.maximum(probabilities, SMALLEST)), rtol=1e-6)
    np.testing.assert_allclose(logits.softmax(dim=1).numpy(), probabilities, atol=1e-6)
    np.testing.assert_array_equal(logits.argmax(dim=1).numpy(), forest.predict(x.reshape(len(x), -1)))


def test_a_function_that_scales_in_place_leaves_the_samples_alone() -> None:
    def scale(x: np.ndarray) -> np.ndarray:
        x *= 0.5
        return np.full((len(x), 10), 0.1)

    box = Foreign(adapt_function(scale, weights=None, shape=(1, 8, 8), classes=10))
    x = torch.ones(4, 1, 8, 8)
    box(x)
    assert torch.equal(x, torch.ones(4, 1, 8, 8))


def test_a_sweep_says_what_its_logits_are() -> None:
    x, y = digits()
    means = np.stack([x[y == label].mean(axis=0) for label in range(10)]).reshape(1, 10, 64)

    def predict(x: np.ndarray) -> np.ndarray:
        distance = ((x.reshape(len(x), 1, 64) - means) ** 2).sum(axis=2)
        scores = np.exp(-10 * (distance - distance.min(axis=1, keepdims=True)))
        return scores / scores.sum(axis=1, keepdims=True)

    box = Foreign(adapt_function(predict, weights=None, shape=(1, 8, 8), classes=10))
    result = sweep(box, x, y, epsilons=[0, 0.3], attack="square", queries=100)
    assert (result.flags["log_probabilities"], result.flags["probabilities"]) == (1, 0)
    assert 0 < np.isin(result.cells[:, 1], (2, 3)).sum() < len(x)
    assert not result.backwards.any()

    class Softmax(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return box(x).exp()

    flags = sweep(Softmax(), x, y, epsilons=[0.3], attack="square", queries=2).flags
    assert (flags["log_probabilities"], flags["probabilities"]) == (0, 1)


def test_identity_follows_the_weights() -> None:
    data = load_digits()

    def fingerprint(seed: int) -> str:
        forest = RandomForestClassifier(3, random_state=seed).fit(data.data[:300], data.target[:300])
        return adapt_estimator(forest, weights=None, shape=(1, 8, 8), classes=10).fingerprint

    assert fingerprint(0) == fingerprint(0) != fingerprint(1)

    def constant(p: float) -> str:
        row = np.array([p, 1 - p])
        return adapt_function(
            lambda x: np.tile(row, (len(x), 1)), weights=None, shape=(4,), classes=2
        ).fingerprint

    assert constant(0.5) == constant(0.5) != constant(0.6)


def test_what_is_no_probability_stops_an_attack() -> None:
    first = [True]

    def fails(x: np.ndarray) -> np.ndarray:
        good = np.full((len(x), 2), 0.5)
        return good if first and first.pop() else 2 * good

    box = Foreign(adapt_function(fails, weights=None, shape=(4,), classes=2))
    with pytest.raises(UsageError, match="no probabilities: rows sum to 2 to 2"):
        box(torch.rand(3, 4))


@pytest.mark.parametrize(
    ("source", "model", "message"),
    [
        ("sklearn", "shifted", "its classes_ are [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]; whole numbers from 0 to 9"),
        ("sklearn", "words", "its classes_ are ['digit 0'"),
        ("sklearn", "unfitted", "gives RandomForestClassifier, which is not fitted"),
        ("sklearn", "machine", "gives type SVC, without predict_proba"),
        (
            "sklearn",
            "wide",
            "cannot be computed with inputs (1, 8, 8) (channels_first): ValueError: X has 64",
        ),
        ("callable", "scores", "rows sum to 10 to 10"),
        ("callable", "two_classes", "shape (3, 2); the data have 10 classes"),
        ("callable", "not_a_number", "no probabilities"),
        ("callable", "read", "models[0].weights: missing: boxes:read takes the path"),
        ("callable", "predict", "boxes:predict needs settings: x (it is called once, for the model)"),
    ],
)
def test_models_that_are_no_black_boxes(
    source: str, model: str, message: str, study: Callable[..., Path]
) -> None:
    path = study(f'[[models]]\nsource = "{source}"\nmodel = "boxes:{model}"\n', '["square"]')
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(path.parent))
        patch.delitem(sys.modules, "boxes", raising=False)
        with pytest.raises(StudyError) as raised:
            prepare(load_study(path))
        patch.delitem(sys.modules, "boxes", raising=False)
    assert raised.value.exit_code == 2
    assert message in str(raised.value)


@pytest.fixture
def run(counted: Counted, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Summary]]:
    """Return a function that runs the study of the folder, in this process."""
    monkeypatch.syspath_prepend(str(counted.folder))
    monkeypatch.chdir(counted.folder)
    sys.modules.pop("boxes", None)
    sys.modules.pop("networks", None)
    yield lambda path, **more: run_study(load_study(path), quiet=True, device="cpu", **more)
    sys.modules.pop("boxes", None)
    sys.modules.pop("networks", None)


def test_attacks_with_gradients_are_skipped(
    counted: Counted, study: Callable[..., Path], run: Callable[..., Summary]
) -> None:
    """The plan says so, the cube marks them, and the worst case is over the others."""
    linear = (
        '\n[[models]]\nsource = "checkpoint"\nname = "linear"\narchitecture = "networks:counting"\n'
        'weights = "one.safetensors"\n'
    )
    path = study(FOREST + linear, extra=QUERIES + CASCADE + QUERIES)
    folder = counted.folder / "reports/counted"
    plan = forecast(prepare(load_study(path)), directory=folder, device=torch.device("cpu")).text()
    reason = "needs gradients, which this model does not give"
    assert f"forest: apgd-ce (linf) is skipped: it {reason}" in plan
    assert f"forest: cascade (l2) is skipped: apgd-ce of it {reason}" in plan
    assert "linear: " not in plan
    assert "4 tasks to do" in plan
    assert (run(path).computed, run(path).reused) == (4, 4)  # nothing is computed twice
    cube = open_cube(folder)
    linf, l2 = (cube[norm].to_dataset() for norm in ("linf", "l2"))
    for model, status, members in (
        ("forest", [1, 3, 1], [False, False, True]),
        ("linear", [1, 1, 1], [False, True, True]),
    ):
        assert linf.sel(model=model).status.values.tolist() == status
        assert linf.sel(model=model).members.values.tolist() == members
    forest = linf.robust_accuracy.sel(model="forest")
    np.testing.assert_array_equal(forest.sel(attack="worst-case"), forest.sel(attack="square"))
    assert forest.sel(attack="apgd-ce").isnull().all()
    assert str(l2.reason.sel(model="forest", attack="worst-case").item()) == "no attack applies"
    assert l2.status.sel(model="forest").values.tolist() == [3, 3]
    page = write_report(folder, folder / "report.html").read_text()
    assert "attacks do not apply to it" in page
    assert "2 attacks on a model do not apply (for example forest, " in page
    assert "results are missing" not in page
    assert np.isnan(cube["models"]["parameters"].sel(model="forest").item())  # not known
    assert verify(folder) == []
    # Where the model gets gradients, the skips of the black box no longer count.
    run(study(linear.replace('"linear"', '"forest"')), only="*/*/square")
    rows = open_cube(folder)["linf"].to_dataset()
    assert rows.status.sel(model="forest", attack="apgd-ce") == 0


def test_a_model_to_which_no_attack_applies_has_a_clean_accuracy(
    counted: Counted, study: Callable[..., Path], run: Callable[..., Summary]
) -> None:
    assert run(study(FOREST, '["apgd-ce"]', "")).computed == 0
    cube = open_cube(counted.folder / "reports/counted")
    assert 0.5 < cube["clean"]["correct"].sum() / 20 <= 1
    assert cube["linf"]["status"].values.tolist() == [[3, 3]]
    summary = run(study(FOREST, '["square"]', QUERIES + BLACK + QUERIES))  # a cascade of black boxes applies
    assert (summary.computed, summary.failures) == (2, [])


def test_a_model_that_fails_later_is_said(
    study: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it has no task that could fail."""
    path = study(FOREST, '["apgd-ce"]', "")
    monkeypatch.syspath_prepend(str(path.parent))

    def gone(entry: object) -> None:
        raise OSError("gone")

    monkeypatch.setattr(job, "load_model", gone)
    summary = run_study(load_study(path), output=tmp_path / "out", quiet=True, device="cpu")
    assert summary.failures == ["forest: OSError: gone"]


def test_copies_that_need_gradients_are_skipped(
    counted: Counted, study: Callable[..., Path], run: Callable[..., Summary]
) -> None:
    """As attacks are: said in the plan, with the reason in the cube, and no failure; others are made."""
    table = '\n[[shifts]]\nsource = "attacked"\nattack = "{}"\nnorm = "linf"\nepsilon = 0.1\n'
    shifts = table.format("fgsm") + table.format("square") + "settings = { queries = 20 }\n"
    path = study(FOREST, '["apgd-ce"]', f'{shifts}\n[measures]\nnames = ["pgd_loss"]\ntrain_samples = 20\n')
    folder = counted.folder / "reports/counted"
    plan = forecast(prepare(load_study(path)), directory=folder, device=torch.device("cpu")).text()
    reason = "its attack needs gradients, which this model does not give"
    assert f"forest: shift fgsm is skipped: {reason}" in plan
    assert "2 tasks to do" in plan
    summary = run(path)
    assert (summary.computed, summary.failures) == (2, [])
    assert run(path).computed == 0
    cube = open_cube(folder)
    rows = cube["shifts"].to_dataset().sel(model="forest")
    assert rows.status.sel(shift=["fgsm", "square"]).values.tolist() == [3, 1]
    assert rows.reason.sel(shift="fgsm").item() == reason
    assert cube["measures"]["value"].sel(model="forest", measure="pgd_loss", scope="square").notnull()
    assert verify(folder) == []
