"""The counting of verdicts, against plain loops and as properties."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from metaeval.cube.counts import (
    accuracy,
    aggregate_norm,
    count_cells,
    only_black_box,
    overall_accuracy,
    worst_case,
)
from metaeval.outcomes import Cell

Cells = npt.NDArray[np.uint8]

shapes = st.tuples(st.integers(1, 4), st.integers(1, 12), st.integers(1, 4))


@st.composite
def cases(draw: st.DrawFn, lowest: int = 0) -> tuple[Cells, npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    shape = draw(shapes)
    cells = draw(hnp.arrays(np.uint8, shape, elements=st.integers(lowest, 6)))
    labels = draw(hnp.arrays(np.int64, shape[1], elements=st.integers(0, 3)))
    members = draw(hnp.arrays(np.bool_, shape[0]))
    return cells, labels, members


@given(cases())
@settings(deadline=None, max_examples=150)
def test_counts_are_those_of_a_plain_loop(
    case: tuple[Cells, npt.NDArray[np.int64], npt.NDArray[np.bool_]],
) -> None:
    cells, labels, _ = case
    counts = count_cells(cells, labels, 4)
    for attack, column in enumerate(cells):
        done = [all(state != 0 for state in sample) for sample in column]
        for class_ in range(4):
            mine = [i for i in range(len(labels)) if labels[i] == class_]
            assert counts.total[class_] == len(mine)
            assert counts.evaluated[class_, attack] == sum(done[i] for i in mine)
            for level in range(cells.shape[2]):
                states = [column[i][level] for i in mine]
                complete = all(done[i] for i in mine)
                right = sum(state in (5, 6) for state in states)
                assert counts.correct[class_, level, attack] == (right if complete else -1)
                assert counts.inferred[class_, level, attack] == (states.count(6) if complete else -1)
                published = counts.robust_accuracy[class_, level, attack]
                if complete and mine:
                    assert published == right / len(mine)
                else:
                    assert np.isnan(published)
        for level in range(cells.shape[2]):
            missed = sum(column[i][level] == 4 for i in range(len(labels)))
            assert counts.overruled[level, attack] == (missed if all(done) else -1)


@given(cases(lowest=1))
@settings(deadline=None, max_examples=150)
def test_worst_case_is_at_most_each_member(
    case: tuple[Cells, npt.NDArray[np.int64], npt.NDArray[np.bool_]],
) -> None:
    cells, labels, members = case
    counts = aggregate_norm(cells, labels, 4, members)
    worst, columns = counts.correct[..., 0], counts.correct[..., 1:][..., members]
    if members.any():
        assert (worst[..., None] <= columns).all()
        assert (counts.evaluated[..., 0] == counts.total).all()
        # At least the samples that all members leave correct minus what they break one by one.
        lost = (counts.total[:, None, None] - columns).sum(axis=-1)
        assert (worst >= counts.total[:, None] - lost).all()
    else:
        filled = counts.total > 0
        assert (worst[filled] == -1).all()
    assert ((counts.inferred <= counts.correct) | (counts.correct < 0)).all()


@given(cases(lowest=1), st.data())
@settings(deadline=None, max_examples=100)
def test_a_column_that_is_not_complete_leaves_no_worst_case(
    case: tuple[Cells, npt.NDArray[np.int64], npt.NDArray[np.bool_]], data: st.DataObject
) -> None:
    cells, labels, _ = case
    failed = np.zeros_like(cells[:1])
    everyone = np.ones(len(cells) + 1, dtype=bool)
    counts = aggregate_norm(np.concatenate([cells, failed]), labels, 4, everyone)
    filled = counts.total > 0
    assert np.isnan(counts.robust_accuracy[..., 0]).all()
    assert (counts.correct[filled][..., 0] == -1).all()
    assert (counts.evaluated[..., 0] == 0).all()
    assert (counts.overruled[:, 0] == -1).all()
    # Without it, one single missing verdict hides exactly the classes and rows that it belongs to.
    attack, sample, level = (data.draw(st.integers(0, size - 1)) for size in cells.shape)
    cells = cells.copy()
    cells[attack, sample, level] = 0
    counts = aggregate_norm(cells, labels, 4, everyone[1:])
    hidden = counts.correct[labels[sample]] == -1
    assert hidden[:, [0, attack + 1]].all()
    others = [row for row in range(len(cells)) if row != attack]
    assert not hidden[:, [row + 1 for row in others]].any()
    assert (np.delete(counts.correct, labels[sample], axis=0) >= 0).all()


@given(cases(), st.data())
@settings(deadline=None, max_examples=100)
def test_order_does_not_matter(
    case: tuple[Cells, npt.NDArray[np.int64], npt.NDArray[np.bool_]], data: st.DataObject
) -> None:
    cells, labels, members = case
    attacks = np.array(data.draw(st.permutations(range(cells.shape[0]))))
    samples = np.array(data.draw(st.permutations(range(cells.shape[1]))))
    levels = np.array(data.draw(st.permutations(range(cells.shape[2]))))
    before = aggregate_norm(cells, labels, 4, members)
    shuffled = cells[attacks][:, samples][:, :, levels]
    after = aggregate_norm(shuffled, labels[samples], 4, members[attacks])
    rows = np.concatenate([[0], attacks + 1])
    for name in ("robust_accuracy", "correct", "inferred"):
        expected = getattr(before, name)[:, levels][:, :, rows]
        np.testing.assert_array_equal(getattr(after, name), expected)
    np.testing.assert_array_equal(after.evaluated, before.evaluated[:, rows])
    np.testing.assert_array_equal(after.overruled, before.overruled[levels][:, rows])


@given(cases())
@settings(deadline=None, max_examples=100)
def test_worst_case_of_one_member_is_that_member(
    case: tuple[Cells, npt.NDArray[np.int64], npt.NDArray[np.bool_]],
) -> None:
    cells, _, _ = case
    for attack in range(len(cells)):
        alone = np.arange(len(cells)) == attack
        np.testing.assert_array_equal(worst_case(cells, alone), cells[attack])


def test_worst_case_of_every_pair_of_states() -> None:
    pending, robust, inferred = Cell.PENDING, Cell.ROBUST, Cell.ROBUST_INFERRED
    everyone = np.array([True, True])
    for a in Cell:
        for b in Cell:
            worst = worst_case(np.array([[[a]], [[b]]], dtype=np.uint8), everyone)[0, 0]
            if pending in (a, b):
                assert worst == pending
            elif {a, b} <= {robust, inferred}:
                assert worst == (inferred if inferred in (a, b) else robust)
            else:
                assert worst in (a, b)
                assert worst not in (robust, inferred)
                if worst == Cell.BROKEN_OVERRULED:
                    assert {a, b} <= {Cell.BROKEN_OVERRULED, robust, inferred}


def test_overall_accuracy_is_no_mean_of_class_accuracies() -> None:
    correct, total = np.array([9, 1]), np.array([90, 1])
    assert overall_accuracy(correct, total) == 10 / 91
    assert overall_accuracy(correct, total) != accuracy(correct, total).mean()
    assert np.isnan(overall_accuracy([9, -1], total))
    assert np.isnan(overall_accuracy([0, 0], [0, 0]))
    assert overall_accuracy([0, 5], [0, 10]) == 0.5  # a class without samples has no say
    np.testing.assert_array_equal(
        overall_accuracy(np.array([[1, 2, -1], [3, 4, 5]]), [[2], [6]]), [4 / 8, 6 / 8, np.nan]
    )


@pytest.mark.parametrize("classes", [1, 5])
def test_no_samples_and_no_attacks(classes: int) -> None:
    empty = aggregate_norm(np.zeros((0, 3, 2), np.uint8), np.zeros(3, np.int64), classes, np.zeros(0, bool))
    assert empty.correct.shape == (classes, 2, 1)
    assert empty.correct[0, 0, 0] == -1
    nothing = count_cells(np.zeros((2, 0, 2), np.uint8), np.zeros(0, np.int64), classes)
    assert np.isnan(nothing.robust_accuracy).all()


@given(cases())
@settings(deadline=None, max_examples=150)
def test_what_only_a_black_box_broke_counted_one_by_one(
    case: tuple[Cells, npt.NDArray[np.int64], npt.NDArray[np.bool_]],
) -> None:
    cells, _, black_box = case
    share = only_black_box(cells, black_box)
    robust = (Cell.ROBUST, Cell.ROBUST_INFERRED)
    for attack in range(len(cells)):
        others = [k for k in range(len(cells)) if not black_box[k]]
        pending = any((cells[k] == Cell.PENDING).any() for k in [*others, attack])
        if not black_box[attack] or not others or pending or cells.shape[1] == 0:
            assert np.isnan(share[attack])
            continue
        alone = sum(
            any(
                cells[attack, i, k] not in robust and all(cells[other, i, k] in robust for other in others)
                for k in range(cells.shape[2])
            )
            for i in range(cells.shape[1])
        )
        assert share[attack] == alone / cells.shape[1]
