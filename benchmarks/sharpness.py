"""Compare the search for sigma with the reference algorithm at the same definition; by hand, ten minutes.

OMP_NUM_THREADS=1 METAEVAL_SHARED_DATA=../shared/data python benchmarks/sharpness.py

The reference, from its published description (Jiang et al. 2020; Dziugaite et al. 2020): 15 bisections of
sigma in (0, 2), 10 draws of the weights at each, a pass over all training images per draw. Its published code
stops once the mean drop is within .01 of the target: both costs are shown.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass

import numpy as np
import torch
from settings import shared_data
from torch import Tensor, nn
from torch.nn import functional

from metaeval.measures import perturbed, sharpness
from metaeval.measures.spec import Context, Split
from metaeval.sources.models.architectures import cnn, lenet_small

DEPTH, DRAWS, TARGET, TOLERANCE, BATCH = 15, 10, 0.1, 0.01, 250
NOISES = {"isotropic": False, "magnitude-aware": True}
E = 1e-3
TRUTH_DRAWS, TRUTH_IMAGES = 2500, 64
EPOCHS = {5000: 12, 20_000: 4}


@dataclass(frozen=True)
class Run:
    """What a search found and what it took."""

    log_sigma: float
    forwards: int
    seconds: float


def trained(module: nn.Module, x: np.ndarray, y: np.ndarray, epochs: int, seed: int = 0) -> Context:
    """Return a network trained with Adam until it fits its data."""
    inputs, labels = torch.from_numpy(x), torch.from_numpy(y)
    torch.manual_seed(seed)
    optimizer = torch.optim.Adam(module.parameters(), 1e-3)
    module.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(y)).split(64):
            optimizer.zero_grad()
            functional.cross_entropy(module(inputs[rows]), labels[rows]).backward()
            optimizer.step()
    module.eval()
    with torch.no_grad():
        logits = torch.cat([module(rows) for rows in inputs.split(500)]).numpy()
    split = Split(y, logits, x)
    return Context(module, x.shape[1:], logits.shape[1], split, split)


def mnist(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first training images of MNIST in [0, 1] with their labels."""
    with np.load(shared_data() / "mnist.npz") as arrays:
        x, y = arrays["x_train"][:count, None], arrays["y_train"][:count]
    return x.astype(np.float32) / 255, y.astype(np.int64)


def noisy(
    weights: dict[str, Tensor], sigma: float, magnitude: bool, random: torch.Generator
) -> dict[str, Tensor]:
    """Return weights with noise."""
    deviation = sharpness.DEVIATIONS["standard", magnitude]
    return {
        name: weight + deviation(weight, sigma, E) * torch.randn(weight.shape, generator=random)
        for name, weight in weights.items()
    }


def reference(context: Context, magnitude: bool, seed: int) -> tuple[Run, Run]:
    """Return the reference's runs: with its early stop, and through its whole schedule."""
    assert context.train is not None
    assert context.train.x is not None
    x, y = torch.from_numpy(context.train.x), torch.from_numpy(context.train.y)
    weights = {name: p.detach() for name, p in context.module.named_parameters() if p.ndim > 1}
    accuracy = float((context.train.logits.argmax(axis=1) == context.train.y).mean())
    random = torch.Generator().manual_seed(seed)
    low, high, forwards, start = 0.0, 2.0, 0, time.process_time()
    stopped: Run | None = None
    with torch.no_grad():
        for _ in range(DEPTH):
            sigma = (low + high) / 2
            found = []
            for _ in range(DRAWS):
                moved = noisy(weights, sigma, magnitude, random)
                right = 0
                for rows, labels in zip(x.split(BATCH), y.split(BATCH), strict=True):
                    logits = torch.func.functional_call(context.module, moved, (rows,))
                    right += int((logits.argmax(dim=1) == labels).sum())
                    forwards += len(rows)
                found.append(right / len(y))
            displacement = abs(float(np.mean(found)) - accuracy)
            run = Run(math.log(sigma), forwards, time.process_time() - start)
            if stopped is None and abs(displacement - TARGET) < TOLERANCE:
                stopped = run
            low, high = (low, sigma) if displacement > TARGET else (sigma, high)
    schedule = DEPTH * DRAWS * len(y)
    if abs(forwards / schedule - 1) > 0.1:
        raise AssertionError(f"the reference took {forwards} forwards, its schedule is {schedule}")
    return stopped or run, run


def ours(context: Context, magnitude: bool, seed: int) -> tuple[Run, sharpness.sigma_search.Sigma]:
    """Return our run with the defaults and what it says of itself."""
    assert context.train is not None
    fresh = Context(context.module, context.shape, context.classes, context.clean, context.train, seed=seed)
    start = time.process_time()
    found = sharpness.find_sigma(fresh, magnitude=magnitude, magnitude_eps=E, **sharpness.SETTINGS)  # type: ignore[arg-type]
    return Run(found.sigma.log, found.forwards, time.process_time() - start), found.sigma


