"""`sweep` against closed forms, against itself in other batches and orders, and on models that misbehave."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from worlds import FINE, Linear, RowModel, TableModel, linear_case, table_inputs

from metaeval.attacks import catalogue, sweep
from metaeval.attacks.column import Known
from metaeval.attacks.kernel import KernelResult
from metaeval.attacks.spec import AttackSpec
from metaeval.attacks.sweeping import run
from metaeval.errors import UsageError
from metaeval.outcomes import NO_CLASS, Cell, broken

QUICK = {"square": {"queries": 60}, "fab": {"iterations": 20}, "fab-t": {"iterations": 20}}
SLACK = {"deepfool@torchattacks": 0.021, "fab": 0.05, "fab-t": 0.05}  # they step over the boundary on purpose
# Our kernels and adapters; test_every_attack.py has the rest of the catalogue and of l1.
CORE = [
    "apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square", "fgsm@torchattacks", "bim@torchattacks",
    "pgd@torchattacks", "deepfool@torchattacks", "cw@torchattacks",
]  # fmt: skip
ELSEWHERE = {("square", "l1"), ("apgd-dlr", "l1"), ("apgd-t", "l1")}
PAIRS = [(name, norm) for name in CORE for norm in catalogue.get(name).norms if (name, norm) not in ELSEWHERE]


def correct(cells):
    return (cells == Cell.ROBUST) | (cells == Cell.ROBUST_INFERRED)


@pytest.mark.parametrize("search", ["exact", "frontier"])
@pytest.mark.parametrize(("attack", "norm"), PAIRS)
def test_linear_models_against_the_closed_form(attack, norm, search):
    classes = {"apgd-dlr": 3, "fab": 3, "fab-t": 3, "deepfool@torchattacks": 3, "apgd-t": 4}.get(attack, 2)
    case = linear_case(classes)
    reachable = case.distance["l1"] < 0.4  # the nearest point for l1 moves one feature, inside the box
    case.x, case.y = (case.x[reachable], case.y[reachable]) if norm == "l1" else (case.x, case.y)
    truth = case.distance[norm][reachable] if norm == "l1" else case.distance[norm]
    assert len(truth) > 15
    levels = np.quantile(truth, [0.1, 0.3, 0.5, 0.7, 0.9]) * 1.0005
    epsilons = [0.0, *levels, 1.5 * truth.max()]
    result = sweep(
        case.model,
        case.x,
        case.y,
        norm=norm,
        epsilons=epsilons,
        attack=attack,
        search=search,
        **QUICK.get(attack, {}),
    )
    assert (result.cells[:, 0] == Cell.ROBUST).all()
    robust = correct(result.cells)
    for k, epsilon in enumerate(epsilons):
        assert robust[truth > epsilon * (1 + 1e-6), k].all(), (
            "an adversarial closer than the closed form allows"
        )
    assert (result.distance >= truth * (1 - 1e-5)).all()
    if attack in ("square", "cw@torchattacks"):  # they approach the boundary without reaching it
        assert not robust[:, -1].all()
        return
    slack = SLACK.get(attack, 1e-3)
    exists = truth[:, None] < np.array(epsilons) * (1 - slack)
    # The untargeted DLR loss prefers the runner-up, which need not be the nearest class; APGD for l1 takes
    # sparse steps that need not end on the one feature that counts.
    allowed = 0.2 if attack == "apgd-dlr" or (norm == "l1" and attack.startswith("apgd")) else 0.0
    assert robust[exists].mean() <= allowed, "adversarials that exist were missed"
    if catalogue.get(attack).kind == "minimum-norm":
        np.testing.assert_allclose(result.distance, truth, rtol=slack)


@pytest.mark.parametrize(("norm", "attack"), [("linf", "apgd-ce"), ("l2", "apgd-ce"), ("l1", "fab")])
def test_normalisation_inside_the_model_changes_nothing_in_input_units(norm, attack):
    case = linear_case(3 if attack == "fab" else 2)
    scaled = nn.Sequential(
        Normalised(0.3, 0.2), Linear(case.model.weight.numpy() * 0.2, case.model.bias.numpy())
    )
    scaled[1].bias += case.model.weight.sum(dim=1) * 0.3
    # The nearest point for l1 moves one feature: it must lie inside the box.
    inside = case.distance["l1"] < 0.4 if norm == "l1" else np.ones(len(case.y), dtype=bool)
    truth = case.distance[norm][inside]
    epsilons = np.quantile(truth, [0.25, 0.5, 0.75]) * 1.0005
    result = sweep(scaled, case.x[inside], case.y[inside], norm=norm, epsilons=epsilons, attack=attack)
    if attack == "fab":
        np.testing.assert_allclose(result.distance, truth, rtol=SLACK["fab"])
        assert (result.distance >= truth * (1 - 1e-5)).all()
    else:
        np.testing.assert_array_equal(correct(result.cells), truth[:, None] > epsilons)


class Normalised(nn.Module):
    def __init__(self, mean: float, deviation: float) -> None:
        super().__init__()
        self.mean, self.deviation = mean, deviation

    def forward(self, x):
        return (x - self.mean) / self.deviation


@pytest.fixture(scope="module")
def row_world():
    """Return a model whose arithmetic on a row ignores the other rows, with inputs and mixed labels."""
    rng = np.random.default_rng(5)
    model = RowModel(9, 4)
    x = rng.random((30, 1, 3, 3), dtype=np.float32)
    y = model(torch.from_numpy(x)).argmax(1).numpy()
    y[::7] = (y[::7] + 1) % 4
    return model, x, y


def short(attack):
    given = {"iterations": 12, "queries": 40}
    return {name: value for name, value in given.items() if name in catalogue.get(attack).settings}


EPSILONS = {
    "linf": [0, 0.02, 0.05, 0.1, 0.2],
    "l2": [0, 0.05, 0.1, 0.2, 0.5],
    "l1": [0, 0.1, 0.2, 0.5, 1.0],
}


@pytest.mark.parametrize(("attack", "norm"), PAIRS)
def test_results_do_not_depend_on_batch_order_or_company(row_world, attack, norm):
    model, x, y = row_world
    settings = short(attack)

    def column(rows, size):
        return sweep(
            model,
            x[rows],
            y[rows],
            norm=norm,
            epsilons=EPSILONS[norm],
            attack=attack,
            batch_size=size,
            **settings,
        )

    whole = column(np.arange(30), 256)
    assert len(np.unique(whole.cells)) > 2
    order = np.random.default_rng(0).permutation(30)
    for rows, size in ((np.arange(30), 7), (order, 24), (np.arange(11, 14), 2), (np.array([4]), 256)):
        part = column(rows, size)
        for name in ("distance", "searched", "cells", "clean_prediction"):
            np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[rows], err_msg=name)


@pytest.mark.parametrize(("attack", "norm"), PAIRS)
def test_passes_add_up_to_what_the_model_saw(row_world, attack, norm):
    model, x, y = row_world
    rows = {"forward": 0, "backward": 0}
    forward = model.register_forward_hook(lambda m, i, o: rows.update(forward=rows["forward"] + len(o)))
    result = sweep(
        model, x, y, norm=norm, epsilons=EPSILONS[norm], attack=attack, batch_size=8, **short(attack)
    )
    forward.remove()
    assert result.forwards.sum() + result.verification == rows["forward"]
    wrong = result.clean_prediction != y
    assert (result.forwards[wrong] == 0).all()
    assert (result.backwards[wrong] == 0).all()
    assert (result.forwards[~wrong] > 0).all()
    assert (result.cells[wrong] == Cell.MISCLASSIFIED).all()
    assert (result.distance[wrong] == 0).all()
    assert (result.searched[wrong] == 0).all()
    if catalogue.get(attack).black_box:
        assert (result.backwards == 0).all()


@pytest.mark.parametrize("attack", ["apgd-ce", "apgd-dlr"])
def test_every_robust_cell_of_apgd_got_all_its_gradients(row_world, attack):
    model, x, y = row_world
    result = sweep(model, x, y, epsilons=EPSILONS["linf"], attack=attack, search="exact")
    attacked = (result.cells[:, 1:] == Cell.ROBUST).sum(axis=1)
    assert (result.backwards >= 101 * attacked).all()
    frontier = sweep(model, x, y, epsilons=EPSILONS["linf"], attack=attack)
    some_robust = correct(frontier.cells[:, 1:]).any(axis=1)
    assert ((frontier.cells[:, 1:] == Cell.ROBUST).any(axis=1) == some_robust).all(), (
        "a frontier without a full run"
    )
    assert (frontier.backwards[some_robust] >= 101).all()


def test_epsilon_zero_is_the_clean_pass_only(row_world):
    model, x, y = row_world
    result = sweep(model, x, y, epsilons=[0])
    assert result.forwards.sum() == 0
    assert result.verification == 32
    assert result.flags == {}
    np.testing.assert_array_equal(result.cells[:, 0], np.where(result.clean_prediction == y, 5, 1))
    assert np.isinf(result.distance[result.clean_prediction == y]).all()


def test_levels_keep_the_order_in_which_they_were_given(row_world):
    model, x, y = row_world
    shuffled = sweep(model, x, y, epsilons=[0.1, 0, 0.02, 0.2, 0.05])
    ordered = sweep(model, x, y, epsilons=EPSILONS["linf"])
    np.testing.assert_array_equal(shuffled.cells, ordered.cells[:, [3, 0, 1, 4, 2]])


def test_cells_agree_with_the_distance(row_world):
    model, x, y = row_world
    for search in ("exact", "frontier"):
        result = sweep(model, x, y, epsilons=EPSILONS["linf"], search=search)
        np.testing.assert_array_equal(
            broken(result.distance[:, None], np.array(EPSILONS["linf"])) == 1, ~correct(result.cells)
        )


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_evidence_is_adversarial_and_as_near_as_it_says(row_world, norm):
    model, x, y = row_world
    result = sweep(model, x, y, norm=norm, epsilons=EPSILONS[norm], evidence=True)
    found = np.isfinite(result.distance) & (result.distance > 0)
    assert found.any()
    assert np.isnan(result.evidence[~found]).all()
    kept = result.evidence[found]
    assert ((kept >= 0) & (kept <= 1)).all()
    assert (model(torch.from_numpy(kept)).argmax(1).numpy() != y[found]).all()
    delta = (kept.astype(np.float64) - x[found]).reshape(len(kept), -1)
    size = np.abs(delta).max(1) if norm == "linf" else np.linalg.norm(delta, axis=1)
    np.testing.assert_allclose(size, result.distance[found], rtol=1e-6, atol=1e-7)


# --- continuing a column


def spec_and_settings(attack, **settings):
    spec = catalogue.get(attack)
    return {"spec": spec, "settings": catalogue.resolve_settings(spec, settings), "norm": "linf"}


def known_of(result, epsilons):
    return Known(np.array(epsilons), result.distance, result.searched, result.cells)


@pytest.mark.parametrize("search", ["exact", "frontier"])
@pytest.mark.parametrize("attack", ["apgd-ce", "fab", "square", "pgd@torchattacks"])
def test_nothing_new_costs_nothing(row_world, attack, search):
    model, x, y = row_world
    given = spec_and_settings(attack, **({"queries": 40} if attack == "square" else {}))
    epsilons = np.array(EPSILONS["linf"])
    first = run(model, x, y, **given, epsilons=epsilons, search=search)
    again = run(
        model, x, y, **given, epsilons=epsilons, search=search, known=known_of(first, epsilons),
        clean_prediction=first.clean_prediction,
    )  # fmt: skip
    assert again.verification == 0
    assert again.forwards.sum() == 0
    for name in ("distance", "searched", "cells"):
        np.testing.assert_array_equal(getattr(again, name), getattr(first, name))


def test_a_new_epsilon_attacks_only_brackets_that_hold_it(row_world):
    model, x, y = row_world
    old, new = np.array([0, 0.02, 0.2]), np.array([0, 0.02, 0.2, 0.05])
    given = spec_and_settings("apgd-ce")
    first = run(model, x, y, **given, epsilons=old)
    more = run(model, x, y, **given, epsilons=new, known=known_of(first, old))
    inside = (first.searched < 0.05) & (first.distance > 0.05)
    assert inside.any()
    assert not inside.all()
    np.testing.assert_array_equal(more.forwards > 0, inside)
    outside = ~inside & (first.distance > 0)
    expected = np.where(first.distance <= 0.05, Cell.BROKEN_ENVELOPE, Cell.ROBUST_INFERRED)
    np.testing.assert_array_equal(more.cells[outside, 3], expected[outside])


def test_a_minimum_norm_attack_needs_no_second_run(row_world):
    model, x, y = row_world
    old, new = np.array([0, 0.1]), np.array([0, 0.1, 0.03, 0.2])
    given = spec_and_settings("fab", iterations=15)
    first = run(model, x, y, **given, epsilons=old)
    more = run(model, x, y, **given, epsilons=new, known=known_of(first, old))
    at_once = run(model, x, y, **given, epsilons=new)
    assert more.forwards.sum() == 0
    np.testing.assert_array_equal(more.cells, at_once.cells)
    np.testing.assert_array_equal(more.distance, at_once.distance)


def test_new_samples_join_a_known_column(row_world):
    model, x, y = row_world
    epsilons = np.array(EPSILONS["linf"])
    given = spec_and_settings("apgd-ce")
    whole = run(model, x, y, **given, epsilons=epsilons)
    first = run(model, x[:12], y[:12], **given, epsilons=epsilons)
    rest = np.full(18, np.nan)
    known = Known(
        epsilons,
        np.concatenate([first.distance, rest]),
        np.concatenate([first.searched, rest]),
        np.concatenate([first.cells, np.zeros((18, 5), np.uint8)]),
    )
    joined = run(model, x, y, **given, epsilons=epsilons, known=known)
    assert (joined.forwards[:12] == 0).all()
    for name in ("distance", "searched", "cells"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(whole, name))


# --- models and attacks that misbehave


def fake_spec(kernel, monkeypatch, kind="fixed-epsilon"):
    """Register a kernel made for one test."""
    import metaeval.attacks.autoattack as home

    monkeypatch.setattr(home, "fake", kernel, raising=False)
    place = "metaeval.attacks.autoattack:fake"
    spec = AttackSpec("fake", ("linf", "l2"), kind, place, "metaeval", "", lambda s, c: (1, 0))
    return {"spec": spec, "settings": {}}


def test_a_claim_that_does_not_hold_is_a_failed_claim(monkeypatch):
    adversarial = np.zeros((4, FINE + 1), dtype=bool)
    adversarial[:, 8:] = True
    x, y = table_inputs(4)
    moves = torch.tensor([8 / FINE, 12 / FINE, 4 / FINE, float("nan")])

    def kernel(model, x, y, epsilon, **_):
        result = KernelResult.failed(x)
        result.candidates[:, 1] = moves[(x[:, 0] * 64).round().long()]
        result.success[:] = True
        return result

    given = fake_spec(kernel, monkeypatch)
    result = run(
        TableModel(adversarial), x, y, **given, norm="linf", epsilons=np.array([0.5]), search="exact"
    )
    # In the ball and adversarial; beyond the ball; not adversarial; not a number.
    assert result.cells[:, 0].tolist() == [Cell.BROKEN, Cell.ROBUST, Cell.ROBUST, Cell.ROBUST]
    assert result.distance.tolist() == [0.5, np.inf, np.inf, np.inf]
    assert result.flags["rejected_claims"] == 3


def test_a_candidate_outside_the_box_is_no_adversarial(monkeypatch):
    adversarial = np.zeros((2, FINE + 5), dtype=bool)
    adversarial[:, 10:] = True
    x, y = table_inputs(2)
    x[:, 1] = 0.75

    def kernel(model, x, y, **_):
        result = KernelResult.failed(x)
        result.candidates[:, 1] = torch.tensor([1.125, 1.0])
        result.success[:] = True
        return result

    model = TableModel(adversarial & (np.arange(FINE + 5) > 12))
    given = fake_spec(kernel, monkeypatch, "minimum-norm")
    result = run(model, x, y, **given, norm="linf", epsilons=np.array([0.5]))
    assert result.distance.tolist() == [np.inf, 0.25]
    assert result.flags["rejected_claims"] == 1


def test_a_crash_inside_an_attack_comes_out(monkeypatch):
    def kernel(*_, **__):
        raise ZeroDivisionError("inside")

    case = linear_case(2, n=3)
    given = fake_spec(kernel, monkeypatch)
    case.model.train()
    with pytest.raises(ZeroDivisionError, match="inside"):
        run(case.model, case.x, case.y, **given, norm="linf", epsilons=np.array([0.5]))
    assert case.model.training, "the model was not given back as it came"


def test_a_distance_a_rounding_error_above_an_epsilon_is_that_epsilon():
    rng = np.random.default_rng(0)
    x = (rng.integers(0, 248, size=(50, 1, 2, 2)) / 255).astype(np.float32)
    model = Linear(np.array([[0.0] * 4, [1.0] * 4]), np.array([0.0, 0.0]))
    model.bias[1] = -(4 * 247 / 255 + 1e-4)
    y = np.zeros(50, dtype=np.int64)
    for attack in ("fgsm@torchattacks", "apgd-ce"):
        result = sweep(model, x, y, epsilons=[4 / 255, 8 / 255], attack=attack, search="exact")
        found = result.distance[np.isfinite(result.distance)]
        assert len(found) == 0 or np.isin(found, [4 / 255, 8 / 255]).all()
    wide = sweep(model, x, y, epsilons=[8 / 255, 0.9], attack="fgsm@torchattacks")
    np.testing.assert_array_equal(np.isfinite(wide.distance), ~correct(wide.cells)[:, 1])


def test_a_model_in_training_mode_is_flagged_evaluated_properly_and_given_back():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
    x, y = np.random.default_rng(0).random((8, 1, 2, 2), dtype=np.float32), np.zeros(8, dtype=np.int64)
    model.eval()
    model[3].train()
    y[:] = 0
    before = {k: v.clone() for k, v in model.state_dict().items()}
    training = sweep(model, x, y, epsilons=[0.5], attack="pgd@torchattacks")
    assert training.flags["train_mode"] == 1
    assert training.flags["randomised"] == 0
    assert training.flags["buffers_changed"] == 0
    assert [module.training for module in model] == [False, False, False, True, False]
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    model.eval()
    evaluating = sweep(model, x, y, epsilons=[0.5], attack="pgd@torchattacks")
    assert evaluating.flags["train_mode"] == 0
    np.testing.assert_array_equal(evaluating.cells, training.cells)


class Counter(nn.Module):
    """A model that remembers how often it was asked."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return self.model(x)


