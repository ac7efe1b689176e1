"""APGD: the published iterates bit for bit, the same verdicts with compaction, honest counts and guards."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from published import correct_samples, network, sample_keys
from torch import Tensor, nn

from metaeval.attacks import noise
from metaeval.attacks.apgd import apgd, run_ce, run_dlr, run_targeted
from metaeval.outcomes import within

MODELS = {"mmr_univ_mnist": {"linf": 0.16, "l2": 1.5}, "kw_mnist": {"linf": 0.15, "l2": 1.4}}
LOSSES = ("ce", "dlr", "targeted-dlr")
SAMPLES = 10
SETTINGS = {"iterations": 40, "restarts": 2, "targets": 2}


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Recorder(nn.Module):
    """Keeps every input that reaches the model, and counts rows forward and backward."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.inputs, self.backwards = model, [], 0

    def forward(self, x: Tensor) -> Tensor:
        self.inputs.append(x.detach().clone())
        if x.requires_grad:
            x.register_hook(self._count)
        return self.model(x)

    def _count(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)


def iterates(recorder: Recorder, x: Tensor) -> list[Tensor]:
    """Return what the model saw but for clean passes, which the two codes do at different times."""
    clean = {row.numpy().tobytes() for row in x}
    return [batch for batch in recorder.inputs if batch[0].numpy().tobytes() not in clean]


def run_published(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    epsilon: float,
    norm: str,
    loss: str,
    keys: Tensor,
    eot: int = 1,
    **settings: int,
) -> Tensor:
    """Run pyautoattack with our noise in place of its own."""
    from pyautoattack import autopgd_base

    common = {
        "n_iter": settings["iterations"],
        "n_restarts": settings["restarts"],
        "norm": norm.capitalize(),
        "eps": epsilon,
        "eot_iter": eot,
        "seed": 0,
        "device": "cpu",
    }
    if loss == "targeted-dlr":
        attack = autopgd_base.APGDAttack_targeted(model, n_target_classes=settings["targets"], **common)
    else:
        attack = autopgd_base.APGDAttack(model, loss=loss, **common)
    row_of = {row.numpy().tobytes(): k for k, row in enumerate(x)}
    single_run, current = attack.attack_single_run, {"run": -1}

    def single_run_with_our_noise(inputs: Tensor, labels: Tensor, x_init: Tensor | None = None):
        current["run"] += 1
        rows = [row_of[row.numpy().tobytes()] for row in inputs]
        current["keys"] = noise.derive(keys[rows], current["run"])
        return single_run(inputs, labels, x_init)

    attack.attack_single_run = single_run_with_our_noise
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "rand", lambda shape: noise.uniform(current["keys"], 0, tuple(shape)[1:]))
        patch.setattr(torch, "randn", lambda shape: noise.normal(current["keys"], 0, tuple(shape)[1:]))
        return attack.perturb(x.clone(), y)


# Ours, in a process where pyautoattack cannot be imported; only files pass between the two.
OURS_ALONE = """
import sys
from pathlib import Path
sys.modules["pyautoattack"] = None
import torch
from metaeval.attacks.apgd import apgd
from published import network
from test_apgd import Recorder, iterates
torch.set_num_threads(1)
shared, cases, answers = sys.argv[1:]
results = []
for case in torch.load(cases):
    recorder = Recorder(network(Path(shared), case["model"]))
    x = case["x"]
    result = apgd(recorder, x, case["y"], case["epsilon"], norm=case["norm"], keys=case["keys"],
                  loss=case["loss"], compact=False, **case["settings"])
    results.append({"candidates": result.candidates, "success": result.success,
                    "iterates": iterates(recorder, x)})
try:
    import pyautoattack
except ImportError:
    torch.save(results, answers)
"""


@pytest.fixture(scope="module")
def cases(shared_data: Path) -> list[dict]:
    found = []
    for name, radii in MODELS.items():
        model = network(shared_data, name)
        x, y = correct_samples(shared_data, model, SAMPLES)
        for norm, radius in radii.items():
            epsilon = torch.full((len(x),), radius, dtype=torch.float64)
            common = {"model": name, "x": x, "y": y, "norm": norm, "epsilon": epsilon, "settings": SETTINGS}
            found += [{**common, "loss": loss, "keys": sample_keys(x, epsilon)} for loss in LOSSES]
    return found


@pytest.fixture(scope="module")
def ours_alone(shared_data: Path, cases: list[dict], tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder = tmp_path_factory.mktemp("bitwise")
    torch.save(cases, folder / "cases.pt")
    paths = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[2])])
    subprocess.run(
        [
            sys.executable,
            "-c",
            OURS_ALONE,
            str(shared_data),
            str(folder / "cases.pt"),
            str(folder / "answers.pt"),
        ],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        check=True,
    )
    return torch.load(folder / "answers.pt")


