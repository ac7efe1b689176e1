"""Cascades against a brute-force twin on synthetic verdicts, and on real attacks with the same seeds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from worlds import FINE, RowModel, TableModel, linear_case, table_inputs

from metaeval.attacks import cascade, cascading, catalogue, sweep
from metaeval.attacks.cascading import KnownCascade, run_cascade
from metaeval.attacks.kernel import KernelResult
from metaeval.attacks.presets import PRESETS, stages_of
from metaeval.attacks.spec import AttackSpec
from metaeval.errors import UsageError
from metaeval.outcomes import Cell, broken

QUICK = ["apgd-ce", "apgd-dlr", ("fab", {"iterations": 8}), ("square", {"queries": 40})]
BROKEN = (Cell.BROKEN, Cell.BROKEN_ENVELOPE, Cell.BROKEN_OVERRULED)
ANSWERS: dict[str, np.ndarray] = {}  # what each fake attack returns: distance in steps, 0 for nothing


def _answer(name: str, x: torch.Tensor, level: np.ndarray) -> KernelResult:
    sample = (x[:, 0] * 64).round().long().numpy()
    moved = ANSWERS[name][sample, level]
    result = KernelResult.failed(x)
    result.candidates[:, 1] = torch.from_numpy(moved / FINE).float()
    result.success[:] = torch.from_numpy(moved > 0)
    result.forwards[:] = 1
    return result


def first(model, x, y, epsilon, **_) -> KernelResult:
    """Answer from a table at the level of the radius."""
    return _answer("first", x, (epsilon.numpy() * FINE).round().astype(int))


def second(model, x, y, epsilon, **_) -> KernelResult:
    """Answer from another table."""
    return _answer("second", x, (epsilon.numpy() * FINE).round().astype(int))


def nearest(model, x, y, **_) -> KernelResult:
    """Answer from a table without levels."""
    return _answer("nearest", x, np.zeros(len(x), dtype=int))


def _spec(name: str, kind: str) -> AttackSpec:
    return AttackSpec(
        id=name,
        norms=("linf",),
        kind=kind,
        run=f"{__name__}:{name}",
        implementation="metaeval",
        citation="",
        passes=lambda *_: (1.0, 0.0),
    )


FAKES = {
    "first": _spec("first", "fixed-epsilon"),
    "second": _spec("second", "fixed-epsilon"),
    "nearest": _spec("nearest", "minimum-norm"),
}


@st.composite
def worlds(draw):
    n, count = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    stages = draw(st.permutations(list(FAKES)))[:count]
    steps = sorted(draw(st.lists(st.integers(1, FINE), min_size=1, max_size=5, unique=True)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    adversarial = rng.random((n, FINE + 1)) < draw(st.sampled_from([0.3, 0.6, 0.9]))
    adversarial[:, 0] = False
    answers = {}
    for name in FAKES:
        table = rng.integers(0, FINE + 1, (n, FINE + 1))
        exact = rng.random(table.shape) < 0.7
        table = np.where(exact, np.arange(FINE + 1), table)
        table[rng.random(table.shape) < 0.4] = 0
        answers[name] = table
    return stages, np.array(steps), adversarial, answers


def attempt(world, name: str, i: int, step: int) -> float:
    """Return the verified distance, in steps, of one attack at one level; inf if it fails."""
    _, _, adversarial, answers = world
    moved = int(answers[name][i, step])
    return moved if 0 < moved <= step and adversarial[i, moved] else np.inf


def twin(world, i: int) -> tuple[list[float], list[set[int]]]:
    """Return one sample's distance after each stage and where each failed: exact mode, told plainly."""
    stages, steps, adversarial, answers = world
    distance, distances, failures = np.inf, [], []
    for name in stages:
        failed: set[int] = set()
        if name == "nearest":
            if distance > steps[0]:
                moved = int(answers[name][i, 0])
                own = moved if moved and adversarial[i, moved] else np.inf
                failed = {int(step) for step in steps if step < own}
                distance = min(distance, own)
        else:
            for step in steps:
                if distance <= step:
                    break
                own = attempt(world, name, i, step)
                if own == np.inf:
                    failed.add(int(step))
                distance = min(distance, own)
        distances.append(distance)
        failures.append(failed)
    return distances, failures


