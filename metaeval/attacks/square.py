"""Square attack (Andriushchenko et al. 2020) for linf and l2, with an epsilon and a random stream per sample.

A random search over the outputs alone: each query changes the perturbation in a small window and keeps the
change if the margin shrinks. Windows are drawn per sample, so that a result depends on nothing but the
sample, and all positions are possible (the published code leaves out the last row and column).

`run` is a kernel (see `metaeval.attacks.kernel`). Its settings:

``queries``
    Windows tried in a run, at least 1 (published: 5000); one more forward evaluates the start. The
    schedule of window sizes is stretched to this number.
``restarts``
    Runs from other random starts, at least 1 (published: 1); each only for the samples not yet broken.

Inputs of shape (..., height, width) have as many channels as the leading axes have entries. A vector is a
picture of height 1: its windows are runs of neighbouring features.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from metaeval.attacks import noise
from metaeval.attacks.kernel import KernelResult, Model, batches, check_inputs, forward, per_sample
from metaeval.attacks.losses import margin

# Share of an image's pixels in a window at first, and the queries (of 10,000) after which it is halved.
INITIAL_SHARE = 0.8
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
POOL = 8  # Batches whose samples advance together.


def run(
    model: Model,
    x: Tensor,
    y: Tensor,
    epsilon: Tensor,
    *,
    norm: str,
    keys: Tensor,
    settings: Mapping[str, Any],
    batch_size: int | None = None,
) -> KernelResult:
    """Run the Square attack; settings ``queries``, ``restarts``. See `square`."""
    return square(model, x, y, epsilon, norm=norm, keys=keys, batch_size=batch_size, **settings)


def square(
    model: Model,
    x: Tensor,
    y: Tensor,
    epsilon: Tensor,
    *,
    norm: str,
    keys: Tensor,
    queries: int = 5000,
    restarts: int = 1,
    batch_size: int | None = None,
) -> KernelResult:
    """Look for an adversarial of each sample within its own epsilon, without gradients.

    Parameters
    ----------
    model : callable
        Maps inputs (n, \\*shape) in [0, 1] to logits (n, classes).
    x, y : Tensor
        Inputs in [0, 1], float (n, \\*shape), and labels, int64 (n,).
    epsilon : Tensor
        float64 (n,): radius of each sample.
    norm : {"linf", "l2"}
    keys : Tensor
        int64 (n,), from `noise.sample_keys`; restart r uses stream r.
    queries, restarts : int
        See the module's text.
    batch_size : int, optional
        Most samples in one pass through the model; all of them by default.

    Returns
    -------
    KernelResult

    Raises
    ------
    ValueError
        If the norm is unknown, a count is below 1 or shapes do not fit.
    """
    batch_size = check_inputs(x, y, epsilon, keys, batch_size)
    if norm not in ("linf", "l2"):
        raise ValueError(f"norm is {norm!r}; Square takes 'linf' or 'l2'")
    for name, value in (("queries", queries), ("restarts", restarts)):
        if value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1")
    y, epsilon, keys = (values.to(x.device) for values in (y, epsilon, keys))
    result = KernelResult.failed(x)
    shape = (1, 1, *x.shape[1:]) if x.ndim == 2 else (math.prod(x.shape[1:-2]), *x.shape[-2:])
    images = x.reshape(len(x), *shape)
    with torch.no_grad():
        for rows in batches(len(x), POOL * batch_size):
            pool = torch.arange(rows.start, rows.stop, device=x.device)
            for restart in range(restarts):
                ids = pool[~result.success[pool]]
                if len(ids) == 0:
                    break
                state = _State(
                    ids=ids,
                    x=images[ids],
                    y=y[ids],
                    epsilon=per_sample(epsilon[ids], images),
                    keys=noise.derive(keys[ids], restart),
                )
                _search(model, state, norm, queries, batch_size, result)
    return result


@dataclass
class _State:
    """One row for each sample that is not broken yet; images are (n, channels, height, width)."""

    ids: Tensor  # row in the result
    x: Tensor
    y: Tensor
    epsilon: Tensor  # like x, broadcasting
    keys: Tensor

    def keep(self, rows: Tensor) -> None:
        """Drop all samples but those in `rows`."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name).index_select(0, rows))


