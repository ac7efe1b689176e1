"""From an entry to a model that is ready: loaded from its file, trained, or taken from the cache."""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save_file

from metaeval import registry
from metaeval.errors import StudyError, UsageError
from metaeval.hashing import hash_array, hash_json
from metaeval.sources.data.dataset import Dataset
from metaeval.sources.models.entry import LoadedModel, ModelEntry, Scalar, TrainingError
from metaeval.sources.models.files import set_aside, sha256_of, sha256_of_all, whole_folder
from metaeval.sources.models.resuming import remove_checkpoint
from metaeval.sources.models.training import TRAINING_VERSION, Trained, train

WEIGHTS, INITIAL, LOG = "weights.safetensors", "initial.safetensors", "log.json"


def load_model(entry: ModelEntry) -> LoadedModel:
    """Load a model that needs no training.

    Raises
    ------
    StudyError
        If its file is damaged, does not fit, or has changed since the study was read.
    """
    if entry.loader is None:
        raise TrainingError(f"{entry.name} has to be trained")
    try:
        if entry.is_missing:
            raise UsageError(f"the weights of {entry.name} have not been fetched")
        if entry.files and sha256_of_all(entry.files) != entry.weights_sha256:
            raise UsageError(f"{' or '.join(file.name for file in entry.files)} changed while the study ran")
        module = registry.resolve(entry.loader)(entry)
    except FileNotFoundError as error:
        raise StudyError([entry.problem(f"there is no file {error.filename}")], missing=True) from None
    except StudyError:
        raise
    except UsageError as error:
        raise StudyError([entry.problem(str(error))]) from None
    return _ready(entry, module, entry.weights_sha256 or _hash_weights(module))


def train_model(
    entry: ModelEntry,
    dataset: Dataset,
    cache_dir: Path,
    device: torch.device | str = "cpu",
    progress: Callable[[float], None] | None = None,
) -> LoadedModel:
    """Train a model, or take it from the cache if it was trained before.

    The cache holds, in ``models/<identity>/``, the weights, the initial weights and the log of the training,
    also of one that failed; a training that is interrupted goes on from ``training/<identity>.pt``.

    Parameters
    ----------
    dataset : Dataset
        What to train on, all of it.
    cache_dir : Path
        The folder of the cache.
    progress : callable, optional
        Called with the fraction that is done; not called when the model is in the cache.

    Raises
    ------
    TrainingError
        If the training diverges, or its model does no better than chance on the training data.
    """
    identity = training_identity(entry, dataset)
    folder = Path(cache_dir) / "models" / identity
    checkpoint = Path(cache_dir) / "training" / f"{identity}.pt"
    log = _read_log(folder)
    if log is None:
        set_aside(folder)
        trained_on = torch.device(device)
        inputs = training_data(dataset)
        result = train(entry, *inputs, device=trained_on, checkpoint=checkpoint, progress=progress)
        with whole_folder(folder) as work:
            save_file(result.initial, work / INITIAL)
            save_file(result.final, work / WEIGHTS)
            written = _log(entry, dataset, result, identity, trained_on)
            written |= {
                "weights_sha256": sha256_of(work / WEIGHTS),
                "initial_sha256": sha256_of(work / INITIAL),
            }
            (work / LOG).write_text(json.dumps(written, indent=1))
        remove_checkpoint(checkpoint)
        log = _read_log(folder)
        if log is None:
            raise TrainingError(f"the trained model could not be kept in {folder}")
    if log["failure"]:
        raise TrainingError(log["failure"])
    with torch.random.fork_rng(devices=[]):
        module = entry.build_bare()
    module.load_state_dict(load_file(folder / WEIGHTS))
    return _ready(entry, module, log["weights_sha256"], log["training"], folder / INITIAL)


def training_identity(entry: ModelEntry, dataset: Dataset) -> str:
    """Return the hash of all that decides what a training gives: model, settings, data, and this code."""
    return entry.identity_with(f"{_hash_data(dataset)} {TRAINING_VERSION}")


def training_failure(entry: ModelEntry, dataset: Dataset, cache_dir: Path) -> str | None:
    """Return why an earlier training of a model failed; None if none did."""
    log = _read_log(Path(cache_dir) / "models" / training_identity(entry, dataset))
    return str(log["failure"]) if log and log["failure"] else None


@lru_cache(maxsize=1)  # a family of models is trained on one data set
def training_data(dataset: Dataset) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Read all inputs and labels of a data set."""
    return dataset.read(np.arange(len(dataset))), dataset.labels


@lru_cache(maxsize=8)
def _hash_data(dataset: Dataset) -> str:
    x, y = training_data(dataset)
    return hash_json([hash_array(x), hash_array(y), len(dataset.class_names)])


def _log(
    entry: ModelEntry, dataset: Dataset, result: Trained, identity: str, device: torch.device
) -> dict[str, Any]:
    """Return what is written down of a training."""
    training = {
        "seconds": result.seconds,
        "epochs": len(result.epochs),
        "loss": _finite(result.loss),
        "accuracy": result.accuracy,
    }
    if result.reached_target is not None:
        training["reached_target"] = result.reached_target
    return {
        "identity": identity,
        "name": entry.name,
        "architecture": entry.architecture,
        "settings": dict(entry.settings),
        "data": {"name": dataset.name, "split": dataset.split, "samples": len(dataset)},
        "device": str(device),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "failure": result.failure,
        "training": training,
        "epochs": [{key: _finite(value) for key, value in epoch.items()} for epoch in result.epochs],
    }


def _finite(value: float) -> float | None:
    """Return a number as JSON can say it."""
    return value if math.isfinite(value) else None


def _read_log(folder: Path) -> dict[str, Any] | None:
    """Return the log of a cached training, or None if it is not there in full."""
    try:
        log: dict[str, Any] = json.loads((folder / LOG).read_text(encoding="utf-8"))
        whole = sha256_of(folder / WEIGHTS) == log["weights_sha256"]
        whole &= sha256_of(folder / INITIAL) == log["initial_sha256"] and "failure" in log
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return log if whole else None


def _ready(
    entry: ModelEntry,
    module: torch.nn.Module,
    sha256: str,
    training: dict[str, Scalar] | None = None,
    initial: Path | None = None,
) -> LoadedModel:
    identity = {
        "weights": sha256,
        "architecture": entry.architecture_identity,
        **entry.input_identity,
    }
    return LoadedModel(
        module=entry.adapted(module).eval().requires_grad_(False),
        identity=hash_json(identity),
        weights_sha256=sha256,
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        training=training,
        initial=initial,
    )


def _hash_weights(module: torch.nn.Module) -> str:
    state = module.state_dict()
    return hash_json({key: hash_array(state[key].cpu().numpy()) for key in state})