def play(world, search: str, known=None, steps=None):
    stages, all_steps, adversarial, answers = world
    ANSWERS.clear()
    ANSWERS.update(answers)
    x, y = table_inputs(len(adversarial))
    return run_cascade(
        TableModel(adversarial),
        x,
        y,
        stages=[(FAKES[name], {}) for name in stages],
        norm="linf",
        epsilons=(all_steps if steps is None else steps) / FINE,
        search=search,
        known=known,
    )


@settings(max_examples=150, deadline=None)
@given(worlds())
def test_exact_cascade_is_its_twin(world):
    _, steps, adversarial, _ = world
    result = play(world, "exact")
    for i in range(len(adversarial)):
        distances, failures = twin(world, i)
        np.testing.assert_array_equal(result.stage_distance[:, i] * FINE, distances)
        for k, step in enumerate(steps):
            cell = result.cells[i, k]
            assert (distances[-1] <= step) == (cell in BROKEN)
            if distances[-1] > step:
                assert cell == Cell.ROBUST, "every stage ran here"
                assert all(step in failed for failed in failures)
            assert (cell == Cell.BROKEN_OVERRULED) == (
                distances[-1] <= step and all(step in failed for failed in failures)
            )


@settings(max_examples=150, deadline=None)
@given(worlds(), st.sampled_from(["exact", "frontier"]))
def test_what_a_cascade_says_holds(world, search):
    stages, steps, _, _ = world
    result = play(world, search)
    levels = steps / FINE
    assert (result.stage_distance[1:] <= result.stage_distance[:-1]).all(), "accuracy can only fall"
    np.testing.assert_array_equal(result.stage_distance[-1], result.distance)
    assert ((result.searched < result.distance) | np.isinf(result.searched)).all()
    assert (result.cells != Cell.PENDING).all()
    is_broken = broken(result.distance[:, None], levels) == 1
    robust = np.isin(result.cells, (Cell.ROBUST, Cell.ROBUST_INFERRED))
    np.testing.assert_array_equal(is_broken, ~robust)
    for i, k in np.argwhere(result.cells == Cell.ROBUST):
        for name in stages:
            if name == "nearest":
                continue  # one run at every radius
            assert attempt(world, name, i, steps[k]) == np.inf, "not every stage failed here"
    assert (levels[None, :] <= result.searched[:, None])[robust].all()
    np.testing.assert_array_equal(result.forwards, result.stage_forwards.sum(axis=0))


@settings(max_examples=100, deadline=None)
@given(worlds(), st.integers(1, 31), st.sampled_from(["exact", "frontier"]))
def test_later_epsilons_change_nothing_that_holds(world, chosen, search):
    steps = world[1]
    early = steps[[bool(chosen >> k & 1) for k in range(len(steps))]]
    if len(early) == 0:
        return
    start = play(world, search, steps=early)
    known = KnownCascade(
        early / FINE, start.distance, start.searched, start.cells, stage_distance=start.stage_distance
    )
    grown, fresh = play(world, search, known=known), play(world, search)
    if search == "exact":
        for name in ("cells", "distance", "searched", "stage_distance"):
            np.testing.assert_array_equal(getattr(grown, name), getattr(fresh, name), err_msg=name)
    is_broken = broken(grown.distance[:, None], steps / FINE) == 1
    robust = np.isin(grown.cells, (Cell.ROBUST, Cell.ROBUST_INFERRED))
    np.testing.assert_array_equal(is_broken, ~robust)
    assert (grown.stage_distance[1:] <= grown.stage_distance[:-1]).all()
    np.testing.assert_array_equal(grown.stage_distance[-1], grown.distance)
    if len(early) == len(steps):
        assert (grown.forwards == 0).all()


def small_case() -> tuple[nn.Module, np.ndarray, np.ndarray]:
    model = RowModel(12, 4)
    x = np.random.default_rng(0).random((24, 12)).astype(np.float32)
    y = model(torch.from_numpy(x)).argmax(dim=1).numpy()
    y[:2] = (y[:2] + 1) % 4
    return model, x, y


