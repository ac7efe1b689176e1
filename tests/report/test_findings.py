"""The page's sentences on cubes whose truth is known."""

from __future__ import annotations

import html
import re
from typing import Any

import numpy as np
import pytest
from handmade_cube import handmade_cube
from scipy import stats

from metaeval.analysis import paired
from metaeval.report import findings, sections, words
from metaeval.report.figures import make_figures

ONE = {"linf": [(0.0, "0"), (2 / 255, "2/255")]}


def plain(sentence: str) -> str:
    return html.unescape(re.sub(r"<[^>]+>", "", sentence)).replace("\u00a0", " ")


def sentences(**options: Any) -> list[str]:
    return [plain(sentence) for sentence in findings.findings(handmade_cube(**options))]


def robust(*counts: int, samples: int = 200, overlap: bool = True) -> dict[str, np.ndarray]:
    """Return distances of models that withstand on the first so many samples (or spread ones)."""
    distance = np.full((len(counts), 1, samples), 0.001)
    for i, count in enumerate(counts):
        where = np.arange(count) if overlap else (np.arange(count) * 7 + 31 * i) % samples
        distance[i, 0, where] = np.inf
    return {"linf": distance}


def table(*counts: int, **options: Any) -> dict[str, Any]:
    names = ["alpha", "beta", "gamma", "delta"][: len(counts)]
    samples = options.pop("samples", 200)
    distances = robust(*counts, samples=samples, overlap=options.pop("overlap", True))
    if options.pop("misclassified", False):
        distances["linf"][np.isfinite(distances["linf"])] = 0
    return {
        "models": names,
        "attacks": ["apgd-ce"],
        "samples": samples,
        "norms": ONE,
        "distances": distances,
        **options,
    }


def test_certain_lead() -> None:
    first = sentences(**table(150, 100, 50))[0]
    assert first.startswith(
        "At ℓ∞ ε = 2/255 alpha has the highest worst-case accuracy: 75.0 % (95 % interval "
    )
    assert "68.6 to 80.5 %; 200 test samples); beta follows with 50.0 %" in first
    assert (
        "Its lead of 25.0 points is certain (exact McNemar, adjusted for 3 pairs, p < .001; paired" in first
    )
    assert first.endswith("and so is its lead over every other model.")


def test_paired_interval_of_the_lead() -> None:
    first = sentences(**table(150, 100))[0]
    z = np.arange(200) < 150, np.arange(200) < 100
    se = np.std(z[0].astype(int) - z[1]) / np.sqrt(200)
    low, high = (100 * (0.25 + sign * 1.96 * se) for sign in (-1, 1))
    assert f"paired 95 % interval {low:.1f} to {high:.1f}" in first


def test_order_of_models_does_not_matter() -> None:
    assert "gamma has the highest" in sentences(**table(50, 100, 150))[0]


def test_cannot_be_told_apart() -> None:
    first = sentences(**table(104, 100, 20, overlap=False))[0]
    assert "alpha has the highest" in first
    assert "cannot be told apart on 200 samples (difference 2.0 points" in first
    assert "would usually go unnoticed" in first
    assert "certainly ahead of gamma" in first
    assert "lead of" not in first


def test_small_differences_need_the_paired_test() -> None:
    # Ten more samples right and none wrong: intervals overlap widely, but p = 2 / 2^10.
    first = sentences(**table(110, 100))[0]
    assert f"p = {stats.binomtest(0, 10).pvalue:.3f}".replace("0.", ".") in first
    assert "Its lead of 5.0 points is certain" in first


def test_ties() -> None:
    first = sentences(**table(100, 100, 20))[0]
    assert "alpha and beta share the highest worst-case accuracy: 50.0 %" in first
    assert "They are equal on these samples; here a difference below about" in first


def test_all_broken_and_all_robust() -> None:
    assert "no model withstands: the worst-case accuracy of both models is 0 %" in sentences(**table(0, 0))[0]
    first = sentences(**table(200, 200, 200))[0]
    assert "no attack broke any sample of any model" in first
    assert "all 3 models is 100 %" in first


def test_one_model() -> None:
    first = sentences(**table(120))[0]
    assert first.startswith("At ℓ∞ ε = 2/255 alpha has a worst-case accuracy of 60.0 % (95 % interval")
    assert "highest" not in first