def truth(context: Context, magnitude: bool, near: float) -> tuple[float, float]:
    """Return log sigma* and its standard error by many draws at three sigmas near it, without our search."""
    assert context.train is not None
    training = perturbed.Training.of(context, context.train)
    weights = {name: p.detach() for name, p in context.module.named_parameters() if p.ndim > 1}
    at = near + np.array([-0.06, 0.0, 0.06])
    drops = np.empty((TRUTH_DRAWS, 3))
    with torch.no_grad():
        for k in range(TRUTH_DRAWS):
            random = torch.Generator().manual_seed(10**9 + k)
            rows = torch.randint(len(training.y), (TRUTH_IMAGES,), generator=random).numpy()
            x, y = training.rows(rows)
            state = random.get_state()
            for j, log_sigma in enumerate(at):
                random.set_state(state)
                moved = noisy(weights, math.exp(log_sigma), magnitude, random)
                right = (torch.func.functional_call(context.module, moved, (x,)).argmax(dim=1) == y).sum()
                drops[k, j] = (training.correct[rows].sum() - int(right)) / len(rows)
    means = drops.mean(axis=0)
    slope = (math.log(means[2]) - math.log(means[0])) / (at[2] - at[0])
    error = drops[:, 1].std(ddof=1) / math.sqrt(TRUTH_DRAWS) / means[1] / slope
    return near - math.log(means[1] / TARGET) / slope, error


def goal(text: str, met: bool) -> None:
    """Print a goal and whether it is met."""
    print(f"{text}: {'met' if met else 'not met'}", flush=True)


def compare(count: int, epochs: int, seeds: range, references: int, network: int) -> None:
    """Print the table of one number of training images: searches of these seeds on one network."""
    torch.manual_seed(network)
    context = trained(lenet_small((1, 28, 28), 10), *mnist(count), epochs=epochs, seed=network)
    assert context.train is not None
    accuracy = float((context.train.logits.argmax(axis=1) == context.train.y).mean())
    print(f"\n{count:,} training images, training accuracy {accuracy:.4f}\n")
    head = ("noise", "search", "runs", "forwards", "CPU-s", "rms error of log sigma", "largest")
    print("| " + " | ".join(head) + " |\n|---|---|--:|--:|--:|--:|--:|")
    lines = []
    for noise, magnitude in NOISES.items():
        mine = [ours(context, magnitude, seed) for seed in seeds]
        centre = float(np.mean([run.log_sigma for run, _ in mine]))
        true, error = truth(context, magnitude, centre)
        theirs = [reference(context, magnitude, seed) for seed in range(references)]
        rows = {
            "reference, 150 passes": [whole for _, whole in theirs],
            "reference, early stop": [stopped for stopped, _ in theirs],
            "ours": [run for run, _ in mine],
        }
        means = {}
        for name, runs in rows.items():
            off = np.array([run.log_sigma - true for run in runs])
            forwards, seconds = (
                float(np.mean([getattr(r, k) for r in runs])) for k in ("forwards", "seconds")
            )
            means[name] = forwards, seconds
            print(
                f"| {noise} | {name} | {len(runs)} | {forwards:,.0f} | {seconds:.2f} "
                f"| {math.sqrt(np.mean(off**2)):.3f} | {np.abs(off).max():.3f} |",
                flush=True,
            )
        ratios = {
            name: tuple(a / b for a, b in zip(means[name], means["ours"], strict=True)) for name in rows
        }
        inside = float(np.mean([sigma.lower <= true <= sigma.upper for _, sigma in mine]))
        whole, stopped = (ratios[f"reference, {kind}"] for kind in ("150 passes", "early stop"))
        lines.append((noise, whole, stopped, inside, max(run.forwards for run, _ in mine), true, error))
    print()
    for noise, whole, stopped, inside, most, true, error in lines:
        print(f"{noise}: log sigma* = {true:.3f} (standard error {error:.3f})")
        print(f"against the early stop: {stopped[0]:.0f}x fewer forwards, {stopped[1]:.0f}x less CPU")
        if count == 5000:
            goal(f"{whole[0]:.0f}x fewer forwards; at least 30x", whole[0] >= 30)
            goal(f"{whole[1]:.0f}x less CPU; at least 15x", whole[1] >= 15)
        else:
            print(f"{whole[0]:.0f}x fewer forwards, {whole[1]:.0f}x less CPU")
        goal(f"coverage over {len(seeds)} seeds {inside:.2f}; .90 to .99", 0.9 <= inside <= 0.99)
        goal(f"{most:,} forwards at most; 20,000", most <= 20_000)


def cifar() -> None:
    """Time both sigmas of a CNN of CIFAR's size, trained on striped images that it can learn."""
    random = np.random.default_rng(0)
    y = random.integers(0, 10, 1000)
    stripes = np.sin(np.arange(32) * (1 + np.arange(10)[:, None]) * math.pi / 16)
    x = 0.5 + 0.2 * stripes[y][:, None, None, :] + random.normal(scale=0.15, size=(1000, 3, 32, 32))
    network = cnn((3, 32, 32), 10, depth=4, width=32)
    context = trained(network, x.clip(0, 1).astype(np.float32), y, epochs=3)
    parameters = sum(p.numel() for p in network.parameters())
    runs = [ours(context, magnitude, 0)[0] for magnitude in NOISES.values()]
    seconds = sum(run.seconds for run in runs)
    print(f"\nCNN of 4 convolutions with batch norm, {parameters:,} parameters, 3 x 32 x 32")
    goal(f"both sigmas in {seconds:.0f} CPU-seconds; less than 60", seconds < 60)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=30, help="runs of our search")
    parser.add_argument("--first-seed", type=int, default=0, help="seed of the first of them")
    parser.add_argument("--network-seed", type=int, default=0, help="seed of weights and batches")
    parser.add_argument("--references", type=int, default=1, help="runs of the reference")
    parser.add_argument("--images", type=int, nargs="*", choices=list(EPOCHS), default=list(EPOCHS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    for count in arguments.images:
        compare(count, EPOCHS[count], seeds, arguments.references, arguments.network_seed)
    cifar()
