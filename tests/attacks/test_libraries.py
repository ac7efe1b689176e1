"""Our batched adapters against the libraries themselves, called with one sample at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchattacks
from pyautoattack.fab_pt import FABAttack_PT
from torch import nn
from worlds import RowModel

from metaeval.attacks import noise, sweep
from metaeval.attacks import torchattacks as adapter
from metaeval.attacks import torchattacks_minimum as minimum
from metaeval.attacks.autoattack import fab
from metaeval.attacks.counting import CountedModel
from metaeval.attacks.geometry import norms, project
from metaeval.attacks.kernel import KernelResult
from metaeval.attacks.per_sample import Draws
from metaeval.attacks.verify import Evaluator

EPSILONS = torch.tensor([0.02, 0.1], dtype=torch.float64).repeat(8)


@pytest.fixture(scope="module")
def world():
    model = RowModel(16, 4, seed=3).eval()
    x = torch.from_numpy(np.random.default_rng(1).random((16, 1, 4, 4), dtype=np.float32))
    x[0, 0, 0, :2] = torch.tensor([0.0, 1.0])  # where C&W's change of variables is infinite
    y = model(x).argmax(1)
    keys = noise.sample_keys(0, [str(i) for i in range(16)], EPSILONS.tolist())
    return model, x, y, keys


def one_by_one(build, x, y):
    attack = [build(i) for i in range(len(x))]
    return torch.cat([attack[i](x[i : i + 1], y[i : i + 1]) for i in range(len(x))])


@pytest.mark.parametrize("batch_size", [1, 5, 16])
def test_fgsm_and_bim(world, batch_size):
    model, x, y, keys = world
    given = {"norm": "linf", "keys": keys, "batch_size": batch_size}
    ours = adapter.fgsm(model, x, y, EPSILONS, settings={}, **given)
    theirs = one_by_one(lambda i: torchattacks.FGSM(model, eps=float(EPSILONS[i])), x, y)
    assert torch.equal(ours.candidates, theirs)
    assert ours.forwards.tolist() == ours.backwards.tolist() == [1] * 16
    settings = {"iterations": 7, "relative_step_size": 0.25}
    ours = adapter.bim(model, x, y, EPSILONS, settings=settings, **given)
    theirs = one_by_one(
        lambda i: torchattacks.BIM(model, eps=float(EPSILONS[i]), alpha=0.25 * float(EPSILONS[i]), steps=7),
        x,
        y,
    )
    assert torch.equal(ours.candidates, theirs)
    assert ours.forwards.tolist() == ours.backwards.tolist() == [7] * 16


@pytest.mark.parametrize(("norm", "library"), [("linf", torchattacks.PGD), ("l2", torchattacks.PGDL2)])
def test_pgd_from_the_input_is_the_library_s(world, norm, library, monkeypatch):
    model, x, y, keys = world
    monkeypatch.setattr(
        noise, "uniform", lambda k, c, shape=(): torch.full((len(k), *shape), 0.5 if shape else 0.0)
    )
    settings = {"iterations": 7, "restarts": 1, "relative_step_size": 0.25}
    ours = adapter.pgd(model, x, y, EPSILONS, norm=norm, keys=keys, settings=settings, batch_size=5)
    theirs = one_by_one(
        lambda i: library(
            model, eps=float(EPSILONS[i]), alpha=0.25 * float(EPSILONS[i]), steps=7, random_start=False
        ),
        x,
        y,
    )
    torch.testing.assert_close(ours.candidates, theirs, rtol=0, atol=5e-7)
    assert ours.forwards.tolist() == [7] * 16


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_pgd_starts_at_random_inside_the_ball(world, norm):
    model, x, y, keys = world
    settings = {"iterations": 0, "restarts": 1, "relative_step_size": 0.25}
    start = adapter.pgd(
        model, x, y, EPSILONS, norm=norm, keys=keys, settings=settings, batch_size=16
    ).candidates
    size = norms(x, start, norm)
    assert ((size > 0) & (size <= EPSILONS * (1 + 1e-6))).all()
    other = noise.sample_keys(1, [str(i) for i in range(16)], EPSILONS.tolist())
    again = adapter.pgd(
        model, x, y, EPSILONS, norm=norm, keys=other, settings=settings, batch_size=16
    ).candidates
    assert not torch.equal(start, again)


def test_a_restart_is_for_those_that_held(world):
    model, x, y, keys = world
    epsilon = torch.full((16,), 0.05, dtype=torch.float64)
    given = {"norm": "linf", "keys": keys, "batch_size": 16}
    once = adapter.pgd(
        model, x, y, epsilon, settings={"iterations": 3, "restarts": 1, "relative_step_size": 0.4}, **given
    )
    thrice = adapter.pgd(
        model, x, y, epsilon, settings={"iterations": 3, "restarts": 3, "relative_step_size": 0.4}, **given
    )
    fooled = model(once.candidates).argmax(1) != y
    assert fooled.any()
    assert not fooled.all()
    assert torch.equal(thrice.candidates[fooled], once.candidates[fooled])
    assert thrice.forwards[fooled].tolist() == [4] * int(fooled.sum())
    assert (thrice.forwards[~fooled] >= 7).all()


@pytest.mark.parametrize("batch_size", [3, 16])
def test_deepfool(world, batch_size):
    model, x, y, keys = world
    settings = {"iterations": 50, "overshoot": 0.02}
    ours = minimum.deepfool(model, x, y, norm="l2", keys=keys, settings=settings, batch_size=batch_size)
    theirs = one_by_one(lambda i: torchattacks.DeepFool(model, steps=50, overshoot=0.02), x, y)
    moved = x + 1.02 * (theirs - x)  # what the library leaves on the boundary
    expected = torch.where(ours.success[:, None, None, None], theirs, moved.clamp(0, 1))
    torch.testing.assert_close(ours.candidates, expected, rtol=1e-5, atol=1e-6)
    assert ((model(theirs).argmax(1) != y) | ~ours.success).all()
    assert ours.success.any()
    assert (model(ours.candidates).argmax(1) != y).all(), "the point beyond the boundary is adversarial"
    assert (ours.backwards <= 4 * ours.forwards).all()
    assert (ours.backwards >= 4 * (ours.forwards - 1)).all()


@pytest.mark.parametrize("confidence", [0.0, 0.3])
@pytest.mark.parametrize("batch_size", [3, 16])
def test_cw(world, batch_size, confidence):
    model, x, y, keys = world
    settings = {"iterations": 50, "weight": 2.0, "confidence": confidence, "learning_rate": 0.01}
    ours = minimum.cw(model, x, y, norm="l2", keys=keys, settings=settings, batch_size=batch_size)
    theirs = one_by_one(lambda i: torchattacks.CW(model, c=2.0, kappa=confidence, steps=50, lr=0.01), x, y)
    torch.testing.assert_close(ours.candidates, theirs, rtol=1e-4, atol=1e-5)
    assert torch.equal(ours.success, (theirs != x).flatten(1).any(1))
    assert ours.success.any()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_fab_is_the_library_s_without_its_epsilon(world, norm):
    model, x, y, keys = world
    ours = fab(model, x, y, norm=norm, keys=keys, settings={"iterations": 15, "restarts": 1}, batch_size=6)
    library = FABAttack_PT(model, norm={"linf": "Linf", "l2": "L2"}[norm], n_restarts=1, n_iter=15, eps=1e9)
    theirs = torch.cat([library.perturb(x[i : i + 1], y[i : i + 1]) for i in range(16)])
    assert torch.equal(ours.candidates, theirs)
    assert ours.success.all()
    assert ours.forwards.tolist() == [31] * 16
    assert ours.backwards.tolist() == [60] * 16


def test_a_model_without_parameters_prints_nothing(capsys):
    x, y, keys = torch.full((2, 3), 0.5), torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
    epsilon = torch.full((2,), 0.1, dtype=torch.float64)
    adapter.fgsm(nn.Flatten(), x, y, epsilon, norm="linf", keys=keys, settings={}, batch_size=2)
    assert capsys.readouterr().out == ""


def test_rows_that_cannot_be_told_apart_are_shared_out_exactly():
    result = KernelResult.failed(torch.zeros(5, 2))
    counted = CountedModel(nn.Linear(2, 3), result)
    counted.attend(torch.tensor([0, 2, 4]))
    counted(torch.rand(3, 2))
    counted(torch.rand(2, 2))
    counted(torch.rand(2, 2))
    counted.attend(torch.tensor([1]))
    x = torch.rand(1, 2, requires_grad=True)
    torch.autograd.grad(counted(x).sum(), x)
    counted.settle()
    assert result.forwards.tolist() == [3, 1, 2, 0, 2]
    assert result.backwards.tolist() == [0, 1, 0, 0, 0]


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("scale", [1e-3, 0.1, 3.0])
def test_projections_reach_the_ball_and_stay_in_the_box(norm, scale):
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.random((20, 3, 8, 8), dtype=np.float32))
    far = torch.from_numpy(rng.random((20, 3, 8, 8), dtype=np.float32))
    radius = torch.from_numpy(norms(x, far, norm).numpy() * rng.uniform(0.1, 0.9, 20) * min(scale, 1.0))
    points = project(x, far, radius, norm)
    size = norms(x, points, norm)
    assert (size <= radius + (1e-7 if norm == "linf" else 0)).all()
    ulps = {"linf": 1, "l2": 192**0.5, "l1": 192}[norm]  # of every coordinate, at most
    assert (size >= radius - ulps * 2**-24).all()
    assert ((points >= 0) & (points <= 1)).all()
    assert torch.equal(project(x, far, norms(x, far, norm) * 1.01, norm), far)


def test_float64_norms_against_numpy():
    rng = np.random.default_rng(0)
    x, other = rng.random((4, 3, 5), dtype=np.float32), rng.random((4, 3, 5), dtype=np.float32)
    delta = (other.astype(np.float64) - x).reshape(4, -1)
    for norm, order in (("linf", np.inf), ("l2", 2), ("l1", 1)):
        ours = norms(torch.from_numpy(x), torch.from_numpy(other), norm)
        assert ours.dtype == torch.float64
        np.testing.assert_allclose(ours.numpy(), np.linalg.norm(delta, ord=order, axis=1), rtol=1e-14)


def test_a_claim_that_rounding_put_outside_the_ball_is_pulled_back():
    x = torch.zeros(3, 2)
    y = torch.zeros(3, dtype=torch.int64)
    candidates = torch.tensor([[0.1 * (1 + 2e-6), 0.0], [0.11, 0.0], [0.05, 0.0]])
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]))
        model.bias.copy_(torch.tensor([0.1, 0.0]))
    verdicts = Evaluator(model, torch.device("cpu")).verify(x, y, candidates, "l2", np.full(3, 0.1))
    assert verdicts.broken.tolist() == [True, False, False]
    assert 0.1 * (1 - 1e-6) <= verdicts.distance[0] <= 0.1 * (1 + 1e-6)
    assert np.isinf(verdicts.distance[1:]).all()
    assert float(norms(x, verdicts.points, "l2")[0]) == verdicts.distance[0]


def test_a_verdict_does_not_depend_on_what_is_verified_beside_it():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 64, 10)
    ).eval()
    x = torch.rand(70, 3, 8, 8)
    evaluator = Evaluator(model, torch.device("cpu"))
    whole = evaluator.logits(x)
    assert evaluator.forwards == 96
    assert torch.equal(evaluator.logits(x[:32]), whole[:32])
    torch.testing.assert_close(evaluator.logits(x[3:7]), whole[3:7])


def test_the_library_s_mean_over_the_batch_leaves_gradients_alone(world):
    model, x, y, _ = world
    batch = x.clone().requires_grad_()
    with Draws(torch.arange(len(x))):
        loss = nn.CrossEntropyLoss()(model(batch), y)
    alone = x.clone().requires_grad_()
    losses = [nn.CrossEntropyLoss()(model(alone[i : i + 1]), y[i : i + 1]) for i in range(len(x))]
    expected = torch.autograd.grad(sum(losses), alone)[0]
    assert torch.equal(torch.autograd.grad(loss, batch)[0], expected)


@pytest.mark.parametrize("attack", ["eadl1", "eaden"])
def test_points_that_leave_the_box_by_rounding_are_adversarials_still(attack):
    """EAD returns to pixels through a tanh and misses 0 and 1 by a few 1e-5: that is no reason to refuse."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 4)).eval().requires_grad_(False)
    x = torch.from_numpy(np.random.default_rng(0).choice([0.0, 0.5, 1.0], (6, 1, 4, 4)).astype(np.float32))
    y = model(x).argmax(1)
    settings = {"binary_search_steps": 9, "max_iterations": 60}
    library = {"eadl1": torchattacks.EADL1, "eaden": torchattacks.EADEN}[attack](model, lr=0.05, **settings)
    alone = torch.cat([library(x[k : k + 1], y[k : k + 1]) for k in range(6)])
    assert float((alone - alone.clamp(0, 1)).abs().max()) > 1e-6, "nothing to be tested"
    broken = (model(alone.clamp(0, 1)).argmax(1) != y).numpy()
    assert broken.sum() >= 4
    given = {"attack": f"{attack}@torchattacks", "iterations": 60, "learning_rate": 0.05}
    found = sweep(model, x, y, norm="l1", epsilons=[16], **given)
    np.testing.assert_array_equal(np.isfinite(found.distance), broken)


@pytest.mark.parametrize(("norm", "helps"), [("linf", True), ("l2", True), ("l1", False)])
def test_further_starts_of_fab_only_add_and_belong_to_samples(norm, helps):
    model = RowModel(16, 5, seed=3, hidden=40)
    x = torch.from_numpy(np.random.default_rng(1).random((9, 1, 4, 4), dtype=np.float32))
    y = model(x).argmax(1)
    given = {"norm": norm, "epsilons": [0.05, 1.0], "attack": "fab", "iterations": 1}
    once, more = (sweep(model, x, y, restarts=restarts, **given) for restarts in (1, 5))
    assert (more.distance <= once.distance).all()
    assert (more.distance < once.distance).any() == helps  # for l1 the first run is as good here
    assert (more.forwards == 5 * once.forwards + 4).all()
    small = sweep(model, x, y, restarts=5, batch_size=4, **given)
    np.testing.assert_array_equal(small.distance, more.distance)
    alone = sweep(model, x[5:6], y[5:6], restarts=5, **given)
    np.testing.assert_array_equal(alone.distance, more.distance[5:6])
