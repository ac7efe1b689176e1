"""Models of JAX and TensorFlow against the same network of torch, and all that can be wrong with them.

TensorFlow takes seconds to import, so that everything that needs it is in this module.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits

from metaeval import open_cube
from metaeval.attacks import sweep
from metaeval.errors import UsageError
from metaeval.runner.forecast import forecast
from metaeval.runner.prepare import prepare
from metaeval.runner.run import run_study
from metaeval.sources.models import ModelEntry, load_model
from metaeval.sources.models.foreign.adapter import Foreign, ForeignModel, padded, shareable
from metaeval.sources.models.foreign.frameworks import FRAMEWORKS
from metaeval.study import Study, load_study

STUDIES = Path(__file__).parents[2] / "studies"
WEIGHTS = STUDIES / "frameworks.safetensors"

USERS = '''
"""What a user has beside a study."""
import numpy as np

import frameworks_models as ours

WEIGHTS = {weights!r}


def layers():
    return ours.channels_last(WEIGHTS)


def linen():
    return ours.flax_network(WEIGHTS)


def linen_module():
    return linen()[0]


def keras_model():
    return ours.keras_network(WEIGHTS)


def network(layers, x):
    """The network with nothing but JAX; layers and x as anybody has them."""
    import jax
    import jax.numpy as jnp

    def convolution(x, kernel, bias):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=numbers) + bias

    x = jax.nn.relu(convolution(x, *layers[0]))
    x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    x = jax.nn.relu(convolution(x, *layers[1]))
    return x.reshape(len(x), -1) @ layers[2][0] + layers[2][1]


def pair():
    return network, layers()


def function():
    own = layers()
    return lambda x: network(own, x)


def nnx():
    import jax.numpy as jnp
    from flax import nnx

    class Network(nnx.Module):
        def __init__(self):
            self.layers = nnx.List([
                nnx.Conv(1, 12, (3, 3), padding="VALID", rngs=nnx.Rngs(0)),
                nnx.Conv(12, 24, (2, 2), padding="VALID", rngs=nnx.Rngs(0)),
                nnx.Linear(96, 10, rngs=nnx.Rngs(0)),
            ])
            self.normalization = nnx.BatchNorm(10, use_scale=False, epsilon=0.0, rngs=nnx.Rngs(0))
            self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(0))  # off where a model evaluates
            for layer, (kernel, bias) in zip(self.layers, layers()):
                layer.kernel[...], layer.bias[...] = jnp.asarray(kernel), jnp.asarray(bias)

        def __call__(self, x):
            x = nnx.max_pool(nnx.relu(self.layers[0](x)), (2, 2), strides=(2, 2))
            x = nnx.relu(self.layers[1](x))
            return self.normalization(self.dropout(self.layers[2](x.reshape(len(x), -1))))

    return Network()


def equinox(filled=True):
    import equinox as eqx
    import jax
    import jax.numpy as jnp

    class Network(eqx.Module):
        layers: list
        pool: eqx.nn.MaxPool2d
        dropout: eqx.nn.Dropout

        def __call__(self, x):  # one input, channels first
            x = self.pool(jax.nn.relu(self.layers[0](x)))
            return self.dropout(self.layers[2](jax.nn.relu(self.layers[1](x)).ravel()))

    key = jax.random.key(0)
    net = Network(
        [eqx.nn.Conv2d(1, 12, 3, key=key), eqx.nn.Conv2d(12, 24, 2, key=key), eqx.nn.Linear(96, 10, key=key)],
        eqx.nn.MaxPool2d(2, 2),
        eqx.nn.Dropout(0.5),
    )
    if not filled:
        return net
    from safetensors.numpy import load_file
    w = load_file(WEIGHTS)
    new = [w["0.weight"], w["0.bias"][:, None, None], w["3.weight"], w["3.bias"][:, None, None],
           w["6.weight"], w["6.bias"]]
    place = lambda n: [part for layer in n.layers for part in (layer.weight, layer.bias)]
    return eqx.tree_at(place, net, [jnp.asarray(value) for value in new])


def tf_module():
    import tensorflow as tf

    class Module(tf.Module):
        def __init__(self):
            self.kept = [tuple(tf.Variable(part) for part in layer) for layer in layers()]

        def __call__(self, x):
            x = tf.nn.relu(tf.nn.conv2d(x, self.kept[0][0], 1, "VALID") + self.kept[0][1])
            x = tf.nn.max_pool2d(x, 2, 2, "VALID")
            x = tf.nn.relu(tf.nn.conv2d(x, self.kept[1][0], 1, "VALID") + self.kept[1][1])
            return tf.reshape(x, (-1, 96)) @ self.kept[2][0] + self.kept[2][1]

    return Module()


def tf_constants(factor=1.0):
    import tensorflow as tf

    matrix = np.random.default_rng(0).normal(size=(64, 10)).astype(np.float32) * factor
    return lambda x: tf.reshape(x, (-1, 64)) @ matrix


def jax_constants(factor=1.0):
    matrix = np.random.default_rng(0).normal(size=(64, 10)).astype(np.float32) * factor
    return lambda x: x.reshape(len(x), -1) @ matrix


def too_few():
    return lambda x: x.reshape(len(x), -1)[:, :7]


def text():
    return "a model"


def damaged():
    module, variables = linen()
    variables["params"]["Conv_1"]["kernel"] = variables["params"]["Conv_1"]["kernel"] * np.nan
    return module, variables


def damaged_keras():
    model = keras_model()
    model.layers[-1].bias.assign([np.nan] * 10)
    return model


def of_the_batch():
    import jax.numpy as jnp
    return lambda x: jnp.tile(x.reshape(len(x), -1)[:, :10] - x.mean(), 1)


def keeps_state():
    kept = []
    def call(x):
        kept.append(x.mean())
        return x.reshape(len(x), -1)[:, :10] + kept[-2 if len(kept) > 1 else -1]
    return call


def counts():
    import tensorflow as tf
    calls = tf.Variable(0.0, name="calls")
    def call(x):
        calls.assign_add(1.0)
        return tf.reshape(x, (-1, 64))[:, :10] + calls
    return call


def raises():
    raise RuntimeError("no such thing")
'''


@pytest.fixture
def users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Put a user's modules where they are imported from."""
    (tmp_path / "users.py").write_text(USERS.replace("{weights!r}", repr(str(WEIGHTS))))
    for framework in FRAMEWORKS.values():
        framework.prepare()
    for folder in (STUDIES, tmp_path):
        monkeypatch.syspath_prepend(str(folder))
    yield
    for name in ("users", "frameworks_models"):
        sys.modules.pop(name, None)