@pytest.mark.parametrize("case", range(12))
def test_every_iterate_equals_pyautoattacks_bit_for_bit(
    shared_data: Path, cases: list[dict], ours_alone: list[dict], case: int
) -> None:
    setting, ours = cases[case], ours_alone[case]
    recorder = Recorder(network(shared_data, setting["model"]))
    adversarial = run_published(
        recorder,
        setting["x"],
        setting["y"],
        setting["epsilon"][0].item(),
        setting["norm"],
        setting["loss"],
        setting["keys"],
        **SETTINGS,
    )
    published = iterates(recorder, setting["x"])
    runs = SETTINGS["restarts"] * (SETTINGS["targets"] if setting["loss"] == "targeted-dlr" else 1)
    assert len(published) == runs * (SETTINGS["iterations"] + 1)
    assert len(ours["iterates"]) == len(published)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(ours["iterates"], published, strict=True))
    broken = ours["success"].view(-1, 1, 1, 1)
    assert torch.equal(torch.where(broken, ours["candidates"], setting["x"]), adversarial)
    assert 0 < ours["success"].sum() < SAMPLES  # Both outcomes are compared.

    model = network(shared_data, setting["model"])
    x, y, epsilon = setting["x"], setting["y"], setting["epsilon"]
    compact = apgd(
        model, x, y, epsilon, norm=setting["norm"], keys=setting["keys"], loss=setting["loss"], **SETTINGS
    )
    assert torch.equal(compact.success, ours["success"])


def test_epsilons_and_streams_belong_to_samples_not_to_batches(shared_data: Path) -> None:
    model = network(shared_data, "mmr_univ_mnist")
    x, y = correct_samples(shared_data, model, 24)
    epsilon = torch.linspace(0.05, 0.25, 24, dtype=torch.float64)
    keys = sample_keys(x, epsilon)

    def attack(rows: Tensor, batch_size: int | None) -> Tensor:
        result = apgd(
            model,
            x[rows],
            y[rows],
            epsilon[rows],
            norm="linf",
            keys=keys[rows],
            iterations=30,
            batch_size=batch_size,
        )
        delta = (result.candidates.double() - x[rows].double()).flatten(1).abs().amax(1)
        assert within(delta.numpy(), epsilon[rows].numpy(), "linf").all()
        assert torch.equal(model(result.candidates).argmax(1) != y[rows], result.success)
        return result.success

    everything = torch.arange(24)
    expected = attack(everything, None)
    assert 4 < expected.sum() < 20
    for batch_size in (5, 1):
        assert torch.equal(attack(everything, batch_size), expected)
    order = torch.randperm(24, generator=torch.Generator().manual_seed(1))
    assert torch.equal(attack(order, 7), expected[order])
    alone = torch.cat([attack(everything[k : k + 1], None) for k in range(0, 24, 3)])
    assert torch.equal(alone, expected[::3])


@pytest.mark.parametrize(("loss", "runs", "ranking"), [("ce", 2, 0), ("dlr", 2, 0), ("targeted-dlr", 6, 1)])
def test_failures_cost_every_gradient_and_successes_few(
    shared_data: Path, loss: str, runs: int, ranking: int
) -> None:
    recorder = Recorder(network(shared_data, "mmr_univ_mnist"))
    x, y = correct_samples(shared_data, recorder.model, 12)
    epsilon = torch.tensor([0.02, 0.3] * 6, dtype=torch.float64)
    result = apgd(
        recorder, x, y, epsilon, norm="linf", keys=sample_keys(x, epsilon), loss=loss, restarts=2, targets=3,
        batch_size=5,
    )  # fmt: skip
    assert result.success.tolist() == [False, True] * 6
    assert (result.backwards[::2] == 101 * runs).all()
    assert (result.backwards[1::2] < 60).all()
    assert torch.equal(result.forwards, result.backwards + ranking)
    assert recorder.backwards == result.backwards.sum()
    assert sum(len(batch) for batch in recorder.inputs) == result.forwards.sum()
    assert max(len(batch) for batch in recorder.inputs) == 5
    moved = (result.candidates[::2] - x[::2]).flatten(1).abs().amax(1)
    assert ((moved > 0) & (moved <= 0.02 + 1e-7)).all(), "a failure ends somewhere else in the ball"