def test_failed_models_are_named_with_their_reason_and_never_lead() -> None:
    text = sentences(**table(200, 100, 50, failed={("linf", "alpha", "apgd-ce"): "out of <memory>"}))
    assert "beta has the highest" in text[0]
    assert "not ranked: alpha (apgd-ce failed)" in text[0]
    missing = next(sentence for sentence in text if "missing" in sentence)
    assert missing.startswith("1 of 3 planned results are missing (1 failed; for example alpha, ℓ∞ apgd-ce")
    assert "out of <memory>" in missing


def test_nothing_finished() -> None:
    pending = [("linf", name, "apgd-ce") for name in ("alpha", "beta")]
    text = sentences(**table(1, 2, pending=pending))
    assert text[0].startswith("At ℓ∞ ε = 2/255 no model has a worst-case accuracy yet.")
    assert "2 pending" in " ".join(text)


def test_no_attacks() -> None:
    text = sentences(norms={}, attacks=[])
    assert text[0].startswith("Without an attack accuracies span")
    assert "No attack has been run" in text[1]


def test_names_cannot_inject_html() -> None:
    cube = handmade_cube(models=["<script>alert(1)</script>", 'b"><img src=x>'], classes=["<i>", "b"])
    everything = "".join(findings.findings(cube)) + sections.trust_section(cube) + findings.how_sure(cube)
    everything += sections.provenance_section(cube)
    assert "<script" not in everything
    assert "<img" not in everything
    assert "<i>" not in everything


def test_strongest_attack_and_what_others_add() -> None:
    distance = np.full((1, 2, 100), np.inf)
    distance[0, 0, :60] = 0.001
    distance[0, 1, 55:65] = 0.001
    text = sentences(
        models=["m"], attacks=["apgd-ce", "square"], samples=100, norms=ONE, distances={"linf": distance}
    )
    sentence = next(line for line in text if "strongest" in line)
    assert "apgd-ce: it leaves 40.0 %, all attacks together 35.0 %" in sentence
    assert "square 5" in sentence


def test_attacks_of_equal_strength_share_the_title() -> None:
    distance = np.full((2, 3, 100), np.inf)
    distance[:, 0, :60] = distance[:, 1, 10:70] = 0.001
    distance[:, 2, :5] = 0.001
    text = sentences(
        models=["m", "n"], attacks=["x", "y", "z"], samples=100, norms=ONE, distances={"linf": distance}
    )
    (sentence,) = (line for line in text if "strong alone" in line)
    assert "x and y are equally strong alone: on average over all models each leaves 40.0 %" in sentence
    assert (
        "all attacks together 30.0 %. Samples that only one attack broke, over all models: x 10 and y 20"
        in (sentence)
    )
    wrong = sentences(**table(0, 0, misclassified=True))
    assert not any("strong" in line for line in wrong)


def test_an_attack_that_does_not_apply_is_not_averaged_over_other_models() -> None:
    distance = np.full((2, 2, 100), np.inf)
    distance[0, 0, :90] = distance[:, 1, :80] = 0.001
    cube = handmade_cube(
        models=["weak", "box"], attacks=["x", "y"], samples=100, norms=ONE, distances={"linf": distance}
    )
    group = cube["linf"].to_dataset()
    for name in ("robust_accuracy", "correct", "inferred"):
        group[name] = group[name].astype(float)
    there = (group["model"] == "box") & (group["attack"] == "x")
    group["correct"] = group["correct"].where(~there, -1)
    group["robust_accuracy"] = group["robust_accuracy"].where(~there)
    group["status"] = group["status"].where(~there, 3)
    group["members"] = group["members"] & ~there
    cube["linf"] = group
    text = [plain(line) for line in findings.findings(cube)]
    (sentence,) = (line for line in text if "strongest single attack" in line)
    assert "x: on average over the 1 model that every attack ran on it leaves 10.0 %" in sentence


def test_class_difference_with_its_yardstick() -> None:
    distance = np.full((1, 1, 100), 0.001)
    distance[0, 0, :50] = np.inf
    text = sentences(
        models=["m"],
        classes=["cat", "dog"],
        labels=[0] * 50 + [1] * 50,
        attacks=["x"],
        samples=100,
        norms=ONE,
        distances={"linf": distance},
    )
    sentence = next(line for line in text if "class dog" in line)
    assert "keeps 0 % of class dog and 100 % of class cat, a difference of 100 points" in sentence
    assert "would show about 7.9 points by chance" in sentence


