"""A network as a graph without batch normalization: traced, folded, and checked against the original."""

from __future__ import annotations

import io
import operator
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

from metaeval.measures.spec import Context, Undefined, Unsupported

PROBES, FEW = 8, 3
TOLERANCE = 1e-4
CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")
MAPS = (*CONVOLUTIONS, "linear")
WEIGHT, BIAS = 1, 2  # positions among the arguments of convolutions and linear maps


@dataclass(frozen=True, eq=False)
class Folded:
    """A traced network without batch normalization.

    Attributes
    ----------
    module : torch.fx.GraphModule
        From inputs in [0, 1] to logits. Its nodes call ATen operators without side effects; weights, biases,
        and scale and shift of batch norm that could not be folded are parameters. ``node.meta["name"]`` is
        the layer of the original that a node comes from.
    difference : float
        Largest difference between its logits and the original's on probes.
    norms : frozenset of str
        The parameters that are scale or shift of batch norm.
    """

    module: fx.GraphModule
    difference: float
    norms: frozenset[str] = frozenset()


def folded(context: Context) -> Folded:
    """Return the folded network of a context; to be asked for by ``context.shared(folded)``."""
    return fold(context.module, context.shape, device=context.device, seed=context.seed)


def neutralised(context: Context) -> Folded:
    """Return the same with a scale of 1 and a shift of 0 where batch norm was folded."""
    return fold(context.module, context.shape, device=context.device, seed=context.seed, neutral=True)


def fold(
    module: nn.Module,
    shape: tuple[int, ...],
    *,
    device: torch.device | None = None,
    seed: int = 0,
    neutral: bool = False,
) -> Folded:
    """Trace a network in evaluation mode and fold its batch normalization.

    Batch norm right after a convolution or linear map becomes part of it; any other becomes a multiplication
    and an addition per channel.

    Parameters
    ----------
    module : nn.Module
        From inputs (n, *shape) in [0, 1] to logits; it is left as it was.
    neutral : bool
        Whether a folded batch norm leaves a scale of 1 and a shift of 0 as parameters.

    Raises
    ------
    Unsupported
        If it cannot be traced, or the folded network's logits differ by more than 1e-4 (times the largest
        logit, if that is more than 1).
    Undefined
        If its logits are not finite.
    """
    draw = torch.Generator().manual_seed(seed)
    probes = torch.rand((PROBES, *shape), generator=draw).to(device or torch.device("cpu"))
    try:
        with _traceable(), torch.no_grad():  # what the model computes without gradients is traced, too
            program = torch.export.export(
                module, (probes,), dynamic_shapes=({0: torch.export.Dim.AUTO},), strict=False
            )
    except Exception as error:  # tracing runs the model's own code, which may raise anything
        lines = str(error).strip().splitlines() or [""]
        raise Unsupported(f"cannot be traced: {type(error).__name__}: {lines[0][:200]}") from None
    with torch.no_grad():
        folding = _Folding(program, neutral)
        graph = folding.module
        expected = torch.cat([module(probes), module(probes[:FEW])])
        try:
            found = torch.cat([graph(probes), graph(probes[:FEW])])
        except RuntimeError:
            raise Unsupported("cannot be traced: the number of samples becomes a part of the graph") from None
    if not bool(torch.isfinite(expected).all()):
        raise Undefined("its logits are not finite")
    difference = float((expected - found).abs().max())
    if difference > TOLERANCE * max(1.0, float(expected.abs().max())):
        raise Unsupported(
            f"the traced and folded network gives other logits: they differ by {difference:.2g}"
        )
    return Folded(graph, difference, frozenset(folding.norms))


@contextmanager
def _traceable() -> Iterator[None]:
    """Trace without torch's own report of a failure, and torchvision's normalization, too.

    That looks at its constants, which tracing does not know; the logits are compared afterwards.
    """
    functional: Any = sys.modules.get("torchvision.transforms.functional")
    own = getattr(functional, "normalize", None)
    try:
        if own:
            functional.normalize = _normalize
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        if own:
            functional.normalize = own