def _search(
    model: Model, state: _State, norm: str, queries: int, batch_size: int, result: KernelResult
) -> None:
    """Search from one random start, recording adversarials and costs in the result."""
    shape = result.candidates.shape[1:]
    start, propose = (_linf_start, _linf_proposal) if norm == "linf" else (_l2_start, _l2_proposal)
    best = start(state)
    smallest = torch.full_like(state.epsilon.view(-1), torch.inf)
    proposal, window = best, None
    for query in range(queries + 1):
        if query > 0:
            size = _window_size(query - 1, queries, state.x.shape[-2:], norm)
            if window is None or window.size != size:
                window = _Window(size, state.x)
            proposal = propose(state, best, window, query)
        logits = forward(model, proposal.reshape(-1, *shape), batch_size)
        margins = margin(logits, state.y)
        wrong = logits.argmax(dim=1) != state.y
        better = margins < smallest
        smallest = torch.where(better, margins, smallest)
        best = torch.where(better.view(-1, 1, 1, 1), proposal, best)
        remaining = len(wrong) - int(wrong.sum())  # The only host synchronisation of a query.
        if remaining < len(wrong):
            order = torch.argsort(wrong.to(torch.uint8), stable=True)
            staying, leaving = order[:remaining], order[remaining:]
            ids = state.ids[leaving]
            result.candidates[ids] = proposal[leaving].reshape(-1, *shape)
            result.success[ids] = True
            result.forwards[ids] += query + 1
            if remaining == 0:
                return
            state.keep(staying)
            best, smallest = best[staying], smallest[staying]
    result.forwards[state.ids] += queries + 1
    result.candidates[state.ids] = best.reshape(-1, *shape)


def _window_size(query: int, queries: int, image: tuple[int, ...], norm: str) -> tuple[int, int]:
    """Return height and width of a query's windows: a square, or as much of one as fits in the image."""
    height, width = image
    progress = int(query / queries * 10000)
    pixels = INITIAL_SHARE / 2 ** sum(progress > end for end in HALVINGS) * height * width
    side = max(round(math.sqrt(pixels)), 1)
    if norm == "l2":
        side = max(side, 3) // 2 * 2 + 1
    if side <= min(height, width):
        return side, side
    short = min(side, height, width)
    long = min(max(round(pixels / short), side), max(height, width))
    return (short, long) if height <= width else (long, short)


class _Window:
    """What depends on a window's size only: offsets in a flat image, the ranges of draws, patterns."""

    def __init__(self, size: tuple[int, int], x: Tensor) -> None:
        self.size = size
        channels, height, width = x.shape[1:]
        self.positions = (height - size[0] + 1, width - size[1] + 1)
        # Row and column of two windows, the pattern's orientation, a sign for each channel.
        self.ranges = torch.tensor([*self.positions, *self.positions, *[2] * (1 + channels)], device=x.device)
        rows, columns = (torch.arange(k, device=x.device) for k in size)
        self.offsets = (rows[:, None] * width + columns).flatten()
        self.patterns = _patterns(size).to(x).flatten(1)


def _draw(state: _State, window: _Window, query: int) -> Tensor:
    return noise.integers(state.keys, query, window.ranges, window.ranges.shape)


def _linf_start(state: _State) -> Tensor:
    """Vertical stripes of plus or minus epsilon."""
    _, channels, _, width = state.x.shape
    signs = 2 * noise.integers(state.keys, 0, 2, (channels, 1, width)) - 1
    return (state.x + state.epsilon * signs).clamp_(0.0, 1.0)


def _linf_proposal(state: _State, best: Tensor, window: _Window, query: int) -> Tensor:
    """Set one window to plus or minus epsilon, one sign for each channel."""
    n, channels, height, width = state.x.shape
    draws = _draw(state, window, query)
    index = (draws[:, 0] * width + draws[:, 1])[:, None] + window.offsets
    index = index[:, None, :].expand(-1, channels, -1)
    signs = (2 * draws[:, 5:] - 1)[:, :, None]
    changed = state.x.reshape(n, channels, -1).gather(2, index) + state.epsilon.view(n, 1, 1) * signs
    flat = best.reshape(n, channels, -1).scatter(2, index, changed.clamp_(0.0, 1.0))
    return flat.view(n, channels, height, width)