def test_exact_cascade_breaks_what_the_naive_loop_breaks():
    """The naive loop: at every epsilon each attack on what those before it left, with the same seeds."""
    model, x, y = small_case()
    epsilons = [0.0, 0.01, 0.02, 0.05, 0.1, 0.15]
    stages = [("square", {"queries": 3}), ("apgd-dlr", {"iterations": 2}), *QUICK[:1]]
    result = cascade(model, x, y, epsilons=epsilons, stages=stages, search="exact")
    found = np.zeros((len(stages), len(x), len(epsilons)), dtype=bool)
    for k, epsilon in enumerate(epsilons):
        left = np.ones(len(x), dtype=bool)
        for position, stage in enumerate(stages):
            name, settings_ = stage if isinstance(stage, tuple) else (stage, {})
            if left.any():
                alone = sweep(
                    model, x[left], y[left], epsilons=[epsilon], attack=name, search="exact", **settings_
                )
                left[left] = np.isin(alone.cells[:, 0], (Cell.ROBUST, Cell.ROBUST_INFERRED))
            found[position:, ~left, k] = True
    naive = np.maximum.accumulate(found, axis=2)  # an adversarial breaks every larger ball
    ours = broken(result.stage_distance[:, :, None], epsilons) == 1
    np.testing.assert_array_equal(ours, naive)
    assert naive[2].sum() > naive[1].sum() > naive[0].sum(), "later stages break something"


@pytest.mark.parametrize("search", ["exact", "frontier"])
def test_each_stage_meets_only_what_is_unbroken(search):
    model, x, y = small_case()
    epsilons = [0.01, 0.02, 0.05, 0.1]
    result = cascade(model, x, y, epsilons=epsilons, stages=QUICK, search=search)
    assert result.stages == ("apgd-ce", "apgd-dlr", "fab", "square")
    spent = result.stage_forwards + result.stage_backwards
    for position in range(1, len(QUICK)):
        everywhere = broken(result.stage_distance[position - 1], epsilons[0]) == 1
        assert (spent[position, everywhere] == 0).all()
        assert (spent[position, ~everywhere] > 0).all()
    # The first stage is the pure column.
    alone = sweep(model, x, y, epsilons=epsilons, attack="apgd-ce", search=search)
    np.testing.assert_array_equal(result.stage_distance[0], alone.distance)
    np.testing.assert_array_equal(result.stage_forwards[0], alone.forwards)
    assert (result.stage_seconds > 0).any(axis=1).all()
    assert result.stage_seconds.shape == (4, 4)


@pytest.mark.parametrize("search", ["exact", "frontier"])
def test_linear_models_against_the_closed_form(search):
    case = linear_case(3)
    truth = case.distance["linf"]
    epsilons = np.quantile(truth, [0.2, 0.5, 0.8]) * 1.0005
    result = cascade(
        case.model, case.x, case.y, epsilons=epsilons, stages=["apgd-dlr", "apgd-ce", "fab"], search=search,
        evidence=True,
    )  # fmt: skip
    robust = np.isin(result.cells, (Cell.ROBUST, Cell.ROBUST_INFERRED))
    np.testing.assert_array_equal(robust, truth[:, None] > epsilons)
    assert (result.distance >= truth * (1 - 1e-5)).all()
    # The evidence is the adversarial that the distance is the norm of, whichever stage found it.
    size = np.abs(result.evidence.astype(np.float64) - case.x).reshape(len(case.x), -1).max(axis=1)
    np.testing.assert_allclose(size, result.distance, atol=1e-7)


class Coin(nn.Module):
    """Answers differ from call to call."""

    def forward(self, x):
        return x.flatten(1)[:, :3] + 0.2 * torch.rand(len(x), 3)