class Noisy(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x):
        logits = self.model(x)
        return logits + 0.01 * torch.randn_like(logits)


class Probabilities(Noisy):
    def forward(self, x):
        return self.model(x).softmax(dim=1)


def test_changed_buffers_and_probabilities_are_flagged():
    case = linear_case(3, n=10)
    result = sweep(Counter(case.model), case.x, case.y, epsilons=[0.05])
    assert result.flags["buffers_changed"] == 1
    assert result.flags["probabilities"] == 0
    assert sweep(Probabilities(case.model), case.x, case.y, epsilons=[0.05]).flags["probabilities"] == 1


@pytest.mark.parametrize("attack", ["apgd-ce", "fab"])
def test_a_randomised_model_gets_verdicts_per_level_and_no_distance(attack):
    torch.manual_seed(0)
    case = linear_case(3, n=20)
    epsilons = [0, *np.quantile(case.distance["linf"], [0.2, 0.5, 0.8])]
    result = sweep(Noisy(case.model), case.x, case.y, epsilons=epsilons, attack=attack)
    clean = result.clean_prediction == case.y
    assert result.flags["randomised"] == 1
    assert np.isnan(result.distance[clean]).all()
    assert np.isnan(result.searched[clean]).all()
    assert np.isin(result.cells[clean], [Cell.BROKEN, Cell.ROBUST]).all()
    assert (result.cells[~clean] == Cell.MISCLASSIFIED).all()
    if attack == "apgd-ce":
        assert (result.backwards[clean] > 0).all()


