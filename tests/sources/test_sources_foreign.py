"""Architectures of other libraries, files of other frameworks, inputs of other ranges and layouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.io import savemat
from torch import nn

from metaeval.sources.models import load_model
from metaeval.sources.models.architectures import lenet_small, mlp

MATLAB = "metaeval.sources.models.matlab:read_tensorflow"


@pytest.fixture
def data(tmp_path: Path) -> Any:
    """Return a function that writes data of a shape (height, width, channels) and gives their table."""

    def write(*shape: int) -> str:
        x = np.random.default_rng(0).random((20, *shape)).astype(np.float32)
        labels = np.arange(20) % 10
        np.savez(tmp_path / "d.npz", x_test=x, y_test=labels, x_train=x, y_train=labels)
        return 'source = "npz"\npath = "d.npz"\nlayout = "channels_last"'

    return write


def table(weights: str, architecture: str, *more: str) -> str:
    lines = (
        'source = "checkpoint"',
        f'weights = "{weights}"',
        f'architecture = "{architecture}"',
        *more,
    )
    return "\n".join(lines)


def random_arrays(shape: tuple[int, int, int]) -> dict[str, np.ndarray]:
    """Return a network as TensorFlow keeps it: kernels (h, w, in, out), matrices (in, out)."""
    generator = np.random.default_rng(1)
    height, width, channels = shape
    features = (height // 4) * (width // 4) * 32
    sizes = {
        "conv1": (4, 4, channels, 16),
        "conv2": (4, 4, 16, 32),
        "fc1": (features, 100),
        "fc2": (100, 10),
    }
    arrays = {f"weights_{name}": generator.normal(0, 0.2, size) for name, size in sizes.items()}
    arrays |= {f"biases_{name}": generator.normal(0, 0.2, (1, size[-1])) for name, size in sizes.items()}
    return {name: value.astype(np.float32) for name, value in arrays.items()}


def channels_last_logits(arrays: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """Compute the network in float64 with its channels last and loops, as it is defined."""
    x = x.astype(np.float64)
    for name in ("conv1", "conv2"):
        kernel = arrays[f"weights_{name}"].astype(np.float64)
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        rows, columns = x.shape[1] // 2, x.shape[2] // 2
        out = np.zeros((len(x), rows, columns, kernel.shape[3]))
        for i in range(rows):
            for j in range(columns):
                patch = padded[:, 2 * i : 2 * i + 4, 2 * j : 2 * j + 4]
                out[:, i, j] = np.einsum("nhwc,hwco->no", patch, kernel)
        x = np.maximum(out + arrays[f"biases_{name}"], 0)
    hidden = np.maximum(x.reshape(len(x), -1) @ arrays["weights_fc1"] + arrays["biases_fc1"], 0)
    return np.asarray(hidden @ arrays["weights_fc2"] + arrays["biases_fc2"])


@pytest.mark.parametrize("shape", [(8, 8, 3), (8, 16, 1)])
def test_networks_of_matlab_files_compute_what_they_did_in_tensorflow(
    write_study: Any, entries: Any, tmp_path: Path, data: Any, shape: tuple[int, int, int]
) -> None:
    arrays = random_arrays(shape)
    savemat(tmp_path / "net.mat", arrays)
    study = write_study(data(*shape), table("net.mat", "lenet_small", f'loader = "{MATLAB}"'))
    (entry,) = entries(study)
    x = np.random.default_rng(2).random((5, *shape)).astype(np.float32)
    with torch.no_grad():
        logits = load_model(entry).module(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
    np.testing.assert_allclose(logits, channels_last_logits(arrays, x), rtol=1e-4, atol=1e-4)


def test_linear_networks_of_matlab_files(write_study: Any, entries: Any, tmp_path: Path, data: Any) -> None:
    """Images are flattened with channels last there and first here; both ways to name layers are read."""
    generator = np.random.default_rng(3)
    u, w = generator.normal(size=(4 * 4 * 3, 7)), generator.normal(size=(7, 10))
    bu, bw = generator.normal(size=(1, 7)), generator.normal(size=(1, 10))
    savemat(tmp_path / "one.mat", {"U": u, "bU": bu, "W": w, "bW": bw})
    savemat(tmp_path / "two.mat", {"weight_0": u, "bias_0": bu, "weight_1": w, "bias_1": bw})
    settings = "architecture_settings = { depth = 1, width = 7 }"
    tables = [table(f"{name}.mat", "mlp", f'loader = "{MATLAB}"', settings) for name in ("one", "two")]
    x = generator.random((6, 4, 4, 3))
    expected = np.maximum(x.reshape(6, -1) @ u + bu, 0) @ w + bw
    for entry in entries(write_study(data(4, 4, 3), *tables)):
        with torch.no_grad():
            logits = load_model(entry).module(torch.tensor(x.transpose(0, 3, 1, 2), dtype=torch.float32))
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_what_is_wrong_with_a_matlab_file(
    write_study: Any, entries: Any, problems: Any, tmp_path: Path, data: Any
) -> None:
    arrays = random_arrays((8, 8, 3))
    wrong = {
        "short": {k: v for k, v in arrays.items() if "fc2" not in k},
        "wide": {**arrays, "weights_fc2": np.ones((100, 11)), "biases_fc2": np.ones(11)},
        "other": {"theta": np.ones(3)},
        "nan": {**arrays, "biases_fc2": np.full(10, np.nan)},
    }
    messages = {
        "short": "short.mat has 3 layers (weights_conv1, weights_conv2, weights_fc1), the architecture 4",
        "wide": "wide.mat does not fit the architecture: 7.weight is (11, 100), not (10, 100)",
        "other": "other.mat holds theta; layers are named",
        "nan": "nan.mat has numbers that are not finite in 7.bias",
        "text": "text.mat is no MATLAB file",
    }
    for name, content in wrong.items():
        savemat(tmp_path / f"{name}.mat", content)
    (tmp_path / "text.mat").write_text("no")
    for name, message in messages.items():
        study = write_study(data(8, 8, 3), table(f"{name}.mat", "lenet_small", f'loader = "{MATLAB}"'))
        (problem,) = problems(study, lambda study=study: entries(study))
        assert message in problem


def test_loaders_of_users_are_part_of_the_model(
    write_study: Any, entries: Any, problems: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "readers_of_test.py").write_text(
        "import numpy, torch\n"
        "def read(path, module, shape):\n"
        "    assert shape == (1, 8, 8)\n"
        "    numbers = torch.from_numpy(numpy.load(path))\n"
        "    return {key: numbers[:t.numel()].view(t.shape) for key, t in module.state_dict().items()}\n"
        "def broken(path, module, shape):\n    raise KeyError('layer 1')\n"
        "def nothing(path, module, shape):\n    return None\n"
    )
    np.save(tmp_path / "w.npy", np.linspace(-1, 1, 128 * 128, dtype=np.float32))
    reader = 'loader = "readers_of_test:{}"'
    study = write_study('source = "digits"', table("w.npy", "mlp", reader.format("read")))
    module = load_model(entries(study)[0]).module
    assert next(module.parameters()).flatten()[0] == -1
    for name, message in {
        "broken": "readers_of_test:broken cannot read w.npy: KeyError: 'layer 1'",
        "nothing": "gives type NoneType, not a dict of tensors",
        "nobody": "module 'readers_of_test' has no 'nobody'",
    }.items():
        study = write_study('source = "digits"', table("w.npy", "mlp", reader.format(name)))
        (problem,) = problems(study, lambda study=study: entries(study))
        assert message in problem


@pytest.mark.parametrize(
    ("library", "name", "settings"),
    [
        ("timm", "resnet18", {}),
        ("torchvision", "resnet18", {}),
        ("torchvision", "squeezenet1_1", {"dropout": 0.1}),
    ],
)
def test_architectures_of_libraries(
    write_study: Any,
    entries: Any,
    tmp_path: Path,
    data: Any,
    library: str,
    name: str,
    settings: dict[str, Any],
) -> None:
    torch.manual_seed(0)
    if library == "timm":
        twin = pytest.importorskip("timm").create_model(name, num_classes=10, **settings)
    else:
        models = pytest.importorskip("torchvision.models")
        twin = models.get_model(name, weights=None, num_classes=10, **settings)
    torch.save({"state_dict": {f"module.{k}": v for k, v in twin.state_dict().items()}}, tmp_path / "w.pt")
    more = [f"architecture_settings = {{ {key} = {value} }}" for key, value in settings.items()]
    (entry,) = entries(write_study(data(32, 32, 3), table("w.pt", f"{library}:{name}", *more)))
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(load_model(entry).module(x), twin.eval()(x), rtol=0, atol=0)
    assert entry.family == f"{library}:{name}"


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_unknown_architectures_of_libraries(
    write_study: Any, entries: Any, problems: Any, tmp_path: Path, data: Any, library: str
) -> None:
    pytest.importorskip(library)
    save_file(mlp((3, 8, 8), 10).state_dict(), tmp_path / "w.safetensors")
    study = write_study(data(8, 8, 3), table("w.safetensors", f"{library}:resnt18"))
    (problem,) = problems(study, lambda: entries(study))
    assert problem.startswith(
        f"models[0].architecture: {library} has no architecture 'resnt18'; did you mean"
    )


def test_layers_that_do_not_fit_are_named(
    write_study: Any, entries: Any, problems: Any, tmp_path: Path, data: Any
) -> None:
    models = pytest.importorskip("torchvision.models")
    torch.save(models.resnet18(weights=None, num_classes=100).state_dict(), tmp_path / "w.pt")
    study = write_study(data(8, 8, 3), table("w.pt", "torchvision:resnet18"))
    (problem,) = problems(study, lambda: entries(study))
    assert "fc.weight is (100, 512), not (10, 512); fc.bias is (100,), not (10,)" in problem


def test_a_cascade_of_one_stage_is_unpacked(write_study: Any, entries: Any, tmp_path: Path) -> None:
    twin = mlp((1, 8, 8), 10)
    torch.save({"state_dict": [twin.state_dict()], "epoch": 3}, tmp_path / "w.pt")
    (entry,) = entries(write_study('source = "digits"', table("w.pt", "mlp")))
    assert torch.equal(next(load_model(entry).module.parameters()), next(twin.parameters()))


class ChannelsLast(nn.Module):
    """A network as other frameworks have them: inputs (height, width, channels) in [-1, 1] or [0, 255]."""

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.shape = shape
        self.inner = lenet_small((shape[2], *shape[:2]), classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert tuple(x.shape[1:]) == self.shape
        return self.inner(x.permute(0, 3, 1, 2))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("interval", "low", "high"), [("[-1, 1]", -1, 1), ("[0, 255]", 0, 255), ("[1, 0]", 1, 0)]
)
def test_range_and_layout_belong_to_the_model(
    write_study: Any, entries: Any, tmp_path: Path, data: Any, interval: str, low: float, high: float
) -> None:
    torch.manual_seed(0)
    twin = ChannelsLast((8, 12, 3), 10).eval()
    save_file(twin.state_dict(), tmp_path / "w.safetensors")
    architecture = f"{__name__}:ChannelsLast"
    more = [f"input_range = {interval}", 'input_layout = "channels_last"']
    normalize = "normalize = { mean = [0.1, 0.2, 0.3], std = [0.5, 0.6, 0.7] }"
    tables = [
        table("w.safetensors", architecture, *more, 'name = "a"'),
        table("w.safetensors", architecture, *more, normalize, 'name = "b"'),
        table("w.safetensors", architecture, 'input_layout = "channels_last"', 'name = "c"'),
    ]
    plain, shifted, usual = (load_model(entry) for entry in entries(write_study(data(8, 12, 3), *tables)))
    x = torch.rand(3, 8, 12, 3)
    mean, std = torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.5, 0.6, 0.7])
    seen = low + (high - low) * x
    with torch.no_grad():
        given = x.permute(0, 3, 1, 2)
        torch.testing.assert_close(plain.module(given), twin(seen))
        torch.testing.assert_close(shifted.module(given), twin((seen - mean) / std))
    assert len({plain.identity, shifted.identity, usual.identity}) == 3


class InPlace(nn.Module):
    """A network that scales its inputs in place, as many predict functions do."""

    def __init__(self, shape: tuple[int, ...], classes: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x.sub_(0.5).div_(0.25)
        return self.inner(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("layout", ["channels_first", "channels_last"])
def test_a_model_that_writes_into_its_inputs_leaves_the_samples_alone(
    write_study: Any, entries: Any, tmp_path: Path, data: Any, layout: str
) -> None:
    twin = InPlace((3, 8, 8), 10)
    save_file(twin.state_dict(), tmp_path / "w.safetensors")
    more = [f'input_layout = "{layout}"'] if layout == "channels_last" else []
    (entry,) = entries(write_study(data(8, 8, 3), table("w.safetensors", f"{__name__}:InPlace", *more)))
    module, x = load_model(entry).module, torch.rand(3, 3, 8, 8)
    before = x.clone()
    with torch.no_grad():
        first, again = module(x), module(x)
    assert torch.equal(x, before)
    assert torch.equal(first, again)
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(module(x).sum(), x)  # of a leaf, in place would be an error
    expected = (
        twin.inner[1].weight.sum(0).reshape((3, 8, 8) if layout == "channels_first" else (8, 8, 3)) / 0.25
    )
    expected = expected if layout == "channels_first" else expected.permute(2, 0, 1)
    torch.testing.assert_close(gradient[0], expected)