@pytest.fixture
def entry(
    users: None, write_study: Callable[..., Study], entries: Callable[[Study], list[ModelEntry]]
) -> Any:
    """Return a function that gives the entry of a table."""
    return lambda *lines: entries(write_study('source = "digits"', "\n".join(lines)))[0]


@pytest.fixture
def wrong(
    users: None,
    write_study: Callable[..., Study],
    entries: Callable[[Study], Any],
    problems: Callable[..., Any],
) -> Any:
    """Return a function that gives the problems of a table."""

    def found(*lines: str, exit_code: int = 2) -> str:
        study = write_study('source = "digits"', "\n".join(lines))
        return "\n".join(problems(study, lambda: entries(study), exit_code=exit_code))

    return found


def reference() -> torch.nn.Module:
    network = torch.nn.Sequential(
        torch.nn.Conv2d(1, 12, 3),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(12, 24, 2),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(96, 10),
    )
    network.load_state_dict(load_file(WEIGHTS))
    return network.eval()


def some_digits(n: int = 50) -> tuple[torch.Tensor, torch.Tensor]:
    data = load_digits()
    x = torch.from_numpy((data.data[1297 : 1297 + n] / 16).astype(np.float32).reshape(-1, 1, 8, 8))
    return x, torch.from_numpy(data.target[1297 : 1297 + n])