def test_clean_accuracies_say_of_how_many_models() -> None:
    cube = handmade_cube(models=["a", "b", "c"])
    group = cube["clean"].to_dataset()
    for name in ("accuracy", "correct"):
        group[name] = (
            group[name].astype(float).where(group["model"] != "b", np.nan if name == "accuracy" else -1)
        )
    cube["clean"] = group
    (said,) = findings.clean(cube)
    assert said.startswith("Without an attack accuracies of 2 of 3 models span")
    assert said.endswith("Not known of <strong>b</strong>.")


def test_signs_of_doubt_in_words() -> None:
    cube = handmade_cube(
        flags={
            ("linf", "plain", "apgd-ce", "zero_gradient"): 0.123,
            ("linf", "robust", "square", "rejected_claims"): 4,
        },
        reduced={"square": "queries 500 (standard 5000)"},
    )
    text = [plain(sentence) for sentence in findings.doubts(cube)]
    assert text[0].startswith("Look twice at plain:")
    assert "ℓ∞ square" in text[1]
    section = plain(sections.trust_section(cube))
    assert "for up to 12.3 % of the samples, ℓ∞ apgd-ce" in section
    assert "up to 4 successes" in section
    assert "Of every model it holds: settings are below the attack's standard (ℓ∞ square)" in section
    assert "No further sign against middle" in section


def test_claims_of_leads_between_equal_models_are_rare() -> None:
    random = np.random.default_rng(0)
    claims = 0
    for _ in range(60):
        hard = random.random(150)
        distance = np.where(random.random((4, 1, 150)) < hard, np.inf, 0.001)
        cube = handmade_cube(
            models=list("abcd"), attacks=["x"], samples=150, norms=ONE, distances={"linf": distance}
        )
        claims += "certain" in findings.findings(cube)[0]
    assert claims <= 6


def test_paired_comparison_uses_what_the_sentence_says() -> None:
    cube = handmade_cube(**table(150, 100, 50))
    z = paired.outcomes(cube, "linf", 2 / 255)
    assert z.sum("sample").values.tolist() == [150, 100, 50]


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0 %"), (1, "100 %"), (0.4567, "45.7 %"), (0.0001, "< 0.1 %"), (0.9999, "> 99.9 %")],
)
def test_percent(share: float, text: str) -> None:
    assert words.percent(share).replace("\u00a0", " ") == text


def test_numbers_in_words() -> None:
    def say(text: str) -> str:
        return text.replace("\u00a0", " ")

    assert words.percent(float("nan")) == words.interval(float("nan"), 1) == "not available"
    assert words.number(1234567) == "1.23 million"
    assert words.number(999_999_999) == "1 billion"
    assert words.number(12345) == "12,300"
    assert words.number(0.012345) == "0.0123"
    assert say(words.duration(59.96)) == "60 s"
    assert say(words.duration(7300)) == "2.03 h"
    assert say(words.p_value(0.0004)) == "p < .001"
    assert say(words.p_value(0.0421)) == "p = .042"
    assert say(words.p_value(1)) == "p = 1"
    assert words.plural(1, "class") == "1 class"
    assert words.plural(2, "class") == "2 classes"
    assert words.listing(list("abc")) == "a, b and c"
    assert words.listing(list("abcdefgh"), 3) == "a, b, c and 5 more"


def test_a_masked_leader_is_not_announced_without_a_warning() -> None:
    """The model that leads carries the sign in its sentence; the sign of another one does not touch it."""
    for model, warned in (("middle", True), ("plain", False)):
        first = findings.findings(handmade_cube(flags={("linf", model, "apgd-ce", "zero_gradient"): 1.0}))[0]
        assert "<strong>middle</strong> has the highest" in first
        assert ("Beware" in first) == warned


def test_what_intervals_cover_counts_the_samples() -> None:
    made = {figure.name: figure.covers for figure in make_figures(handmade_cube(samples=1, classes=["all"]))}
    assert "choice of the 1 test sample, not" in made["reference-linf-0"]
    assert "choice of the 1 test sample, not" in made["curves-linf"]
    sizes = {figure.name: figure.covers for figure in make_figures(handmade_cube())}
    assert "choice of the test samples (20 per class), not" in sizes["classes-linf"]


def test_tests_are_spoken_of_where_there_are_some() -> None:
    one, two, three = (findings.how_sure(handmade_cube(models=list("abc")[:count])) for count in (1, 2, 3))
    assert "McNemar" not in one
    assert "They cover the choice of the test samples" in one
    assert "McNemar" in two
    assert "Cochran" not in two
    assert "Cochran's Q" in three
