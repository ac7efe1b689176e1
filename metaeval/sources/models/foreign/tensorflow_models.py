"""Models of TensorFlow: Keras 3, saved models, and any function of a batch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import torch
from torch import Tensor
from torch.utils.dlpack import from_dlpack, to_dlpack  # type: ignore[attr-defined]

from metaeval.errors import UsageError
from metaeval.hashing import hash_array, hash_json
from metaeval.sources.models.foreign.adapter import ForeignModel, Pullback, shareable
from metaeval.sources.models.foreign.values import check_values


def adapt(built: Any, *, weights: Path | None, shape: tuple[int, ...], classes: int) -> ForeignModel:
    """Return a model of TensorFlow as functions of torch tensors.

    Parameters
    ----------
    built : object
        A model or layer of Keras, which is called with ``training=False``, or any other callable of a batch,
        as a ``tf.Module``; None if the file of weights holds a whole model.
    weights : Path, optional
        A whole model (``.keras``) or the weights of the one given (``.weights.h5``). Code that a whole model
        may hold is not run.
    shape : tuple of int
        Of one input as the model takes it.

    Raises
    ------
    UsageError
        If it is none of these, or its weights do not fit, are not finite, or change with a call.
    """
    if keras.backend.backend() != "tensorflow":
        raise UsageError(f"Keras runs on {keras.backend.backend()} here; KERAS_BACKEND=tensorflow is needed")
    call = _callable(built if weights is None else _filled(built, weights, shape))

    def logits_of(x: tf.Tensor) -> tf.Tensor:
        found = call(x)
        if not tf.is_tensor(found):
            raise UsageError(f"it gives type {type(found).__name__}, not one tensor of logits")
        return tf.cast(found, tf.float32)

    signature = [tf.TensorSpec((None, *shape), tf.float32)]  # any batch: nothing is traced again
    program = tf.function(logits_of, input_signature=signature, autograph=False)
    traced = program.get_concrete_function()
    variables = _variables(traced)
    named = {f"{i} {variable.name}": variable.numpy() for i, variable in enumerate(variables)}
    check_values(named)
    program(tf.zeros((2, *shape)))
    for variable, (name, value) in zip(variables, named.items(), strict=True):
        if not np.array_equal(variable.numpy(), value):
            raise UsageError(
                f"it changes its state when it is called ({name}): build it so that it evaluates"
            )
    on_gpu = bool(tf.config.list_logical_devices("GPU"))

    def into(x: Tensor) -> tf.Tensor:
        shared = shareable(x if on_gpu else x.cpu())
        return tf.experimental.dlpack.from_dlpack(to_dlpack(shared))

    def back(tensor: tf.Tensor, like: Tensor) -> Tensor:
        return from_dlpack(tf.experimental.dlpack.to_dlpack(tensor)).to(like.device)

    def logits(x: Tensor) -> Tensor:
        return back(program(into(x)), x).clone()  # torch may write into what it gets

    def linearize(x: Tensor) -> tuple[Tensor, Pullback]:
        inputs = into(x)
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(inputs)
            found = program(inputs)

        def pullback(cotangent: Tensor) -> Tensor:
            gradient = tape.gradient(found, inputs, output_gradients=into(cotangent))
            # None: no path from the inputs to the logits.
            return torch.zeros_like(x) if gradient is None else back(tf.convert_to_tensor(gradient), x)

        return back(found, x).clone(), pullback

    return ForeignModel(
        logits=logits,
        linearize=linearize,
        fingerprint=hash_json([*map(hash_array, named.values()), *_constants(traced)]),
        size=sum(value.size for value in named.values()),
    )


def _callable(built: Any) -> Callable[[Any], Any]:
    """Return a function of a batch that evaluates and does not train."""
    if isinstance(built, keras.layers.Layer):  # models are layers
        return lambda x: built(x, training=False)
    if not callable(built):
        raise UsageError(
            f"it gives type {type(built).__name__}, not a model of Keras or a function of a batch"
        )
    function: Callable[[Any], Any] = built
    return function


def _filled(built: Any, weights: Path, shape: tuple[int, ...]) -> Any:
    try:
        if weights.name.endswith(".keras"):
            return keras.saving.load_model(weights, compile=False, safe_mode=True)
        if not isinstance(built, keras.layers.Layer):
            raise UsageError(f"it gives type {type(built).__name__}; {weights.name} is for a model of Keras")
        if not built.built:
            built(np.zeros((1, *shape), np.float32), training=False)  # its weights do not exist before
        built.load_weights(weights)
        return built
    except UsageError:
        raise
    except Exception as error:  # a damaged file raises nearly anything
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UsageError(f"{weights.name} cannot be read or does not fit: {first}") from None


def _variables(traced: Any) -> list[Any]:
    """Return the variables of a traced function in the order in which it first reads them."""
    order = {id(captured): i for i, captured in enumerate(traced.captured_inputs)}
    return sorted(traced.graph.variables, key=lambda variable: order.get(id(variable.handle), len(order)))


def _constants(traced: Any) -> list[str]:
    """Return the hashes of the arrays that a traced function has in itself: weights too, if no variables."""
    graph = traced.graph.as_graph_def()
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    inlined = [node.attr["value"].tensor.SerializeToString() for node in nodes if node.op == "Const"]
    captured = [tensor for tensor in traced.captured_inputs if tensor.dtype != tf.resource]
    return sorted([*map(_hash_bytes, inlined), *(hash_array(tensor.numpy()) for tensor in captured)])


def _hash_bytes(content: bytes) -> str:
    return hash_array(np.frombuffer(content, dtype=np.uint8))