def _normalize(x: torch.Tensor, mean: Any, std: Any, inplace: bool = False) -> torch.Tensor:
    mean, std = (
        torch.as_tensor(values, dtype=x.dtype, device=x.device).view(-1, 1, 1) for values in (mean, std)
    )
    return x.sub_(mean).div_(std) if inplace else (x - mean) / std


def operation(node: fx.Node) -> str:
    """Return the name of the operator that a node calls: "conv2d", "relu", "add"; "" for other nodes."""
    if node.op != "call_function":
        return ""
    packet = getattr(node.target, "overloadpacket", None)
    return str(getattr(packet or node.target, "__name__", node.target))


class _Folding:
    """Copies an exported graph, with what depends on no input computed and batch norm folded."""

    def __init__(self, program: torch.export.ExportedProgram, neutral: bool) -> None:
        self.neutral, self.norms = neutral, set[str]()
        self.root = nn.Module()
        self.graph = fx.Graph()
        self.new: dict[fx.Node, fx.Node] = {}
        self.known: dict[fx.Node, Any] = {}
        self.trained: set[fx.Node] = set()
        signature = program.graph_signature
        sources = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        for node in program.graph.nodes:
            if node.op == "placeholder" and node.name in sources:
                name = sources[node.name]
                self.known[node] = (
                    program.state_dict[name] if name in program.state_dict else program.constants[name]
                )
                if node.name in signature.inputs_to_parameters:
                    self.trained.add(node)
            elif node.op == "placeholder":
                self.new[node] = self.graph.placeholder("x")
            elif node.op == "output":
                self.graph.output(self._mapped(node.args[0][0]))
            elif node.op == "call_function":
                self._call(node)
            else:
                raise Unsupported(f"cannot be traced: its graph calls {node.op} {node.target}")
        self.graph.eliminate_dead_code()
        self.graph.lint()
        self.module = fx.GraphModule(self.root, self.graph)

    def _call(self, node: fx.Node) -> None:
        if all(source in self.known for source in node.all_input_nodes):
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), lambda source: self.known[source])
            self.known[node] = node.target(*args, **kwargs)  # type: ignore[operator]
            return
        name = operation(node)
        if name == "batch_norm":
            self._batch_norm(node)
            return
        target: Any = node.target
        written = name.endswith("_") and not name.startswith("_")
        if written:
            packet = getattr(torch.ops.aten, name[:-1])
            target = getattr(packet, target._overloadname)
        args = tuple(
            self._mapped(value, trained=name.rstrip("_") in MAPS and place in (WEIGHT, BIAS))
            for place, value in enumerate(node.args)
        )
        kwargs = {key: self._mapped(value) for key, value in node.kwargs.items()}
        if name in ("view", "reshape") and (size := _whole(node)):
            args = (args[0], [-1, *size])
        self.new[node] = self._add(node, target, args, kwargs)
        first = node.args[0] if node.args else None
        if written and isinstance(first, fx.Node):
            self.new[first] = self.new[node]  # what is read later is what was written

    def _batch_norm(self, node: fx.Node) -> None:
        source, *rest = node.args
        weight, bias, mean, variance = (
            self.known[value] if isinstance(value, fx.Node) else None for value in rest[:4]
        )
        training, epsilon = rest[4], rest[6]
        if training or mean is None or variance is None:
            raise Unsupported(f"batch norm without running statistics: {_layer(node)}")
        assert isinstance(source, fx.Node)
        inner = self.new[source]
        if _is_fusible(source, inner):
            kernel, offset = (
                None if place >= len(inner.args) or inner.args[place] is None else inner.args[place]
                for place in (WEIGHT, BIAS)
            )
            fuse: Any = fuse_linear_bn_weights if operation(inner) == "linear" else fuse_conv_bn_weights
            given = self._value(kernel)
            doubles = (
                None if value is None else value.double()
                for value in (given, self._value(offset), mean, variance)
            )
            scale = torch.ones_like(variance) if weight is None else weight
            shift = torch.zeros_like(variance) if bias is None else bias
            fused = fuse(*doubles, epsilon, scale.double(), shift.double())
            with self.graph.inserting_before(inner):
                pair = [self._constant(value.detach().to(given.dtype), trained=True) for value in fused]
            inner.args = (inner.args[0], *pair, *inner.args[3:])
            self.new[node] = inner
            if self.neutral:
                self._scaled(node, inner, torch.ones_like(variance), torch.zeros_like(variance))
            return
        deviation = (variance.double() + epsilon).sqrt()
        scale = (torch.ones_like(deviation) if weight is None else weight.double()) / deviation
        shift = (torch.zeros_like(deviation) if bias is None else bias.double()) - mean.double() * scale
        self._scaled(node, inner, scale.to(mean.dtype), shift.to(mean.dtype))

    def _scaled(self, node: fx.Node, inner: fx.Node, scale: torch.Tensor, shift: torch.Tensor) -> None:
        """Put a multiplication and an addition per channel in the place of batch norm."""
        source = node.args[0]
        assert isinstance(source, fx.Node)
        per_channel = (-1, *[1] * (source.meta["val"].ndim - 2))
        factor, term = (
            self._constant(value.detach().view(per_channel), trained=True) for value in (scale, shift)
        )
        self.norms |= {str(factor.target), str(term.target)}
        product = self._add(node, torch.ops.aten.mul.Tensor, (inner, factor), {})
        product.meta["batch norm"] = True
        self.new[node] = self._add(node, torch.ops.aten.add.Tensor, (product, term), {})

    def _add(self, node: fx.Node, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> fx.Node:
        added = self.graph.call_function(target, args, kwargs)
        added.meta["name"] = _layer(node)
        return added

    def _mapped(self, value: Any, *, trained: bool = False) -> Any:
        def copied(source: fx.Node) -> Any:
            if source in self.new:
                return self.new[source]
            if not isinstance(self.known[source], torch.Tensor):
                return self.known[source]
            self.new[source] = self._constant(
                self.known[source].detach(), trained=trained or source in self.trained
            )
            return self.new[source]

        return fx.node.map_arg(value, copied)

    def _constant(self, value: torch.Tensor, *, trained: bool) -> fx.Node:
        name = f"constant_{len(dict(self.root.named_parameters())) + len(dict(self.root.named_buffers()))}"
        if trained and value.is_floating_point():
            self.root.register_parameter(name, nn.Parameter(value.clone(), requires_grad=False))
        else:
            self.root.register_buffer(name, value.clone())
        return self.graph.get_attr(name)

    def _value(self, node: Any) -> Any:
        return None if node is None else operator.attrgetter(str(node.target))(self.root)


def _is_fusible(source: fx.Node, inner: fx.Node) -> bool:
    """Tell whether batch norm after a node is a scaling of the rows of its weight, seen by nobody else."""
    name = operation(inner)
    return (
        operation(source) in (name, "batch_norm")
        and len(source.users) == 1
        and all(
            value is None or (isinstance(value, fx.Node) and value.op == "get_attr")
            for value in inner.args[1:3]
        )
        and (name in CONVOLUTIONS or (name == "linear" and source.meta["val"].ndim == 2))
    )


def _whole(node: fx.Node) -> tuple[int, ...]:
    """Return the shape of one sample where their number was written as a number, as by ``len(x)``."""
    shape = tuple(node.meta["val"].shape)
    written = len(shape) > 1 and all(type(size) is int for size in shape) and shape[0] == PROBES
    return shape[1:] if written else ()


def _layer(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    path = [name for name, _ in stack.values()]
    return (path[-1] if path else "") or "network"