class Stairs(nn.Module):
    def forward(self, x):
        return (x * 256).round() / 256


def test_samples_without_a_gradient_are_flagged_and_not_inferred():
    case = linear_case(2, n=12)
    flat = nn.Sequential(Stairs(), case.model)
    epsilons = np.quantile(case.distance["linf"], [0.1, 0.4, 0.6, 0.9])
    result = sweep(flat, case.x, case.y, epsilons=epsilons)
    assert result.flags["zero_gradient"] > 0
    suspicious = correct(result.cells).any(axis=1)
    assert not (result.cells[suspicious] == Cell.ROBUST_INFERRED).any()


def test_a_model_that_returns_nan_is_wrong_and_never_robust():
    class Nan(nn.Module):
        def forward(self, x):
            return torch.full((len(x), 3), torch.nan)

    x, y = np.zeros((4, 2), dtype=np.float32), np.zeros(4, dtype=np.int64)
    result = sweep(Nan(), x, y, epsilons=[0.1])
    assert (result.cells == Cell.MISCLASSIFIED).all()
    assert (result.clean_prediction == NO_CLASS).all()


# --- arguments


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.full((3, 1, 3, 4), 1.5, np.float32)}, r"inputs must lie in \[0, 1\], found 1.5"),
        ({"x": np.full((3, 1, 3, 4), np.nan, np.float32)}, "not finite"),
        ({"y": np.zeros(2, np.int64)}, "do not fit"),
        ({"y": np.full(3, -1)}, "negative"),
        ({"y": np.full(3, 2)}, "label 2 is none of the model's 2 classes"),
        ({"epsilons": [0.1, 0.1]}, "twice"),
        ({"epsilons": [-0.1]}, "negative"),
        ({"epsilons": 0.1}, "list"),
        ({"epsilons": [0, "8/25S"]}, "8/25S"),
        ({"norm": "l3"}, "unknown norm"),
        ({"norm": "l1", "attack": "bim@torchattacks"}, "cannot run with norm l1"),
        ({"attack": "apgd-cee"}, "did you mean 'apgd-ce'"),
        ({"attack": "apgd-dlr"}, "at least 3 classes"),
        ({"search": "fast"}, "unknown search"),
        ({"iteration": 3}, "did you mean 'iterations'"),
    ],
)
def test_wrong_arguments_are_refused_with_a_reason(change, message):
    case = linear_case(2, n=3)
    arguments = {"x": case.x, "y": case.y, "epsilons": [0.1]} | change
    with pytest.raises(UsageError, match=message):
        sweep(case.model, arguments.pop("x"), arguments.pop("y"), **arguments)


