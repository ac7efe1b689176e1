"""Real data and published networks: a wrong order, scale or layout shows here first."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metaeval.errors import StudyError
from metaeval.sources.data import open_data, take
from metaeval.sources.models import load_model

CIFAR = 'source = "images"\npath = "{}/cifar10-images.tar.xz"\nname = "cifar10-jpeg"\n'
NORMALIZE = "normalize = { mean = [0.485, 0.456, 0.406], std = [0.225, 0.225, 0.225] }\n"


def checkpoint(folder: Path, name: str, more: str = "") -> str:
    return (
        f'source = "checkpoint"\nweights = "{folder}/models/{name}.safetensors"\n'
        f'architecture = "lenet_small"\n{more}'
    )


def accuracy(entry: Any, samples: Any) -> float:
    with torch.no_grad():
        prediction = load_model(entry).module(torch.from_numpy(samples.x)).argmax(1).numpy()
    return float((prediction == samples.y).mean())


def test_published_mnist_networks_make_their_published_errors(
    write_study: Any, entries: Any, shared_data: Path
) -> None:
    models = [checkpoint(shared_data, name) for name in ("kw_mnist", "mmr_univ_mnist")]
    study = write_study(f'source = "npz"\npath = "{shared_data}/mnist.npz"', *models)
    samples = take(study, open_data(study, "test"))
    assert samples.y[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert samples.x.shape == (10000, 1, 28, 28)
    errors = [round(100 * (1 - accuracy(entry, samples)), 2) for entry in entries(study)]
    assert errors == [1.80, 3.04]


def test_the_published_cifar_network_needs_its_normalization(
    write_study: Any, entries: Any, shared_data: Path
) -> None:
    models = [
        checkpoint(shared_data, "kw_cifar10_l2", NORMALIZE),
        checkpoint(shared_data, "kw_cifar10_l2", 'name = "raw"'),
    ]
    study = write_study(CIFAR.format(shared_data), *models)
    data = open_data(study, "test")
    assert (len(data), data.shape, data.class_names[:4]) == (
        10000,
        (3, 32, 32),
        ("airplane", "automobile", "bird", "cat"),
    )
    samples = take(study, data)
    right, raw = (accuracy(entry, samples) for entry in entries(study))
    assert right == pytest.approx(0.541, abs=0.0015)  # decoders of JPEG differ in the last bit
    assert raw == pytest.approx(0.11, abs=0.01)


def test_the_first_images_are_all_airplanes_and_refused(write_study: Any, shared_data: Path) -> None:
    study = write_study(CIFAR.format(shared_data) + "samples = 500\n")
    with pytest.raises(StudyError, match="the first 500 of 10000 are only airplane") as raised:
        take(study, open_data(study, "test"))
    assert raised.value.problems[0].key == "data.select"
    study = write_study(CIFAR.format(shared_data) + 'samples = 500\nselect = "stratified"\n')
    assert np.bincount(take(study, open_data(study, "test")).y).tolist() == [50] * 10


def test_mnist_is_not_sorted(write_study: Any, shared_data: Path) -> None:
    path = f'source = "npz"\npath = "{shared_data}/mnist.npz"\nsamples = '
    for number in (10, 100, 1000):
        study = write_study(f"{path}{number}")
        assert len(take(study, open_data(study, "test")).y) == number


def test_real_images_are_the_same_in_folder_zip_and_tar(
    write_study: Any, shared_data: Path, tmp_path: Path
) -> None:
    """Three images of each class, unpacked and packed again."""
    root, found = tmp_path / "folder", []
    with tarfile.open(shared_data / "cifar10-images.tar.xz") as archive:
        for member in archive:
            if member.name.startswith("train/"):
                break
            if member.name.endswith(("0000.jpg", "0001.jpg", "0002.jpg")):
                content = archive.extractfile(member)
                assert content is not None
                (root / member.name).parent.mkdir(parents=True, exist_ok=True)
                (root / member.name).write_bytes(content.read())
                found.append(member.name)
    assert len(found) == 30
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as zipped:
        for name in reversed(found):
            zipped.write(root / name, name)
    with tarfile.open(tmp_path / "images.tar.gz", "w:gz") as tar:
        for name in found:
            information = tarfile.TarInfo(name)
            information.size = (root / name).stat().st_size
            tar.addfile(information, io.BytesIO((root / name).read_bytes()))
    hashes = set()
    for path in ("folder", "images.zip", "images.tar.gz"):
        study = write_study(f'source = "images"\npath = "{path}"')
        samples = take(study, open_data(study, "test"))
        hashes.add((samples.hashes, samples.ids, tuple(samples.y)))
    assert len(hashes) == 1
    assert next(iter(hashes))[1] == tuple(sorted(found))