def test_a_randomised_model_gets_verdicts_per_level_and_no_distances():
    torch.manual_seed(0)
    x = np.random.default_rng(1).random((12, 6)).astype(np.float32)
    y = x[:, :3].argmax(axis=1)
    result = cascade(Coin(), x, y, epsilons=[0.0, 0.05, 0.3], stages=["apgd-ce", "apgd-dlr"])
    assert result.flags["randomised"] == 1
    assert set(np.unique(result.cells)) <= {Cell.MISCLASSIFIED, Cell.BROKEN, Cell.ROBUST}
    correct = result.cells[:, 0] != Cell.MISCLASSIFIED
    assert correct.any()
    assert np.isnan(result.distance[correct]).all()
    assert np.isnan(result.stage_distance[:, correct]).all()
    assert (result.stage_distance[:, ~correct] == 0).all()


def test_seconds_are_divided_by_passes_and_sum_to_what_was_measured(monkeypatch):
    clock = iter(np.arange(0.0, 1000.0, 10.0))
    monkeypatch.setattr(cascading.time, "monotonic", lambda: float(next(clock)))
    model, x, y = small_case()
    result = cascade(model, x, y, epsilons=[0.0, 0.02, 0.1], stages=["apgd-ce", ("fab", {"iterations": 3})])
    np.testing.assert_allclose(result.stage_seconds.sum(axis=1), 10.0)
    assert (result.stage_seconds[:, 0] == 0).all()
    np.testing.assert_allclose(result.stage_seconds[1, 1:], 5.0)


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ("autoattack-standart", "did you mean 'autoattack-standard'"),
        (["apgd-ce", "apgd-ce"], "none twice"),
        ([], "at least one"),
        (["apgd-cee"], "did you mean 'apgd-ce'"),
        (["apgd-ce", ("square", {"query": 3})], "did you mean 'queries'"),
        (["apgd-ce", "deepfool@torchattacks"], "cannot run with norm linf"),
    ],
)
def test_wrong_stages_are_refused(stages, said):
    model, x, y = small_case()
    with pytest.raises(UsageError, match=said):
        cascade(model, x, y, epsilons=[0.1], stages=stages)


def test_presets_fit_the_catalogue():
    """Every stage that the catalogue has takes the settings that the preset fixes, none below standard."""
    assert [name for name, _ in PRESETS["autoattack-standard"]] == ["apgd-ce", "apgd-t", "fab-t", "square"]
    for stages in PRESETS.values():
        assert len({name for name, _ in stages}) == len(stages)
        for name, fixed in stages:
            spec = catalogue.get(name)
            settings = catalogue.resolve_settings(spec, fixed)
            assert not catalogue.reduced(spec, settings)


def test_presets_for_l1():
    standard = dict(stages_of("autoattack-standard", "l1"))
    assert standard["apgd-ce"]["restarts"] == 5
    assert standard["apgd-t"]["targets"] == 5
    assert standard["square"] == dict(PRESETS["autoattack-standard"])["square"]
    case = linear_case(3, n=2)
    with pytest.raises(UsageError, match="autoattack-plus is not defined for l1"):
        cascade(case.model, case.x, case.y, norm="l1", epsilons=[0.1], stages="autoattack-plus")


def test_the_standard_preset_breaks_what_pyautoattack_breaks(shared_data):
    """AutoAttack itself, once per epsilon, on a published network: the same robust accuracies."""
    from published import correct_samples, network
    from pyautoattack import AutoAttack

    model = network(shared_data, "kw_mnist")
    x, y = correct_samples(shared_data, model, 12)
    stages = PRESETS["autoattack-standard"][:3]
    epsilons = [0.12, 0.16]
    found = cascade(model, x, y, epsilons=epsilons, stages=stages)
    counts = []
    for k, epsilon in enumerate(epsilons):
        published = AutoAttack(
            model, eps=epsilon, version="custom", attacks=["apgd-ce", "apgd-t", "fab-t"], seed=0
        )
        published.apgd.n_restarts = published.fab.n_restarts = 1
        _, predicted = published.run_standard_evaluation(x, y, batch_size=12)
        counts.append(int((predicted == y).sum()))
        ours = np.isin(found.cells[:, k], [Cell.ROBUST, Cell.ROBUST_INFERRED])
        assert abs(int(ours.sum()) - counts[-1]) <= 1
    assert counts[1] < counts[0] <= 12
