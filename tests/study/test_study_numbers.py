"""Numbers and ranges of epsilons against exact arithmetic."""

from __future__ import annotations

import itertools
import re
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metaeval.study.numbers import (
    MAXIMUM_LEVELS,
    Epsilon,
    describe,
    parse_epsilon,
    parse_fraction,
    parse_number,
    parse_range,
    repeated_epsilons,
)

naturals = st.integers(0, 10**6)
denominators = st.integers(1, 10**6)


@given(naturals, denominators)
def test_fraction_is_exact_and_its_float_the_nearest(numerator: int, denominator: int) -> None:
    text = f"{numerator}/{denominator}"
    assert parse_fraction(text) == Fraction(numerator, denominator)
    assert parse_number(text) == numerator / denominator  # IEEE division rounds correctly, so does Fraction


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_and_its_text_are_the_same_number(number: float) -> None:
    assert parse_number(number) == parse_number(repr(number)) == number


def test_8_over_255_is_not_0_031() -> None:
    assert parse_epsilon("8/255") == Epsilon(8 / 255, "8/255")
    assert parse_epsilon("8 / 255").label == "8/255"
    assert parse_epsilon("0.031").value != parse_epsilon("8/255").value
    assert parse_epsilon(0.03) == Epsilon(0.03, "0.03")
    assert parse_epsilon(0) == Epsilon(0.0, "0")
    assert parse_epsilon("0.5/255").value == 1 / 510


def test_zero_has_no_sign() -> None:
    assert parse_number(-0.0).hex() == parse_number("-0").hex() == (0.0).hex()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("8//255", "expected a number or a fraction such as '8/255', got '8//255'"),
        ("8/255/2", "expected a number or a fraction such as '8/255', got '8/255/2'"),
        ("", "expected a number or a fraction such as '8/255', got ''"),
        ("nan", "expected a number or a fraction such as '8/255', got 'nan'"),
        ("1_0", "expected a number or a fraction such as '8/255', got '1_0'"),
        ("٣", "expected a number or a fraction such as '8/255', got '٣'"),
        ("1e999999999", "expected a number or a fraction such as '8/255', got '1e999999999'"),
        ("1e999", "'1e999' is too large"),
        (10**400, "is too large"),
        ("8/0", "'8/0' divides by zero"),
        (True, "expected a number or a fraction such as '8/255', got true"),
        ([1], "expected a number or a fraction such as '8/255', got a list"),
        (float("nan"), "expected a finite number, got nan"),
        (float("inf"), "expected a finite number, got inf"),
    ],
)
def test_what_is_no_number_is_said(value: object, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_number(value)


def test_negative_epsilons_are_refused() -> None:
    with pytest.raises(ValueError, match=r"an epsilon is at least 0, got '-1/255'"):
        parse_epsilon("-1/255")


def test_range_labels_keep_the_written_denominator() -> None:
    assert [epsilon.label for epsilon in parse_range("0:8/255:9")] == [
        "0", "1/255", "2/255", "3/255", "4/255", "5/255", "6/255", "7/255", "8/255",
    ]  # fmt: skip
    assert [epsilon.value for epsilon in parse_range("0:8/255:9")] == [k / 255 for k in range(9)]
    assert [epsilon.label for epsilon in parse_range("0:2/255:5")][1] == "0.5/255"
    assert [epsilon.label for epsilon in parse_range("0 : 0.3 : 4")] == ["0", "0.1", "0.2", "0.3"]
    assert [epsilon.label for epsilon in parse_range("0:1:4")] == ["0", "1/3", "2/3", "1"]


numbers = st.one_of(
    st.tuples(naturals, denominators).map(lambda pair: f"{pair[0]}/{pair[1]}"),
    st.decimals(0, 100, places=4).map(str),
    naturals.map(str),
)


@given(numbers, numbers, st.integers(2, 50))
def test_range_is_evenly_spaced_with_exact_ends(first: str, second: str, count: int) -> None:
    start, stop = sorted((first, second), key=Fraction)
    if Fraction(start) == Fraction(stop):
        with pytest.raises(ValueError, match="must end above its start"):
            parse_range(f"{start}:{stop}:{count}")
        return
    epsilons = parse_range(f"{start}:{stop}:{count}")
    values = [epsilon.value for epsilon in epsilons]
    assert len(values) == count
    assert (epsilons[0].label, epsilons[-1].label) == (start, stop)
    assert (values[0], values[-1]) == (float(Fraction(start)), float(Fraction(stop)))
    assert all(low < high for low, high in itertools.pairwise(values))
    np.testing.assert_allclose(values, np.linspace(values[0], values[-1], count), rtol=1e-12, atol=1e-15)
    # A label is exact: read again, it is the same epsilon.
    assert all(parse_epsilon(epsilon.label) == epsilon for epsilon in epsilons)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("8/255", "expected a list of numbers or a range"),
        ("0:1:2:3", "expected a list of numbers or a range"),
        ("1:0:3", "must end above its start"),
        ("0:1:1", f"must be a whole number of 2 to {MAXIMUM_LEVELS}, got '1'"),
        ("0:1:2.5", "got '2.5'"),
        ("0:1:1000000000000", "got '1000000000000'"),
        ("0:x:3", "such as '8/255', got 'x'"),
        ("-1:1:3", "an epsilon is at least 0"),
    ],
)
def test_what_is_no_range_is_said(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_range(text)


def repeated(*values: object, norm: str | None = "linf") -> list[tuple[int, str]]:
    return repeated_epsilons([None if value is None else parse_epsilon(value) for value in values], norm)


def test_repeated_epsilons_are_named_both() -> None:
    assert repeated(0, "1/255", "2/255") == []
    assert repeated("1/255", None, "2/510") == [
        (2, "'1/255' and '2/510' are the same epsilon (0.00392156862745098)")
    ]
    assert repeated("0.1", "0.1") == [(1, "'0.1' is listed twice")]
    assert repeated("8/255", "0.031") == []


def test_epsilons_within_rounding_of_each_other_are_found() -> None:
    # 0.03137255 is 8/255 rounded to eight digits: a float32 adversarial at one is one at the other.
    [(index, message)] = repeated("8/255", 0.03137255)
    assert index == 1
    assert "nearer to each other than float32 images can tell apart" in message
    assert repeated("8/255", 0.03137255, norm=None) == []
    assert repeated(0, 1e-6, norm="l2") == []


def test_values_are_described_in_the_words_of_the_file() -> None:
    described = [describe(value) for value in (True, "x" * 100, 1.5, {}, [], parse_epsilon)]
    assert described == ["true", repr("x" * 57 + "..."), "1.5", "a table", "a list", "a function"]
