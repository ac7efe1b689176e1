"""The order of samples: a permutation, balanced where it says so, and only ever added to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaeval.runner.prepare import prepare
from metaeval.sources.data import open_data, open_training_data, selection_order, take
from metaeval.sources.data.selection import sorted_prefix

LABELS = st.lists(st.integers(0, 5), min_size=1, max_size=60).map(lambda x: np.array(x, dtype=np.int64))
SEEDS = st.integers(0, 2**63 - 1)


@given(LABELS, st.sampled_from(["first", "random", "stratified"]), SEEDS)
def test_every_order_is_a_permutation(labels: np.ndarray, select: str, seed: int) -> None:
    order = selection_order(labels, select, seed)
    assert order.dtype == np.int64
    assert sorted(order) == list(range(len(labels)))
    np.testing.assert_array_equal(order, selection_order(labels, select, seed))


@given(LABELS, SEEDS)
def test_stratified_prefixes_are_balanced_as_far_as_classes_last(labels: np.ndarray, seed: int) -> None:
    order = selection_order(labels, "stratified", seed)
    totals = np.bincount(labels, minlength=6)
    for n in range(len(labels) + 1):
        taken = np.bincount(labels[order[:n]], minlength=6)
        most = taken.max()
        # A class has fewer than the others only by one, or because it has no more.
        assert ((taken >= most - 1) | (taken == totals)).all()


def test_orders_are_the_same_for_ever() -> None:
    """Golden values: another order would silently be another study."""
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 3])
    assert selection_order(labels, "random", 0).tolist() == [3, 2, 1, 8, 6, 0, 7, 4, 5, 9]
    assert selection_order(labels, "stratified", 0).tolist() == [3, 8, 6, 9, 2, 7, 4, 1, 5, 0]


def test_seeds_give_different_orders() -> None:
    labels = np.arange(1000) % 10
    orders = {tuple(selection_order(labels, "random", seed)) for seed in range(20)}
    assert len(orders) == 20


def test_random_order_has_no_trend() -> None:
    first = [selection_order(np.zeros(50, dtype=np.int64), "random", seed)[0] for seed in range(2000)]
    # 2000 draws from 50: each 40 times, standard deviation 6.3.
    counts = np.bincount(first, minlength=50)
    assert counts.min() > 10
    assert counts.max() < 75


@pytest.mark.parametrize("select", ["first", "random", "stratified"])
def test_more_samples_only_add(write_study: Any, select: str) -> None:
    def samples(number: str) -> Any:
        study = write_study(f'source = "digits"\nselect = "{select}"\nsamples = {number}', seed=3)
        return take(study, open_data(study, "test"))

    small, large = samples("40"), samples("'all'")
    assert large.ids[:40] == small.ids
    assert large.hashes[:40] == small.hashes
    np.testing.assert_array_equal(large.x[:40], small.x)


def test_training_samples_are_equally_many_of_each_class(
    write_study: Any, problems: Any, entries: Any
) -> None:
    def training(number: str) -> Any:
        study = write_study(f'source = "digits"\nsamples = 40\nselect = "random"\ntrain_samples = {number}')
        return open_training_data(study)

    everything, large, small = training("'all'"), training("200"), training("55")
    assert len(everything) == 1297
    assert set(np.bincount(small.labels)) == {5, 6}
    assert large.sample_ids[:55] == small.sample_ids
    assert set(large.sample_ids) < set(everything.sample_ids)
    places = [everything.sample_ids.index(name) for name in small.sample_ids]
    np.testing.assert_array_equal(small.labels, everything.labels[places])
    np.testing.assert_array_equal(
        small.read(np.array([54, 3])), everything.read(np.array([places[54], places[3]]))
    )
    study = write_study('source = "digits"\ntrain_samples = 1298')
    wanted = ["data.train_samples: 1298 samples asked for; digits has 1297 in 'train'"]
    assert problems(study, lambda: entries(study)) == wanted
    assert problems(study, lambda: prepare(study))[:1] == wanted


def names(classes: int) -> tuple[str, ...]:
    return tuple(f"class {label}" for label in range(classes))


def test_a_sorted_set_is_refused_unless_all_is_taken() -> None:
    labels = np.repeat(np.arange(10), 100)
    assert "sorted by class" in (sorted_prefix(labels, 999, names(10)) or "")
    assert "only class 0;" in (sorted_prefix(labels, 100, names(10)) or "")
    assert "sorted by class" in (sorted_prefix(labels[::-1], 500, names(10)) or "")
    assert sorted_prefix(labels, 1000, names(10)) is None


def test_blocks_that_repeat_are_noticed_by_what_is_missing() -> None:
    labels = np.tile(np.repeat(np.arange(10), 100), 5)  # corruption benchmarks stack their severities
    assert "none of the class" in (sorted_prefix(labels, 500, names(10)) or "")
    assert sorted_prefix(labels, 1000, names(10)) is None


@given(SEEDS, st.integers(1, 300), st.integers(2, 12))
def test_a_shuffled_set_is_never_refused(seed: int, number: int, classes: int) -> None:
    labels = np.random.default_rng(seed).integers(0, classes, 300)
    assert sorted_prefix(labels, number, names(classes)) is None