def test_entry_functions_pass_their_settings_on(shared_data: Path) -> None:
    model = network(shared_data, "kw_mnist")
    x, y = correct_samples(shared_data, model, 3)
    epsilon = torch.full((3,), 0.01, dtype=torch.float64)
    common = {"norm": "linf", "keys": sample_keys(x, epsilon), "batch_size": 2}
    for run, settings, cost in (
        (run_ce, {"iterations": 3, "restarts": 2}, 8),
        (run_dlr, {"iterations": 4}, 5),
        (run_targeted, {"iterations": 2, "restarts": 1, "targets": 9}, 27),
    ):
        result = run(model, x, y, epsilon, settings=settings, **common)
        assert result.backwards.tolist() == [cost] * 3


def test_warm_start_begins_at_the_given_points(shared_data: Path) -> None:
    recorder = Recorder(network(shared_data, "mmr_univ_mnist"))
    x, y = correct_samples(shared_data, recorder.model, 6)
    epsilon = torch.full((6,), 0.3, dtype=torch.float64)
    common = {"norm": "linf", "keys": sample_keys(x, epsilon), "batch_size": None}
    cold = run_ce(recorder, x, y, epsilon, settings={"iterations": 100}, **common)
    assert cold.success.all()
    warm = run_ce(recorder, x, y, epsilon, settings={"iterations": 25}, start=cold.candidates, **common)
    assert warm.success.all()
    assert warm.backwards.tolist() == [1] * 6
    recorder.inputs.clear()
    start = (x + 0.05).clamp(max=1.0)
    run_ce(recorder, x, y, epsilon / 10, settings={"iterations": 25, "restarts": 2}, start=start, **common)
    assert torch.equal(recorder.inputs[0], start)
    assert not torch.equal(recorder.inputs[26][0], start[0])  # The second restart is random.


class Scaled(nn.Module):
    """A published network whose logits are multiplied, as some defences do: cross-entropy saturates."""

    def __init__(self, model: nn.Module, scale: float) -> None:
        super().__init__()
        self.model, self.scale = model, scale

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.model(x)


@pytest.mark.parametrize(
    ("scale", "loss", "flagged"),
    [(1, "ce", False), (1, "dlr", False), (100, "ce", True), (1000, "ce", True), (1000, "dlr", False)],
)
def test_saturated_gradients_lead_to_another_loss(
    shared_data: Path, scale: float, loss: str, flagged: bool
) -> None:
    model = Scaled(network(shared_data, "mmr_univ_mnist"), scale)
    x, y = correct_samples(shared_data, model, 16)
    epsilon = torch.full((16,), 0.05, dtype=torch.float64)
    for norm in ("linf", "l2"):
        result = apgd(model, x, y, epsilon, norm=norm, keys=sample_keys(x, epsilon), loss=loss, iterations=10)
        assert not result.success.any()
        share = result.switched.double().mean()
        assert share > 0.9 if flagged else share == 0
        assert not result.zero_gradient.any(), "the DLR loss does not saturate"
        assert (result.backwards == 11 + 11 * result.switched).all()


@pytest.mark.parametrize("blind", range(6))
def test_one_zero_gradient_anywhere_in_a_failed_run_is_reported(blind: int) -> None:
    calls = []

    def model(v: Tensor) -> Tensor:
        calls.append(len(v))
        return torch.stack([1 + (v.detach() if len(calls) == blind else v).mean(1), 0 * v.sum(1)], dim=1)

    x = torch.full((2, 5), 0.5)
    y, epsilon = torch.zeros(2, dtype=torch.int64), torch.full((2,), 0.1, dtype=torch.float64)
    result = apgd(model, x, y, epsilon, norm="l2", keys=torch.arange(2), iterations=4)
    assert len(calls) == (10 if blind else 5)
    assert result.switched.tolist() == [blind > 0] * 2
    assert not result.zero_gradient.any()


def test_a_model_without_gradients_is_reported_and_not_an_error() -> None:
    x = torch.rand(4, 6, generator=torch.Generator().manual_seed(0))
    y, epsilon = torch.zeros(4, dtype=torch.int64), torch.full((4,), 0.1, dtype=torch.float64)
    head = torch.tensor([1.0, 0.0, -1.0])
    for model in (lambda v: head.repeat(len(v), 1), lambda v: head + v.detach().round().sum(1, keepdim=True)):
        result = apgd(model, x, y, epsilon, norm="linf", keys=torch.arange(4), iterations=5)
        assert not result.success.any()
        assert result.zero_gradient.all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("classes", [2, 3, 4, 9])