def gradient(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(torch.nn.functional.cross_entropy(model(x), y, reduction="sum"), x)[0]


def same_as_torch(model: torch.nn.Module) -> None:
    x, y = some_digits()
    with torch.no_grad():
        torch.testing.assert_close(model(x), reference()(x), atol=1e-5, rtol=1e-5)
    expected = gradient(reference(), x, y)
    assert (gradient(model, x, y) - expected).norm() <= 1e-4 * expected.norm()


MODELS = {
    "linen": ("jax", "linen", ()),
    "nnx": ("jax", "nnx", ()),
    "equinox": ("jax", "equinox", ('input_layout = "channels_first"',)),
    "pair": ("jax", "pair", ()),
    "function": ("jax", "function", ()),
    "keras": ("tensorflow", "keras_model", ()),
    "tf.Module": ("tensorflow", "tf_module", ()),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_same_weights_give_the_same_logits_and_gradients(name: str, entry: Any) -> None:
    source, model, more = MODELS[name]
    loaded = load_model(entry(f'source = "{source}"', f'model = "users:{model}"', *more))
    same_as_torch(loaded.module)
    counted = sum(parameter.numel() for parameter in reference().parameters())
    assert loaded.parameters == counted + (2 + 1) * 10 * (name == "nnx")  # of its batch normalization


@pytest.mark.parametrize("name", ["linen", "keras"])
def test_attacks_reach_the_same_verdicts(name: str, entry: Any) -> None:
    source, model, more = MODELS[name]
    module = load_model(entry(f'source = "{source}"', f'model = "users:{model}"', *more)).module
    x, y = some_digits()
    epsilons = [0, 0.05, 0.1, 0.15]
    ours = sweep(module, x, y, norm="linf", epsilons=epsilons, attack="apgd-ce")
    theirs = sweep(reference(), x, y, norm="linf", epsilons=epsilons, attack="apgd-ce")
    robust, expected = (np.isin(result.cells, (5, 6)) for result in (ours, theirs))
    assert robust.size == 200
    assert 50 < expected.sum() < 150  # else equal verdicts would say little
    assert (robust == expected).sum() >= 199
    assert abs(int(ours.backwards.sum()) / int(theirs.backwards.sum()) - 1) < 0.05


def test_range_and_normalization_come_before_the_model(entry: Any) -> None:
    model = entry(
        'source = "jax"',
        'model = "users:function"',
        "input_range = [0, 16]",
        "normalize = { mean = [0.5], std = [16.0] }",
    )
    x, _ = some_digits()
    with torch.no_grad():
        expected = reference()((x * 16 - 0.5) / 16)
        torch.testing.assert_close(load_model(model).module(x), expected, atol=1e-5, rtol=1e-5)


# Files of weights ------------------------------------------------------------


def flat_names(prefix: str = "") -> dict[str, torch.Tensor]:
    sys.path.insert(0, str(STUDIES))
    import frameworks_models

    layers = zip(("Conv_0", "Conv_1", "Dense_0"), frameworks_models.channels_last(WEIGHTS), strict=True)
    return {
        f"{prefix}{layer}.{name}": torch.from_numpy(np.ascontiguousarray(value))
        for layer, both in layers
        for name, value in zip(("kernel", "bias"), both, strict=True)
    }


def test_files_of_flax(entry: Any, wrong: Any, tmp_path: Path) -> None:
    from flax.serialization import msgpack_serialize

    save_file(flat_names("params."), tmp_path / "whole.safetensors")
    save_file(flat_names(), tmp_path / "parameters.safetensors")
    nested: dict[str, dict[str, np.ndarray]] = {}
    for name, value in flat_names().items():
        layer, part = name.split(".")
        nested.setdefault(layer, {})[part] = value.numpy()
    (tmp_path / "flax.msgpack").write_bytes(msgpack_serialize({"params": nested}))
    zeros = {name: torch.zeros_like(value) for name, value in flat_names().items()}
    save_file(zeros, tmp_path / "zeros.safetensors")
    identities = {}
    for file in ("whole.safetensors", "parameters.safetensors", "flax.msgpack", "zeros.safetensors"):
        for model in ("linen_module", "linen") if file == "flax.msgpack" else ("linen",):
            found = entry('source = "jax"', f'model = "users:{model}"', f'weights = "{file}"')
            loaded = load_model(found)
            identities[file, model] = loaded.identity
            if file != "zeros.safetensors":
                same_as_torch(loaded.module)
    assert identities["zeros.safetensors", "linen"] != identities["flax.msgpack", "linen"]

    broken = flat_names()
    broken["Conv_0.kernel"] = torch.zeros(2, 2, 1, 12)
    broken["extra.kernel"] = broken.pop("Dense_0.kernel")
    save_file(broken, tmp_path / "other.safetensors")
    said = wrong('source = "jax"', 'model = "users:linen"', 'weights = "other.safetensors"')
    assert "params.Dense_0.kernel is missing; params.extra.kernel is not in the model" in said
    assert "params.Conv_0.kernel is (2, 2, 1, 12), not (3, 3, 1, 12)" in said
    (tmp_path / "cut.msgpack").write_bytes((tmp_path / "flax.msgpack").read_bytes()[:500])
    assert "cut.msgpack is damaged" in wrong(
        'source = "jax"', 'model = "users:linen"', 'weights = "cut.msgpack"'
    )


def test_files_of_equinox(entry: Any, tmp_path: Path) -> None:
    import equinox
    import users

    equinox.tree_serialise_leaves(tmp_path / "net.eqx", users.equinox())
    same_as_torch(
        load_model(
            entry(
                'source = "jax"',
                'model = "users:equinox"',
                "settings = { filled = false }",
                'weights = "net.eqx"',
                'input_layout = "channels_first"',
            )
        ).module
    )


def test_files_of_keras(entry: Any, wrong: Any, tmp_path: Path) -> None:
    import keras
    import users

    users.keras_model().save(tmp_path / "whole.keras")
    users.keras_model().save_weights(tmp_path / "net.weights.h5")
    same_as_torch(load_model(entry('source = "tensorflow"', 'weights = "whole.keras"')).module)
    same_as_torch(
        load_model(
            entry('source = "tensorflow"', 'model = "users:keras_model"', 'weights = "net.weights.h5"')
        ).module
    )
    keras.Sequential([keras.Input((64,)), keras.layers.Dense(10)]).save_weights(tmp_path / "x.weights.h5")
    said = wrong('source = "tensorflow"', 'model = "users:keras_model"', 'weights = "x.weights.h5"')
    assert "x.weights.h5 cannot be read or does not fit" in said
    # Code in a file of a model is not run.
    layer = keras.layers.Lambda(lambda x: x)
    keras.Sequential([keras.Input((8, 8, 1)), layer]).save(tmp_path / "code.keras")
    assert "code.keras cannot be read" in wrong('source = "tensorflow"', 'weights = "code.keras"')


# The exchange of tensors ------------------------------------------------------------


@pytest.mark.parametrize("name", ["linen", "keras"])
def test_batches_of_any_size_and_place_in_memory(name: str, entry: Any) -> None:
    source, model, more = MODELS[name]
    module = load_model(entry(f'source = "{source}"', f'model = "users:{model}"', *more)).module
    x, y = some_digits()
    expected, slopes = module(x), gradient(module, x, y)
    store = torch.zeros(x.numel() + 3)
    for n in (1, 8, 9, 33):
        for offset in range(3):  # a place in memory that another framework may not like
            part = store[offset : offset + x[:n].numel()].view(n, 1, 8, 8)
            part.copy_(x[:n])
            torch.testing.assert_close(module(part), expected[:n], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(gradient(module, part, y[:n]), slopes[:n], atol=1e-5, rtol=1e-4)
    assert module(x[:0]).shape == (0, 10)


@pytest.mark.parametrize("name", ["linen", "keras"])
def test_torch_may_write_into_what_it_gets_and_gave(name: str, entry: Any) -> None:
    source, model, more = MODELS[name]
    module = load_model(entry(f'source = "{source}"', f'model = "users:{model}"', *more)).module
    x, _ = some_digits(16)
    before = x.clone()
    first = module(x)
    kept = first.clone()
    first.zero_()
    torch.testing.assert_close(module(x), kept, atol=0, rtol=0)
    x.zero_()  # the logits that were asked for before stay
    torch.testing.assert_close(module(before), kept, atol=0, rtol=0)
    inputs = before.clone().requires_grad_()
    logits = module(inputs)
    rows = [torch.autograd.grad(logits[:, k].sum(), inputs, retain_graph=True)[0] for k in range(10)]
    rows += [torch.autograd.grad(logits[:, 0].sum(), inputs, retain_graph=True)[0]]
    torch.testing.assert_close(rows[0], rows[-1], atol=0, rtol=0)
    assert float((rows[0] - rows[1]).abs().max()) > 0.01
    with torch.no_grad():
        inputs.zero_()
    (whole,) = torch.autograd.grad(logits.sum(), inputs)  # of what was asked for, a copy
    torch.testing.assert_close(whole, torch.stack(rows[:10]).sum(0), atol=1e-5, rtol=1e-4)


def test_each_size_is_compiled_once_and_they_are_few() -> None:
    from metaeval.sources.models.foreign.jax_models import adapt

    traced = []

    def model(x: Any) -> Any:
        traced.append(len(x))
        return x[:, :3] * 2

    found = Foreign(adapt(model, weights=None, shape=(5,), classes=3))
    traced.clear()
    for n in [*range(1, 65), *range(1, 65)]:
        x = torch.rand(n, 5, requires_grad=True)
        with torch.no_grad():
            torch.testing.assert_close(found(x), x[:, :3] * 2)
        slope = torch.autograd.grad(found(x).sum(), x)[0]
        assert slope.tolist() == [[2, 2, 2, 0, 0]] * n
    assert sorted(set(traced)) == [8, 16, 32, 64]
    assert len(traced) == 8  # once forward, once with what the backward pass needs


def test_memory_is_shared_where_it_can_be() -> None:
    x = torch.rand(16, 5)
    assert padded(x) is x
    assert shareable(x) is x
    assert padded(x[:9]).shape == (16, 5)
    assert not padded(x[:9])[9:].any()
    slanted = x.flatten()[1:65].view(8, 8)
    assert shareable(slanted).data_ptr() % 64 == 0
    assert torch.equal(shareable(x.T), x.T)


def test_memory_that_runs_out_is_said_in_torchs_way() -> None:
    def full(x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 byte")

    with pytest.raises(MemoryError, match="1 byte"):
        Foreign(ForeignModel(full, None, "", 0))(torch.rand(1, 2))


# What can be wrong ------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "model", "message"),
    [
        ("jax", "too_few", "shape (3, 7); the data have 10 classes"),
        ("jax", "text", "type str, not a model of JAX"),
        ("jax", "linen_module", "without its variables"),
        ("jax", "damaged", "not finite in params.Conv_1.kernel"),
        ("jax", "of_the_batch", "depend on the rest of its batch"),
        ("jax", "keeps_state", "changes its state"),
        ("jax", "raises", "cannot be built: RuntimeError: no such thing"),
        ("jax", "absent", "has no 'absent'"),
        ("jax", "network", "needs settings: layers, x"),
        ("tensorflow", "text", "type str, not a model of Keras"),
        ("tensorflow", "damaged_keras", "not finite in"),
        ("tensorflow", "counts", "changes its state when it is called (0 calls"),
    ],
)
def test_models_that_are_none(source: str, model: str, message: str, wrong: Any) -> None:
    said = wrong(f'source = "{source}"', f'model = "users:{model}"')
    assert said.startswith("models[0].model: ")
    assert message in said


@pytest.mark.parametrize("model", ["linen", "keras_model"])
def test_another_layout_is_advised(model: str, wrong: Any) -> None:
    source = "jax" if model == "linen" else "tensorflow"
    said = wrong(f'source = "{source}"', f'model = "users:{model}"', 'input_layout = "channels_first"')
    assert "cannot be computed with inputs (1, 8, 8) (channels_first): " in said
    assert ("(3, 3, 8, 12)" if model == "linen" else "axis -1") in said
    assert said.endswith("; check input_layout")


def test_keys_that_do_not_go_together(wrong: Any, tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(b"code")
    assert "models[0].model: missing" in wrong('source = "jax"')
    assert "no file" in wrong('source = "jax"', 'model = "users:linen"', 'weights = "b.msgpack"', exit_code=4)
    said = wrong('source = "jax"', 'model = "users:linen"', 'weights = "a.pkl"')
    assert "a.pkl is not read: files .safetensors, .msgpack, .eqx are read, others by a callable" in said
    said = wrong('source = "jax"', 'model = "users:equinox"', "settings = { fild = true }")
    assert "models[0].settings.fild: unknown setting of users:equinox 'fild'; allowed: filled" in said


@pytest.mark.parametrize(("source", "extra"), [("jax", "jax"), ("tensorflow", "tensorflow")])
def test_a_framework_that_is_not_installed(
    source: str, extra: str, wrong: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == source else real(name, *more)
    )
    said = wrong(f'source = "{source}"', 'model = "users:linen"')
    assert said == f"models[0].source: {source} is not installed: pip install 'metaeval[{extra}]'"


# Identity ------------------------------------------------------------


@pytest.mark.parametrize(("source", "model"), [("jax", "jax_constants"), ("tensorflow", "tf_constants")])
def test_weights_in_a_functions_own_constants_are_part_of_its_identity(
    source: str, model: str, entry: Any
) -> None:
    from metaeval.sources.models.foreign.jax_models import adapt as of_jax
    from metaeval.sources.models.foreign.tensorflow_models import adapt as of_tensorflow

    entry(f'source = "{source}"', f'model = "users:{model}"')  # makes the module importable
    import users

    adapt = of_jax if source == "jax" else of_tensorflow
    made = [
        adapt(getattr(users, model)(factor), weights=None, shape=(8, 8, 1), classes=10)
        for factor in (1.0, 1.0, 1.5)
    ]
    assert made[0].fingerprint == made[1].fingerprint != made[2].fingerprint


def test_an_unknown_kind_of_keras_is_refused(entry: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import keras

    from metaeval.sources.models.foreign.tensorflow_models import adapt

    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(UsageError, match="KERAS_BACKEND=tensorflow"):
        adapt(None, weights=None, shape=(8, 8, 1), classes=10)


# A study ------------------------------------------------------------


def test_a_study_over_the_frameworks(tmp_path: Path) -> None:
    study = load_study(STUDIES / "frameworks.toml")
    summary = run_study(study, output=tmp_path, limit=20, quiet=True, device="cpu")
    assert (summary.computed, summary.failures) == (11, [])
    cube = open_cube(tmp_path)
    linf = cube["linf"].to_dataset()
    counts = linf[["correct", "total"]].sum("class")
    accuracy = counts.correct / counts.total
    for attack in ("worst-case", "apgd-ce", "apgd-dlr", "square"):
        rows = accuracy.sel(attack=attack, model=["torch", "jax", "tensorflow"]).values
        assert np.ptp(rows, axis=0).max() <= 1 / 20, attack
    assert 0.5 < accuracy.sel(attack="worst-case", model="torch", epsilon=0.05) < 0.95
    identities = cube["models"]["identity"].values
    assert len(set(identities)) == len(identities)
    assert {"jax", "flax", "tensorflow", "keras"} <= set(json.loads(cube.attrs["versions"]))
    for model in ("forest", "nearest_means"):
        row = linf.sel(model=model)
        assert row.status.values.tolist() == [1, 3, 3, 1]
        assert row.members.values.tolist() == [False, False, False, True]
        worst, square = (accuracy.sel(model=model, attack=name) for name in ("worst-case", "square"))
        np.testing.assert_array_equal(worst, square)
        assert row.flags.sel(attack="square", flag="log_probabilities") == 1
        assert row.flags.sel(attack="square", flag="probabilities") == 0
        assert "needs gradients" in str(row.reason.sel(attack="apgd-ce").item())
    again = run_study(study, output=tmp_path, limit=20, quiet=True, device="cpu")
    assert (again.computed, again.reused, again.forwards) == (0, 11, 0)
    said = forecast(prepare(study, limit=20), directory=tmp_path, device=torch.device("cpu")).text()
    assert said.count("is skipped: it needs gradients, which this model does not give") == 4
    assert "0 tasks to do, 11 recorded" in said