def test_epsilons_may_be_fractions_in_strings():
    case = linear_case(2, n=4)
    written = sweep(case.model, case.x, case.y, epsilons=[0, "8/255", "0.1"])
    np.testing.assert_array_equal(
        written.cells, sweep(case.model, case.x, case.y, epsilons=[0, 8 / 255, 0.1]).cells
    )


def test_tensors_vectors_and_empty_sets_are_fine():
    case = linear_case(2, n=5, shape=(7,))
    result = sweep(case.model, torch.from_numpy(case.x), torch.from_numpy(case.y), epsilons=[0, 0.5])
    assert result.cells.shape == (5, 2)
    empty = sweep(case.model, case.x[:0], case.y[:0], epsilons=[0, 0.5])
    assert empty.cells.shape == (0, 2)
    assert empty.verification == 0


@pytest.mark.parametrize("classes", [2, 3, 4, 9, 10])
@pytest.mark.parametrize("attack", CORE)
def test_any_number_of_classes(attack, classes):
    case = linear_case(classes, n=6)
    spec = catalogue.get(attack)
    settings = {"queries": 20} if attack == "square" else {}
    norm = "l2" if "l2" in spec.norms else "linf"
    arguments = {"norm": norm, "epsilons": [0.5], "attack": attack, **settings}
    if catalogue.problems(spec, norm=norm, classes=classes):
        with pytest.raises(UsageError, match="classes"):
            sweep(case.model, case.x, case.y, **arguments)
    else:
        assert (sweep(case.model, case.x, case.y, **arguments).cells > 0).all()