@pytest.mark.parametrize("shape", [(7,), (5, 4), (1, 6, 6), (3, 5, 4)])
def test_any_shape_and_number_of_classes(shape: tuple[int, ...], classes: int, norm: str) -> None:
    generator = torch.Generator().manual_seed(classes)
    weights = torch.randn(classes, torch.Size(shape).numel(), generator=generator)
    x = 0.25 + 0.5 * torch.rand(9, *shape, generator=generator)

    def model(v: Tensor) -> Tensor:
        return v.flatten(1) @ weights.T

    y = model(x).argmax(1)
    epsilon = torch.full((9,), 0.2 if norm == "linf" else 0.2 * weights.shape[1] ** 0.5, dtype=torch.float64)
    for loss, fewest in (("ce", 2), ("dlr", 3), ("targeted-dlr", 4)):
        call = {"norm": norm, "keys": torch.arange(9), "loss": loss, "iterations": 10, "batch_size": 4}
        if classes < fewest:
            with pytest.raises(ValueError, match=f"needs {fewest} classes or more; the model has {classes}"):
                apgd(model, x, y, epsilon, **call)
            continue
        result = apgd(model, x, y, epsilon, **call)
        assert result.candidates.shape == x.shape
        assert result.success.any()
        if loss == "targeted-dlr":
            assert result.backwards.max() <= 11 * (classes - 1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_linear_models_break_exactly_beyond_their_closed_form_distance(norm: str) -> None:
    generator = torch.Generator().manual_seed(3)
    weights = torch.randn(2, 20, generator=generator) / 20
    x = 0.4 + 0.2 * torch.rand(200, 20, generator=generator)

    def model(v: Tensor) -> Tensor:
        return v @ weights.T

    y = model(x).argmax(1)
    difference = (weights[1] - weights[0]).double()
    gap = ((x.double() @ difference).abs()) / difference.norm(p=1 if norm == "linf" else 2)
    inside = gap < (0.3 if norm == "linf" else 0.5)  # The box does not bind.
    x, y, gap = x[inside], y[inside], gap[inside]
    assert len(x) > 50
    keys = torch.arange(len(x))
    for factor, expected in ((0.999, False), (1.001, True)):
        result = apgd(model, x, y, gap * factor, norm=norm, keys=keys)
        assert (result.success == expected).all()
        assert (result.backwards == 101).all() or expected


def test_wrong_arguments_are_refused() -> None:
    x, y, epsilon = torch.rand(3, 4), torch.zeros(3, dtype=torch.int64), torch.full((3,), 0.1)
    good = {"norm": "linf", "keys": torch.arange(3)}

    def model(v: Tensor) -> Tensor:
        return v

    for change, message in (
        ({"norm": "l1"}, "norm is 'l1'"),
        ({"loss": "hinge"}, "loss is 'hinge'"),
        ({"iterations": 0}, "iterations is 0"),
        ({"restarts": 0}, "restarts is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"keys": torch.arange(2)}, "do not fit"),
    ):
        with pytest.raises(ValueError, match=message):
            apgd(model, x, y, epsilon, **{**good, **change})
    with pytest.raises(ValueError, match="must return logits"):
        apgd(lambda v: v.sum(1), x, y, epsilon, **good)


def test_no_samples_cost_nothing() -> None:
    result = apgd(
        lambda v: v, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0), norm="l2",
        keys=torch.zeros(0, dtype=torch.int64), loss="dlr",
    )  # fmt: skip
    assert len(result.candidates) == len(result.success) == 0


class SeededNoise(nn.Module):
    """A model that answers at random, the k-th time it is asked always the same."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.calls = model, 0

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x)
        if x.requires_grad:
            self.calls += 1
            generator = torch.Generator().manual_seed(self.calls)
            noisy = torch.empty(logits.shape).normal_(generator=generator)
            logits = logits + logits.detach().abs().mean() * noisy
        return logits


def test_averaged_gradients_equal_pyautoattacks_bit_for_bit(shared_data: Path) -> None:
    model = network(shared_data, "mmr_univ_mnist")
    x, y = correct_samples(shared_data, model, 6)
    epsilon = torch.full((6,), 0.1, dtype=torch.float64)
    keys, settings = sample_keys(x, epsilon), {"iterations": 12, "restarts": 1}
    theirs = Recorder(SeededNoise(model))
    run_published(theirs, x, y, 0.1, "linf", "ce", keys, eot=3, **settings)
    ours = Recorder(SeededNoise(model))
    result = apgd(ours, x, y, epsilon, norm="linf", keys=keys, eot=3, compact=False, **settings)
    assert result.backwards.tolist() == [39] * 6
    published, mine = iterates(theirs, x), iterates(ours, x)
    assert len(mine) == len(published) == 39
    assert all(torch.equal(a, b) for a, b in zip(mine, published, strict=True))
