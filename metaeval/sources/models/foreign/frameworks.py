"""The frameworks that models may come from: one row each."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Framework:
    """Where the models of a source come from.

    Attributes
    ----------
    package : str
        What has to be importable; empty for none.
    extra : str
        The extra of metaeval that brings it.
    adapt : str
        ``"module:callable"`` from what the user's callable returns to a `ForeignModel`.
    gradients : bool
        Whether attacks can ask its models for gradients.
    endings : tuple of str
        Of the files of weights that are read for the user.
    first : str
        A package to import before it, if it is installed.
    environment : mapping
        Variables to set, where unset, before the package is imported; ``{threads}`` stands for torch's.
    """

    package: str
    extra: str
    adapt: str
    gradients: bool = True
    endings: tuple[str, ...] = ()
    first: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def missing(self) -> str | None:
        """What to say if it is not installed."""
        if not self.package or importlib.util.find_spec(self.package) is not None:
            return None
        return f"{self.package} is not installed: pip install 'metaeval[{self.extra}]'"

    def prepare(self) -> None:
        """Set the environment of a framework; nothing of it may have been imported before."""
        import torch

        if self.first and importlib.util.find_spec(self.first) is not None:
            importlib.import_module(self.first)

        for name, value in self.environment.items():
            os.environ.setdefault(name, value.format(threads=torch.get_num_threads()))


FRAMEWORKS = {
    "jax": Framework(
        package="jax",
        extra="jax",
        adapt="metaeval.sources.models.foreign.jax_models:adapt",
        endings=(".safetensors", ".msgpack", ".eqx"),
        environment={
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # it would take most of the GPU, which torch needs too
            "NPROC": "{threads}",  # the one way to say how many threads XLA's pool has on the CPU
        },
    ),
    "tensorflow": Framework(
        package="tensorflow",
        extra="tensorflow",
        adapt="metaeval.sources.models.foreign.tensorflow_models:adapt",
        endings=(".keras", ".weights.h5"),
        # Both bring LLVM. Where TensorFlow's is there first, torch ends the process when it imports Triton,
        # as it does for tensors on the device "meta".
        first="triton",
        environment={
            "TF_FORCE_GPU_ALLOW_GROWTH": "true",
            "TF_NUM_INTRAOP_THREADS": "{threads}",
            "TF_NUM_INTEROP_THREADS": "1",
            "TF_CPP_MIN_LOG_LEVEL": "2",
            "TF_ENABLE_ONEDNN_OPTS": "0",  # its sums depend on how many there are in a batch, and it says so
            "KERAS_BACKEND": "tensorflow",
        },
    ),
    "sklearn": Framework(
        package="sklearn",
        extra="run",
        adapt="metaeval.sources.models.foreign.black_boxes:adapt_estimator",
        gradients=False,
    ),
    "callable": Framework(
        package="",
        extra="run",
        adapt="metaeval.sources.models.foreign.black_boxes:adapt_function",
        gradients=False,
    ),
}
