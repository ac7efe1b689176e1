"""Path norms: sums over all paths through a ReLU network."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.nn import functional

from metaeval.measures.folding import BIAS, MAPS, Folded, operation
from metaeval.measures.layers import MOVES, ROWS, SIZES, SUMS, constant
from metaeval.measures.spec import Undefined, Unsupported

LEAST = -600.0  # of a logarithm beside which there are constants: their unit must be a float


@dataclass(frozen=True, eq=False)
class _Scaled:
    """A tensor as mantissa times exp(log); it takes part in products of hundreds of layers."""

    mantissa: torch.Tensor
    log: float = 0.0


def log_path_norm(network: Folded, shape: tuple[int, ...], *, order: int) -> float:
    """Return the logarithm of the l_p path norm (Neyshabur, Tomioka and Srebro 2015), p = `order`.

    The p-th root of the sum, over all paths from an input or a bias to a logit, of the product of |weight|^p.
    Found by one forward pass of ones through the network with powered weights: biases and the weights of
    average pooling are powered too, max-pooling becomes a sum, and input normalization is the first layer.

    Parameters
    ----------
    shape : tuple of int
        Of one input.
    order : int
        1 or 2.

    Raises
    ------
    Unsupported
        If the network has other operations than linear maps, ReLU, pooling and sums.
    Undefined
        If no path has only non-zero weights.
    """
    module = network.module
    device = next(iter(module.parameters()), torch.zeros(0)).device
    ones = torch.ones((ROWS, *shape), dtype=torch.float64, device=device)
    with torch.no_grad():
        total: _Scaled = _Paths(module, order).run(_Scaled(ones))
    found = float(total.mantissa.sum()) / ROWS
    if not found > 0:
        raise Undefined("every path has a weight of zero")
    return (math.log(found) + total.log) / order


class _Paths(fx.Interpreter):
    """Runs a graph on path sums instead of activations."""

    def __init__(self, module: fx.GraphModule, order: int) -> None:
        super().__init__(module)
        self.extra_traceback = False  # it would be written into the reasons
        self.graph_module, self.order = module, order
        unsupported = {
            f"{node.meta['name']} ({operation(node)})": None
            for node in module.graph.nodes
            if node.op == "call_function" and operation(node) not in KNOWN
        }
        if unsupported:
            raise Unsupported(f"path norms are for ReLU networks; not with {', '.join([*unsupported][:5])}")

    def run_node(self, n: fx.Node) -> Any:
        if n.op != "call_function":
            return super().run_node(n)
        if operation(n) == "_assert_tensor_metadata":
            return None  # sums are in float64, whatever activations were
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        scaled = [value for value in _flat((args, kwargs)) if isinstance(value, _Scaled)]
        if not scaled:
            return super().run_node(n)
        log = max(value.log for value in scaled)

        def aligned(value: Any) -> Any:
            if isinstance(value, _Scaled):
                return value.mantissa * math.exp(value.log - log)
            if isinstance(value, (list, tuple)):
                return type(value)(aligned(item) for item in value)
            return value

        name = operation(n)
        if name in SIZES:
            return n.target(*aligned(args), **kwargs)  # type: ignore[operator]
        rule, unit = RULES.get(name, _moved), 1.0
        if (rule is _sum and len(scaled) == 1) or (
            rule is _map and n.args[BIAS:] and n.args[BIAS] is not None
        ):
            log = max(log, LEAST)
            unit = math.exp(-log)
        return _wrapped(rule(self, n, aligned(args), kwargs, unit), log)

    def powered(self, node: fx.Node, place: int) -> torch.Tensor | None:
        """Return |value|^p of a constant argument; None if there is no such argument."""
        if place >= len(node.args) or node.args[place] is None:
            return None
        value = constant(self.graph_module, node.args[place])
        return None if value is None else value.abs() ** self.order


def _flat(value: Any) -> list[Any]:
    if isinstance(value, (list, tuple)):
        return [found for item in value for found in _flat(item)]
    return [found for item in value.values() for found in _flat(item)] if isinstance(value, dict) else [value]


def _wrapped(value: Any, log: float) -> Any:
    if isinstance(value, torch.Tensor):
        largest = float(value.max())
        return _Scaled(value / largest, log + math.log(largest)) if largest > 0 else _Scaled(value, log)
    if isinstance(value, (list, tuple)):
        return [_Scaled(item, log) for item in value]
    return value


Rule = Callable[[_Paths, fx.Node, tuple[Any, ...], dict[str, Any], float], Any]


def _map(run: _Paths, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any], unit: float) -> Any:
    weight, bias = run.powered(node, 1), run.powered(node, 2)
    if weight is None:
        raise Unsupported(f"path norms: the weight of {node.meta['name']} depends on the input")
    bias = None if bias is None else bias * unit
    return node.target(args[0], weight, bias, *args[3:], **kwargs)  # type: ignore[operator]


def _factor(run: _Paths, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any], unit: float) -> Any:
    values = [run.powered(node, place) for place in (0, 1)]
    if operation(node) == "div" and values[1] is not None:
        return args[0] / values[1]
    if operation(node) == "mul" and (values[0] is None) != (values[1] is None):
        return args[0] * values[1] if values[0] is None else args[1] * values[0]
    raise Unsupported(f"path norms: {node.meta['name']} multiplies activations")


def _sum(run: _Paths, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any], unit: float) -> Any:
    if kwargs.get("alpha", 1) != 1:
        raise Unsupported(f"path norms: {node.meta['name']} adds with a factor")
    terms = []
    for place, value in enumerate(args[:2]):
        known = run.powered(node, place)
        terms.append(value if known is None else known * unit)
    return sum(terms[1:], terms[0])


def _moved(run: _Paths, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any], unit: float) -> Any:
    if operation(node) == "pad" and len(args) > 3 and args[3] not in (None, 0):
        raise Unsupported(f"path norms: {node.meta['name']} pads with {args[3]}")
    if any(source.op == "get_attr" for source in node.all_input_nodes):
        raise Unsupported(f"path norms: {node.meta['name']} joins activations with constants")
    return node.target(*args, **kwargs)  # type: ignore[operator]


def _relu(run: _Paths, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any], unit: float) -> Any:
    return args[0]


def _mean(run: _Paths, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any], unit: float) -> Any:
    mean = node.target(*args, **kwargs)  # type: ignore[operator]
    return mean * (mean.numel() / args[0].numel()) ** (run.order - 1)


def _average(run: _Paths, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any], unit: float) -> Any:
    average = node.target(*args, **kwargs)  # type: ignore[operator]
    ones = torch.ones_like(args[0])
    weight = node.target(ones, *args[1:], **kwargs) / _windows(ones, *args[1:5])  # type: ignore[operator]
    return average * weight ** (run.order - 1)


def _adaptive(run: _Paths, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any], unit: float) -> Any:
    average = node.target(*args, **kwargs)  # type: ignore[operator]
    dims = int(operation(node)[-2])
    weight = torch.ones_like(average)
    for dim in range(-dims, 0):
        size, parts = args[0].shape[dim], average.shape[dim]
        counts = [-(-(part + 1) * size // parts) - part * size // parts for part in range(parts)]
        weight = weight / weight.new_tensor(counts).view(-1, *[1] * (-dim - 1))
    return average * weight ** (run.order - 1)


def _maximum(run: _Paths, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any], unit: float) -> Any:
    given: dict[str, Any] = dict(
        zip(("x", "kernel", "stride", "padding", "dilation", "ceil"), args, strict=False)
    )
    dilation = given.pop("dilation", 1)
    if any(step != 1 for step in (dilation if isinstance(dilation, (list, tuple)) else [dilation])):
        raise Unsupported(f"path norms: {node.meta['name']} is max-pooling with dilation")
    return _windows(**given)


def _windows(x: torch.Tensor, kernel: Any, stride: Any = None, padding: Any = 0, ceil: bool = False) -> Any:
    """Return the sum over each window of pooling in one, two or three dimensions."""
    dims = x.ndim - 2
    sizes = [
        list(value) * dims if len(value) == 1 else list(value)
        for value in (
            entry if isinstance(entry, (list, tuple)) else [entry]
            for entry in (kernel, stride or kernel, padding)
        )
    ]
    if dims == 1:
        kernel, stride, padding = ([neutral, *value] for neutral, value in zip((1, 1, 0), sizes, strict=True))
        return _windows(x[:, :, None], kernel, stride, padding, ceil)[:, :, 0]
    pool: Any = functional.avg_pool2d if dims == 2 else functional.avg_pool3d
    return pool(x, *sizes, ceil, True, 1)


RULES: dict[str, Rule] = {
    **dict.fromkeys(MAPS, _map),
    **dict.fromkeys(("mul", "div"), _factor),
    **dict.fromkeys(SUMS - {"neg"}, _sum),
    **dict.fromkeys(("relu", "neg", "to", "_to_copy"), _relu),
    **{f"avg_pool{dims}d": _average for dims in (1, 2, 3)},
    **{f"adaptive_avg_pool{dims}d": _adaptive for dims in (1, 2, 3)},
    **{f"max_pool{dims}d": _maximum for dims in (1, 2, 3)},
    "mean": _mean,
}
KNOWN = frozenset(RULES) | MOVES | SIZES
