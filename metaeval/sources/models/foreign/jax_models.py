"""Models of JAX: Flax (linen and nnx), Equinox, and any function that can be jitted."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from metaeval.errors import UsageError
from metaeval.hashing import hash_array, hash_json
from metaeval.sources.models.foreign.adapter import ForeignModel, Pullback, padded, shareable
from metaeval.sources.models.foreign.values import check_values, misfit

Tree = Any  # nested containers of arrays
Apply = Callable[[Tree, Any], Any]

CHANGES = "it changes its state when it is called: build it so that it evaluates"


def adapt(built: Any, *, weights: Path | None, shape: tuple[int, ...], classes: int) -> ForeignModel:
    """Return a model of JAX as functions of torch tensors.

    Parameters
    ----------
    built : object
        A function ``f(x)`` of a batch, a pair of ``f(weights, x)`` or a linen module and its weights, a
        linen or nnx module, or an Equinox module, which takes one input.
    weights : Path, optional
        File of weights to fill in: safetensors (names joined by dots), Flax's msgpack, Equinox's leaves.
    shape : tuple of int
        Of one input as the model takes it.

    Raises
    ------
    UsageError
        If it is none of these, or its weights do not fit, are not finite, or change with a call.
    """
    apply, tree = _normal_form(_equinox_filled(built, weights), weights)

    def call(tree: Tree, x: jax.Array) -> jax.Array:
        logits = apply(tree, x)
        if not isinstance(logits, jax.Array):
            raise UsageError(f"it gives type {type(logits).__name__}, not one array of logits")
        return logits.astype(jnp.float32)

    device = jax.devices()[0]
    tree = jax.device_put(tree, device)
    named = {name: _on_host(leaf) for name, leaf in _named(tree).items()}
    named |= _constants(call, tree, shape)
    check_values(named)

    forward = jax.jit(call)
    # A vjp's function is a tree of its residuals, so that jit can return it: nothing is computed twice.
    linear = jax.jit(lambda tree, x: jax.vjp(lambda x: call(tree, x), x))
    backward = jax.jit(lambda pullback, cotangent: pullback(cotangent)[0])

    def into(x: Tensor) -> jax.Array:
        shared = shareable(padded(x))
        if (shared.device.type == "cuda") != (device.platform in ("gpu", "cuda")):
            return jax.device_put(shared.cpu().numpy(), device)
        return jax.device_put(jax.dlpack.from_dlpack(shared), device)

    def back(array: jax.Array, like: Tensor) -> Tensor:
        # JAX computes in the background, and torch may overwrite the shared inputs as soon as it goes on.
        return from_dlpack(array.block_until_ready())[: len(like)].to(like.device)

    def logits(x: Tensor) -> Tensor:
        # Copied, since JAX may return one of its inputs or constants, and torch may write into what it gets.
        return back(forward(tree, into(x)), x).clone()

    def linearize(x: Tensor) -> tuple[Tensor, Pullback]:
        found, pullback = linear(tree, into(x))
        return back(found, x).clone(), lambda cotangent: back(backward(pullback, into(cotangent)), x)

    return ForeignModel(
        logits=logits,
        linearize=linearize,
        fingerprint=hash_json({name: hash_array(value) for name, value in named.items()}),
        size=sum(value.size for value in named.values()),
    )


def _normal_form(built: Any, weights: Path | None) -> tuple[Apply, Tree]:
    """Return a function of weights and a batch, and the weights."""
    content = None if weights is None or weights.suffix == ".eqx" else _read(weights)
    pair = built if isinstance(built, tuple) and len(built) == 2 else (built, None)
    function, tree = pair
    if _is(function, "flax.linen", "Module"):
        if tree is None and content is None:
            raise UsageError("it gives a linen module without its variables: return (module, variables)")
        if content is not None:
            content = _variables(content)
            tree = content if tree is None else _filled(_variables(tree), content)
        return function.apply, _variables(tree)
    if _is(function, "flax.nnx", "Module"):
        return _nnx(function, content)
    if _is(function, "equinox", "Module"):
        if content is not None:
            raise UsageError(
                "weights of a module of Equinox are read from files .eqx (tree_serialise_leaves)"
            )
        return _equinox(function)
    if not callable(function):
        raise UsageError(f"it gives type {type(built).__name__}, not a model of JAX or (function, weights)")
    if tree is not None:
        return function, tree if content is None else _filled(tree, content)
    if weights is not None:
        raise UsageError("weights from a file need the pair (function, weights), and it gives a function")
    return lambda _, x: function(x), ()


def _variables(tree: Any) -> Any:
    """Return the variables of a linen module, of which the parameters may be given alone."""
    return tree if "params" in tree else {"params": tree}


def _is(value: Any, module: str, name: str) -> bool:
    """Tell whether a value is of a class of a library, which is imported if it can be."""
    home = sys.modules.get(module)
    return home is not None and isinstance(value, getattr(home, name))


def _nnx(module: Any, content: Mapping[str, Any] | None) -> tuple[Apply, Tree]:
    nnx = sys.modules["flax.nnx"]
    module.eval()  # batch normalization by its running statistics, no dropout
    definition, random, state = nnx.split(module, nnx.RngState, ...)
    if content is not None:
        nnx.replace_by_pure_dict(state, _filled(nnx.to_pure_dict(state), content))
    return lambda state, x: nnx.merge(definition, random, state)(x), state


def _equinox(module: Any) -> tuple[Apply, Tree]:
    equinox = sys.modules["equinox"]
    arrays, rest = equinox.partition(equinox.nn.inference_mode(module), equinox.is_array)
    return lambda arrays, x: jax.vmap(equinox.combine(arrays, rest))(x), arrays


def _equinox_filled(built: Any, weights: Path | None) -> Any:
    if weights is None or weights.suffix != ".eqx":
        return built
    if not _is(built, "equinox", "Module"):
        raise UsageError(f"it gives type {type(built).__name__}; {weights.name} is for a module of Equinox")
    try:
        return sys.modules["equinox"].tree_deserialise_leaves(weights, built)
    except Exception as error:  # a damaged file raises nearly anything
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise UsageError(f"{weights.name} cannot be read or does not fit: {first}") from None


def _read(path: Path) -> dict[str, Any]:
    """Return the nested arrays of a file."""
    try:
        if path.suffix == ".msgpack":
            from flax.serialization import msgpack_restore

            content: dict[str, Any] = msgpack_restore(path.read_bytes())
            return content
        from safetensors.flax import load_file

        nested: dict[str, Any] = {}
        for name, value in load_file(path).items():
            inner = nested
            *folders, last = re.split(r"[./]", name)
            for folder in folders:
                inner = inner.setdefault(folder, {})
            inner[last] = value
        return nested
    except ImportError as error:
        raise UsageError(f"{path.name} needs {error.name}: pip install {error.name}") from None
    except Exception as error:  # a damaged file raises nearly anything
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise UsageError(f"{path.name} is damaged or of another format: {first}") from None


def _filled(tree: Tree, content: Mapping[str, Any]) -> Tree:
    """Return the tree with its arrays replaced by those of the same names."""
    expected, found = _named(tree), _named(content)
    if wrong := misfit({k: v.shape for k, v in expected.items()}, {k: v.shape for k, v in found.items()}):
        raise UsageError(f"the weights do not fit the model: {wrong}")
    values = [jnp.asarray(found[name], dtype=expected[name].dtype) for name in expected]
    return jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(tree), values)


def _named(tree: Tree) -> dict[str, Any]:
    """Return the arrays of a tree by the names on their way, joined by dots."""

    def name(key: Any) -> str:
        return str(next(getattr(key, part) for part in ("key", "idx", "name") if hasattr(key, part)))

    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {".".join(map(name, path)): leaf for path, leaf in leaves}


def _constants(call: Apply, tree: Tree, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Return the arrays that a function has in itself: weights too, if they are not passed to it.

    It is traced twice: a function that keeps something of a call for the next is no function.
    """
    x = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    programs = []
    for _ in range(2):
        try:
            # A function of its own each time: what was traced before would not be traced again.
            traced = jax.make_jaxpr(lambda tree, x: call(tree, x))(tree, x)
        except jax.errors.UnexpectedTracerError:
            raise UsageError(CHANGES) from None
        programs.append(re.sub(r"0x[0-9a-f]+", "", str(traced)))
    if programs[0] != programs[1]:
        raise UsageError(CHANGES)
    return {f"constant {i}": _on_host(value) for i, value in enumerate(traced.consts)}


def _on_host(value: Any) -> np.ndarray:
    """Return an array of JAX, keys of random numbers too, as one of NumPy."""
    if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    return np.asarray(value)
