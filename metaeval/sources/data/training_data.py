"""What a study's models are trained on."""

from __future__ import annotations

from dataclasses import replace

from metaeval.errors import StudyError
from metaeval.sources.data.dataset import Dataset, Indices, Inputs
from metaeval.sources.data.opening import open_data
from metaeval.sources.data.selection import selection_order
from metaeval.study import Study


def open_training_data(study: Study) -> Dataset:
    """Open what a study's models are trained on: the training split, or equally many samples of each class.

    Raises
    ------
    StudyError
        As `open_data`, and if there are fewer samples than asked for.
    """
    dataset, number = open_data(study, study.data.train_split), study.data.train_samples
    if not isinstance(number, int):
        return dataset
    if number > len(dataset):
        message = f"{number} samples asked for; {study.data.name} has {len(dataset)} in {dataset.split!r}"
        raise StudyError([study.problem(("data", "train_samples"), message, "all")])
    order = selection_order(dataset.labels, "stratified", study.study.seed)[:number]

    def read(indices: Indices) -> Inputs:
        return dataset.read(order[indices])

    return replace(
        dataset,
        labels=dataset.labels[order],
        sample_ids=tuple(dataset.sample_ids[i] for i in order),
        read=read,
    )
