"""Running attacks of other libraries so that a sample's result depends on no other sample.

Libraries draw random numbers for a whole batch, average losses over it and seed torch's global generator.
While `Draws` is active, torch's random functions give every sample its own numbers from
`metaeval.attacks.noise`, and means over the batch are sums. What a sample gets is then what the library gives
when it is called with that sample alone; where that is not possible within a batch (the library transforms
or stops a whole batch at once), the samples are run one by one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from metaeval.attacks import noise
from metaeval.attacks.counting import CountedModel
from metaeval.attacks.kernel import KernelResult, batches

# Attacks some inputs with these labels; made anew for every epsilon.
Run = Callable[[Tensor, Tensor], Tensor]
Build = Callable[[nn.Module, float], Run]


class SharedDraw(RuntimeError):
    """A draw or a call that cannot be shared out among the samples of a batch."""


class Draws(TorchFunctionMode):
    """While active, random numbers come from the streams of the samples attended to, one after the other.

    A draw of m rows for n samples gives m / n consecutive rows to each; for a single sample any shape will
    do. Inside the model (`watched`) nothing is replaced: a randomised model keeps its own generator.
    """

    def __init__(self, keys: Tensor) -> None:
        super().__init__()
        self._keys = keys
        self._counter = 0
        self._paused = False

    def attend(self, keys: Tensor) -> None:
        """Say whose numbers come next; their streams start at the beginning."""
        self._keys, self._counter = keys, 0

    def watched(self, model: nn.Module) -> nn.Module:
        """Return a model inside of which nothing is replaced."""
        return _Undisturbed(model, self)

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Replace nothing for a while."""
        self._paused = True
        try:
            yield
        finally:
            self._paused = False

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Replace a random function or a mean over the batch; call anything else."""
        kwargs = kwargs or {}
        replacement = None if self._paused else _REPLACEMENTS.get(func)
        if replacement is None:
            return func(*args, **kwargs)
        return replacement(self, func, args, kwargs)

    def numbers(self, generate: Callable[..., Tensor], shape: Sequence[int], *given: Any) -> Tensor:
        """Return the next numbers of all samples in the shape that the library asked for."""
        n, shape = len(self._keys), tuple(shape)
        if n == 0 or (n > 1 and (not shape or shape[0] % n)):
            raise SharedDraw(f"a draw of shape {shape} for {n} samples")
        own = shape if n == 1 else (shape[0] // n, *shape[1:])
        self._counter += 1
        return generate(self._keys, self._counter - 1, *given, own).reshape(shape)

    def is_batch(self, values: Tensor) -> bool:
        """Tell whether values (n,) are one number per sample."""
        return values.ndim == 1 and len(values) == len(self._keys)


class _Undisturbed(nn.Module):
    def __init__(self, model: nn.Module, draws: Draws) -> None:
        super().__init__()
        self.model = model
        self._draws = draws
        self.eval()  # torchattacks takes a wrapper in training mode as a wish to train the model inside

    def forward(self, x: Tensor) -> Tensor:
        with self._draws.pause():
            logits: Tensor = self.model(x)
        return logits


def _factory(generate: Callable[..., Tensor]) -> Any:
    def draw(draws: Draws, _func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
        shape = kwargs.get("size", args)  # torch.rand(2, 3) and torch.rand((2, 3))
        if len(shape) == 1 and not isinstance(shape[0], int):
            shape = shape[0]
        numbers: Tensor = draws.numbers(generate, shape).to(kwargs.get("dtype") or torch.get_default_dtype())
        return numbers

    return draw


def _alike(generate: Callable[..., Tensor]) -> Any:
    def draw(draws: Draws, _func: Any, args: Sequence[Any], _kwargs: dict[str, Any]) -> Tensor:
        drawn: Tensor = draws.numbers(generate, args[0].shape).to(args[0])
        return drawn

    return draw


def _integers(draws: Draws, _func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    low, high, shape = (
        kwargs[name] if name in kwargs else args[k] for k, name in enumerate(("low", "high", "size"))
    )
    drawn: Tensor = draws.numbers(noise.integers, shape, high - low) + low
    return drawn.to(kwargs.get("dtype", torch.int64))


def _uniform_in_place(draws: Draws, _func: Any, args: Sequence[Any], _kwargs: dict[str, Any]) -> Tensor:
    values, low, high = args if len(args) == 3 else (args[0], 0.0, 1.0)
    drawn: Tensor = values.copy_(low + (high - low) * draws.numbers(noise.uniform, values.shape).to(values))
    return drawn


def _coins_in_place(draws: Draws, _func: Any, args: Sequence[Any], _kwargs: dict[str, Any]) -> Tensor:
    (values,) = args
    drawn: Tensor = values.copy_(draws.numbers(noise.uniform, values.shape) < 0.5)
    return drawn


def _summed_loss(_draws: Draws, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    if kwargs.get("reduction", "mean") == "mean":
        kwargs = {**kwargs, "reduction": "sum"}
    return func(*args, **kwargs)


def _summed_mean(draws: Draws, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    if len(args) == 1 and not kwargs and draws.is_batch(args[0]):
        return args[0].sum()
    return func(*args, **kwargs)


_REPLACEMENTS: dict[Any, Any] = {
    torch.rand: _factory(noise.uniform),
    torch.randn: _factory(noise.normal),
    torch.rand_like: _alike(noise.uniform),
    torch.randn_like: _alike(noise.normal),
    torch.randint: _integers,
    torch.Tensor.uniform_: _uniform_in_place,
    torch.Tensor.bernoulli_: _coins_in_place,
    F.cross_entropy: _summed_loss,
    F.nll_loss: _summed_loss,
    torch.Tensor.mean: _summed_mean,
}


@contextlib.contextmanager
def undisturbed_generators(device: torch.device, seed: int) -> Iterator[None]:
    """Seed numpy's global generator, and give it and torch's back as they came: libraries seed them."""
    before = np.random.get_state()  # noqa: NPY002 - it is this one that libraries use
    np.random.seed(seed & 0xFFFFFFFF)  # noqa: NPY002
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        np.random.set_state(before)  # noqa: NPY002


def run_library(
    build: Build,
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    epsilon: Tensor | None,
    *,
    keys: Tensor,
    batch_size: int,
    alone: bool,
) -> KernelResult:
    """Run a library's attack, which takes one epsilon for all, on each group of equal ones.

    Parameters
    ----------
    build : callable
        ``build(model, epsilon)`` returns a callable that maps inputs and labels to perturbed inputs.
    epsilon : Tensor or None
        float64 (n,); None for an attack that takes none.
    keys : Tensor
        int64 (n,), from `noise.sample_keys`.
    alone : bool
        Run one sample at a time.

    Returns
    -------
    KernelResult
        Without claims: `success` is False everywhere.
    """
    result = KernelResult.failed(x)
    counted = CountedModel(model, result)
    draws = Draws(keys[:0])
    watched = draws.watched(counted)
    if epsilon is None:
        epsilon = torch.zeros(len(x), dtype=torch.float64, device=x.device)

    def attack(run: Run, rows: Tensor) -> None:
        counted.attend(rows)
        draws.attend(keys[rows])
        with undisturbed_generators(x.device, int(keys[rows[0]])), draws:
            result.candidates[rows] = run(x[rows].clone(), y[rows]).detach()

    for radius, rows in groups(epsilon, batch_size):
        run = build(watched, radius)
        try:
            for part in batches(len(rows), 1 if alone else batch_size):
                attack(run, rows[part])
        except SharedDraw:  # the library dropped a sample on its way
            for part in batches(len(rows), 1):
                attack(run, rows[part])
    counted.settle()
    return result


def groups(epsilon: Tensor, batch_size: int) -> Iterator[tuple[float, Tensor]]:
    """Yield (epsilon, rows) for every batch of samples with the same epsilon."""
    for radius in torch.unique(epsilon).tolist():
        rows = (epsilon == radius).nonzero().squeeze(1)
        for part in batches(len(rows), batch_size):
            yield radius, rows[part]
