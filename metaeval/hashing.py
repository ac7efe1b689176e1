"""Content hashes: of arrays, and of anything that JSON can say."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import numpy.typing as npt


def hash_json(value: Any) -> str:
    """Return the sha256 (hex) of a value's canonical JSON; floats keep every digit."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def hash_array(array: npt.NDArray[Any]) -> str:
    """Return the sha256 (hex) of an array's dtype, shape and bytes."""
    contiguous = np.ascontiguousarray(array)
    digest = hashlib.sha256(f"{contiguous.dtype.str}{contiguous.shape}".encode())
    digest.update(contiguous.data if contiguous.size else b"")
    return digest.hexdigest()


def hash_samples(x: npt.NDArray[np.float32]) -> list[str]:
    """Return one content hash per sample (first axis) of float32 inputs, 32 hex digits each."""
    return [hash_array(np.asarray(sample, dtype="<f4"))[:32] for sample in x]
