"""The linear maps of a folded network, with the input sizes that they really have."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import fx
from torch.nn import functional

from metaeval.measures.folding import CONVOLUTIONS, MAPS, Folded, operation
from metaeval.measures.spec import Unsupported

Kind = Literal["convolution", "linear", "diagonal"]
Pair = tuple[int, int]

ACTIVATIONS = frozenset(
    (
        *(
            "relu",
            "relu6",
            "leaky_relu",
            "elu",
            "celu",
            "selu",
            "gelu",
            "silu",
            "mish",
            "softplus",
            "softsign",
            "prelu",
            "rrelu",
        ),
        *("sigmoid", "log_sigmoid", "hardsigmoid", "tanh", "hardtanh", "hardswish", "clamp", "clamp_min"),
    )
)
POOLING = frozenset(
    f"{kind}_pool{size}d" for kind in ("max", "avg", "adaptive_avg", "adaptive_max") for size in (1, 2, 3)
) | {"mean"}
MOVES = frozenset(  # each output is one input, or zero
    (
        *("view", "reshape", "flatten", "unflatten", "permute", "transpose", "t", "contiguous", "clone"),
        *("detach", "dropout", "feature_dropout", "alias", "squeeze", "unsqueeze", "slice", "select"),
        *("expand", "cat", "stack", "pad", "chunk", "split", "unbind", "getitem", "to", "_to_copy"),
        *("movedim", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "upsample_nearest2d"),
    )
)
SIZES = frozenset(("sym_size", "_assert_scalar", "_assert_tensor_metadata", "floordiv"))
SUMS = frozenset(("add", "sub", "rsub", "neg"))
ROWS = 2  # sent through a graph for its shapes: ``squeeze`` would take the place of one away
SKIPS = ("add", "cat", "sub", "stack")


@dataclass(frozen=True, eq=False)
class Layer:
    """A linear map of a network, without its bias.

    Attributes
    ----------
    name : str
        Path of the module in the network.
    weight : float64 tensor
        (out, in / groups, *kernel), (out, in), or for a diagonal map the factors, broadcastable to an input.
        Constant factors per channel that stand before the map (input normalization) are multiplied into it.
    source, target : tuple of int
        Shape of one input and one output.
    padding : tuple of (before, after)
        Per spatial dimension; `mode` is that of ``torch.nn.functional.pad``.
    """

    name: str
    kind: Kind
    weight: torch.Tensor
    source: tuple[int, ...]
    target: tuple[int, ...]
    stride: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    padding: tuple[Pair, ...] = ()
    mode: str = "constant"
    groups: int = 1

    def apply(self, x: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
        """Return the map of inputs (n, *source), in the precision of `weight` (default: the layer's own)."""
        weight = self.weight if weight is None else weight
        if self.kind == "diagonal":
            return x * weight
        if self.kind == "linear":
            return functional.linear(x, weight)
        if self.mode == "constant" and all(before == after for before, after in self.padding):
            padding = tuple(before for before, _ in self.padding)
        else:
            pads = [width for pair in reversed(self.padding) for width in pair]
            x, padding = functional.pad(x, pads, mode=self.mode), (0,) * len(self.padding)
        convolve: Any = getattr(functional, f"conv{len(self.stride)}d")
        y: torch.Tensor = convolve(x, weight, None, self.stride, padding, self.dilation, self.groups)
        return y

    def minus(self, other: Layer) -> Layer:
        """Return the map with the difference of both weights."""
        if self.weight.shape != other.weight.shape:
            raise Unsupported(f"{self.name} has another shape before training")
        return replace(self, weight=self.weight - other.weight)


@dataclass(frozen=True)
class Layers:
    """The linear maps of a network in the order in which they are applied.

    Attributes
    ----------
    maps : tuple of Layer
    unsupported : tuple of str
        What is neither such a map nor an activation, pooling or a change of shape: "name (operator)".
    skips : int
        Places where two branches meet.
    """

    maps: tuple[Layer, ...]
    unsupported: tuple[str, ...]
    skips: int


class _Shapes(fx.Interpreter):
    """Runs a graph and keeps the shape of every tensor, and which nodes give several."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}
        self.several: set[fx.Node] = set()

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, torch.Tensor):
            self.shapes[n] = tuple(result.shape)
        elif isinstance(result, (list, tuple)) and any(isinstance(part, torch.Tensor) for part in result):
            self.several.add(n)
        return result


def depends_on_input(graph: fx.Graph) -> set[fx.Node]:
    """Return the nodes that are computed from the network's input."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder" or any(source in found for source in node.all_input_nodes):
            found.add(node)
    return found


def constant(module: fx.GraphModule, value: Any) -> torch.Tensor | None:
    """Return the tensor or number that an argument stands for; None if it is computed from the input."""
    if isinstance(value, (int, float)):
        return torch.tensor(float(value), dtype=torch.float64)
    if isinstance(value, fx.Node) and value.op == "get_attr":
        found = operator.attrgetter(str(value.target))(module)
        return found.detach().double() if isinstance(found, torch.Tensor) else None
    return None


def layers_of(network: Folded, shape: tuple[int, ...]) -> Layers:
    """Return the linear maps of a folded network for inputs of a shape.

    Parameters
    ----------
    shape : tuple of int
        Of one input, without the batch.
    """
    module = network.module
    device = next(iter(module.parameters()), torch.zeros(0)).device
    interpreter = _Shapes(module)
    with torch.no_grad():
        interpreter.run(torch.zeros((ROWS, *shape), device=device))
    return _Reader(module, interpreter).read()


class _Reader:
    """Reads the maps from a graph; what one layer took up is no layer of its own."""

    def __init__(self, module: fx.GraphModule, found: _Shapes) -> None:
        self.module, self.shapes, self.several = module, found.shapes, found.several
        self.live = depends_on_input(module.graph)
        self.taken: set[fx.Node] = set()

    def read(self) -> Layers:
        maps: dict[fx.Node, Layer] = {}
        unsupported: dict[str, None] = {}
        skips = 0
        nodes = [node for node in self.module.graph.nodes if node in self.live]
        for node in reversed(nodes):  # a map takes up the factors before it
            name = operation(node)
            if name in MAPS and (weight := constant(self.module, node.args[1])) is not None:
                maps[node] = self._map(node, name, weight)
            elif node in self.taken or not (node in self.shapes or node in self.several):
                pass
            elif name in ("mul", "div"):
                if (factor := self._factor(node)) is not None:
                    maps[node] = self._diagonal(node, factor)
                elif not _is_swish(node):
                    unsupported[f"{node.meta['name']} (product of two activations)"] = None
            elif name in MAPS or not self._is_harmless(node, name):
                unsupported[f"{node.meta['name']} ({name})"] = None
            skips += name in SKIPS and sum(source in self.live for source in node.all_input_nodes) > 1
        return Layers(
            tuple(maps[node] for node in nodes if node in maps), tuple(reversed(unsupported)), skips
        )

    def _is_harmless(self, node: fx.Node, name: str) -> bool:
        return node.op != "call_function" or name in ACTIVATIONS | POOLING | MOVES | SIZES | SUMS

    def _factor(self, node: fx.Node) -> torch.Tensor | None:
        """Return what a product or quotient multiplies its input by; None if that depends on the input."""
        left, right = node.args[:2]
        value = constant(self.module, right)
        if value is None and operation(node) == "mul":
            return constant(self.module, left)
        return 1 / value if value is not None and operation(node) == "div" else value

    def _diagonal(self, node: fx.Node, factor: torch.Tensor) -> Layer:
        inner = self.shapes[node][1:]
        factor = factor[0] if factor.ndim > len(inner) else factor
        return Layer(str(node.meta["name"]), "diagonal", factor, inner, inner)

    def _map(self, node: fx.Node, name: str, weight: torch.Tensor) -> Layer:
        source = node.args[0]
        assert isinstance(source, fx.Node)
        if name == "linear":
            scale, before = self._factors_before(source, lambda factor, _: _per_channel(factor, -1))
            shape = self.shapes[before][1:]
            if scale is None and self._is_flattening(before):
                scale, _ = self._factors_before(
                    before.args[0], lambda factor, size: factor.expand(size).flatten()
                )
            weight = weight if scale is None else weight * scale
            return Layer(str(node.meta["name"]), "linear", weight, shape, self.shapes[node][1:])
        dims = CONVOLUTIONS.index(name) + 1
        given: dict[str, Any] = dict(
            zip(("stride", "padding", "dilation", "groups"), node.args[3:], strict=False)
        )
        stride, dilation = (_each(given.get(key, 1), dims) for key in ("stride", "dilation"))
        padding = _padding(given.get("padding", 0), weight.shape[2:], dilation)
        mode, per_channel = "constant", lambda factor, _: _per_channel(factor, -dims - 1)
        groups = int(given.get("groups", 1))
        scale, before = self._factors_before(source, per_channel)
        if (widths := _pads(before, dims)) and not any(width for pair in padding for width in pair):
            self.taken.add(before)
            padding, mode = widths, str(before.args[2]) if len(before.args) > 2 else "constant"
            inner = before.args[0]
            assert isinstance(inner, fx.Node)
            earlier, before = self._factors_before(inner, per_channel)
            scale = earlier if scale is None else scale if earlier is None else scale * earlier
        if scale is not None:
            weight = weight * _by_input_channel(scale, weight, groups)
        return Layer(
            str(node.meta["name"]),
            "convolution",
            weight,
            self.shapes[before][1:],
            self.shapes[node][1:],
            stride,
            dilation,
            padding,
            mode,
            groups,
        )

    def _is_flattening(self, node: fx.Node) -> bool:
        """Tell whether a node makes one row of each input, which nobody else reads."""
        if operation(node) not in ("flatten", "view", "reshape") or len(node.users) != 1:
            return False
        return self.shapes[node] == (ROWS, math.prod(self.shapes[node.all_input_nodes[0]][1:]))

    def _factors_before(
        self, node: Any, accept: Callable[[torch.Tensor, tuple[int, ...]], torch.Tensor | None]
    ) -> tuple[torch.Tensor | None, fx.Node]:
        """Return the product of the constant factors right before a map, and the node that they apply to.

        `accept` makes one dimension of a factor for inputs of a shape, or refuses it.
        """
        scale: torch.Tensor | None = None
        while node in self.live and len(node.users) == 1 and not node.meta.get("batch norm"):
            name = operation(node)
            inner = next(
                (value for value in node.args if isinstance(value, fx.Node) and value in self.live), None
            )
            if inner is None or sum(source in self.live for source in node.all_input_nodes) > 1:
                break
            if name in ("mul", "div"):
                factor = self._factor(node)
                factor = None if factor is None else accept(factor, self.shapes[node][1:])
                if factor is None:
                    break
                self.taken.add(node)
                scale = factor if scale is None else scale * factor
            elif name not in ("add", "sub") or _is_batch_norm(node):
                break
            node = inner
        return scale, node


def _is_batch_norm(node: fx.Node) -> bool:
    source = node.args[0]
    return isinstance(source, fx.Node) and bool(source.meta.get("batch norm"))


def _is_swish(node: fx.Node) -> bool:
    """Tell whether a product is x sigmoid(x), an activation written out."""
    left, right = node.args[:2]
    return any(
        isinstance(gate, fx.Node) and operation(gate) == "sigmoid" and gate.args[0] is other
        for gate, other in ((left, right), (right, left))
    )


def _per_channel(factor: torch.Tensor, channels: int) -> torch.Tensor | None:
    """Return a factor as one number per channel (or one for all); None if it varies otherwise."""
    single = factor.numel() == 1
    varies = not single and (factor.ndim < -channels or factor.shape[channels] != factor.numel())
    return None if varies else factor.reshape(-1)


def _by_input_channel(scale: torch.Tensor, weight: torch.Tensor, groups: int) -> torch.Tensor:
    """Return factors per input channel in the shape of a kernel (out, in / groups, 1, ...)."""
    ones = [1] * (weight.ndim - 2)
    if scale.numel() == 1:
        return scale.reshape(1, 1, *ones)
    per_group = scale.reshape(groups, weight.shape[1]).repeat_interleave(weight.shape[0] // groups, 0)
    return per_group.reshape(weight.shape[0], weight.shape[1], *ones)


def _each(value: Any, dims: int) -> tuple[int, ...]:
    values = [int(item) for item in value] if isinstance(value, (list, tuple)) else [int(value)]
    return tuple(values * dims if len(values) == 1 else values)


def _padding(value: Any, kernel: tuple[int, ...], dilation: tuple[int, ...]) -> tuple[Pair, ...]:
    if value == "valid":
        return tuple((0, 0) for _ in kernel)
    if value == "same":
        totals = [step * (size - 1) for step, size in zip(dilation, kernel, strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)
    return tuple((width, width) for width in _each(value, len(kernel)))


def _pads(node: fx.Node, dims: int) -> tuple[Pair, ...]:
    """Return the widths of padding right before a convolution, if it is linear and of spatial dimensions."""
    if operation(node) != "pad" or len(node.users) != 1:
        return ()
    widths: Any = node.args[1]
    value = node.args[3] if len(node.args) > 3 else None
    if len(widths) > 2 * dims or min(widths) < 0 or value not in (None, 0, 0.0):
        return ()
    pairs = [(int(widths[i]), int(widths[i + 1])) for i in range(0, len(widths), 2)]
    return (*[(0, 0)] * (dims - len(pairs)), *reversed(pairs))
