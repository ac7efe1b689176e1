"""The handwritten digits that come with scikit-learn: real data that need no download."""

from __future__ import annotations

import numpy as np

from metaeval.sources.data.dataset import Dataset, Indices, Inputs
from metaeval.sources.data.opening import refuse_split
from metaeval.study import Study

# The file is ordered by writer, so the last 500 digits come from other people than the first 1297.
SPLITS = {"train": slice(0, 1297), "test": slice(1297, 1797)}
MAXIMUM = 16  # pixels count the ink in 4 x 4 blocks


def open_digits(study: Study, split: str) -> Dataset:
    """Open scikit-learn's 1,797 grey 8 x 8 digits (Alpaydin and Kaynak 1998): shape (1, 8, 8).

    Raises
    ------
    StudyError
        If the split is neither ``train`` (the first 1297) nor ``test`` (the last 500).
    """
    from sklearn.datasets import load_digits

    if split not in SPLITS:
        raise refuse_split(study, split, list(SPLITS))
    rows = SPLITS[split]
    digits = load_digits()
    images = (digits.images[rows, None] / MAXIMUM).astype(np.float32)

    def read(indices: Indices) -> Inputs:
        return np.asarray(images[indices])

    return Dataset(
        name=study.data.name,
        split=split,
        labels=digits.target[rows].astype(np.int64),
        sample_ids=tuple(f"digits/{i}" for i in range(rows.start, rows.stop)),
        class_names=tuple(str(digit) for digit in range(10)),
        shape=images.shape[1:],
        read=read,
    )