def _l2_start(state: _State) -> Tensor:
    """A grid of patterns, five along the shorter side, scaled to epsilon."""
    n, channels, height, width = state.x.shape
    short = max(min(height, width) // 5, 1)
    size = (short, short) if min(height, width) > 1 else (max(height // 5, 1), max(width // 5, 1))
    down, across = height // size[0], width // size[1]
    patterns = _patterns(size).to(state.x)
    orientation = noise.integers(state.keys, 0, 2, (1 + channels, down, across))
    tiles = patterns[orientation[:, :1]] * (2 * orientation[:, 1:] - 1)[..., None, None]
    grid = tiles.permute(0, 1, 2, 4, 3, 5).reshape(n, channels, down * size[0], across * size[1])
    delta = torch.zeros_like(state.x)
    top, left = (height - grid.shape[2]) // 2, (width - grid.shape[3]) // 2
    delta[:, :, top : top + grid.shape[2], left : left + grid.shape[3]] = grid
    return _on_sphere(state, delta)


def _l2_proposal(state: _State, best: Tensor, window: _Window, query: int) -> Tensor:
    """Move the perturbation's mass from two windows, and what is missing to epsilon, into the first."""
    n, channels, height, width = state.x.shape
    draws = _draw(state, window, query)
    first, second = (
        ((draws[:, k] * width + draws[:, k + 1])[:, None] + window.offsets)[:, None, :].expand(
            -1, channels, -1
        )
        for k in (0, 2)
    )
    delta = (best - state.x).view(n, channels, -1)
    unused = state.epsilon.view(n, 1, 1) ** 2 - delta.square().sum(dim=(1, 2), keepdim=True)
    inside = delta.gather(2, first)
    mass = inside.square().sum(2, keepdim=True)
    direction = window.patterns[draws[:, 4]][:, None, :] * (2 * draws[:, 5:] - 1)[:, :, None]
    direction = direction + inside / (mass.sqrt() + 1e-12)
    delta = delta.scatter(2, first, 0.0)
    mass = mass + delta.gather(2, second).square().sum(
        2, keepdim=True
    )  # windows may overlap: each pixel once
    length = (unused.clamp_(min=0.0) / channels + mass).sqrt()
    direction = direction / (direction.square().sum(2, keepdim=True).sqrt() + 1e-12) * length
    delta = delta.scatter_(2, second, 0.0).scatter_(2, first, direction)
    return _on_sphere(state, delta.view(n, channels, height, width))


def _on_sphere(state: _State, delta: Tensor) -> Tensor:
    length = delta.square().sum(dim=(1, 2, 3), keepdim=True).sqrt()
    return (state.x + delta * (state.epsilon / (length + 1e-12))).clamp_(0.0, 1.0)


def _patterns(size: tuple[int, int]) -> Tensor:
    """Return the l2 window's patterns of norm 1, two bumps of opposite sign: split by rows and by columns."""
    height, width = size
    by_rows = torch.cat([_bump(height // 2, width), -_bump(height - height // 2, width)], dim=0)
    by_columns = torch.cat([_bump(height, width // 2), -_bump(height, width - width // 2)], dim=1)
    if min(size) == 1:  # Too thin to split both ways.
        by_rows = by_columns = by_rows if height > width else by_columns
    patterns = torch.stack([by_rows, by_columns])
    return patterns / patterns.square().sum(dim=(1, 2), keepdim=True).sqrt()


def _bump(height: int, width: int) -> Tensor:
    """Return a bump of norm 1, falling with the (Chebyshev) distance from its centre: (height, width)."""
    if height == 0 or width == 0:
        return torch.zeros(height, width)
    rings = max(height, width) // 2 + 1
    heights = 1.0 / torch.arange(1, rings + 1) ** 2
    values = heights.flip(0).cumsum(0).flip(0)
    rows, columns = (torch.arange(k) - k // 2 for k in (height, width))
    ring = torch.maximum(rows.abs()[:, None], columns.abs()[None, :])
    bump = values[ring]
    return bump / bump.square().sum().sqrt()
