"""Pages of imported results: right numbers, what is not supported said, and drawn by a browser."""

from __future__ import annotations

import html
import json
import os
import re
from pathlib import Path

import altair as alt
import browser
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from handmade_cube import handmade_cube
from scipy import stats

from metaeval.analysis import claims, notions, predictors, published
from metaeval.analysis.paired import holm
from metaeval.analysis.reading import counted_norms, sampled_norms
from metaeval.cube import importing
from metaeval.cube.opening import open_cube
from metaeval.errors import UsageError
from metaeval.report import imported, page
from metaeval.report.figures import Figure, make_figures
from metaeval.sources.published import predictions, robustbench, table
from metaeval.sources.published.content import Published

MAPPINGS = Path(__file__).parents[2] / "studies" / "mappings"


def cube_of(result: Published, folder: Path) -> xr.DataTree:
    parts = result.models, result.columns, result.groups, result.provenance(), result.attributes
    importing.write(folder / result.name, *parts, name=result.name, title=result.title)
    return open_cube(folder / result.name)


@pytest.fixture(scope="module")
def cubes(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, xr.DataTree]:
    folder = tmp_path_factory.mktemp("imported")
    mapped = {
        "classes": ("robustbench_2023_class_table.csv", "robustbench_2023_classes.toml"),
        "stages": ("robustbench_2023_stages.csv", "robustbench_2023_stages.toml"),
        "testbed": ("imagenet_testbed_top1.csv", "imagenet_testbed.toml"),
    }
    tables = {key: table.read(shared_data / csv, MAPPINGS / toml) for key, (csv, toml) in mapped.items()}
    (linf,) = robustbench.read([shared_data / "robustbench_model_info.zip"], "cifar10", "Linf")
    everything = {
        "linf": linf,
        "predictions": predictions.read([shared_data / "cifar10_predictions.npz"]),
        **tables,
    }
    return {name: cube_of(result, folder) for name, result in everything.items()}


@pytest.fixture(scope="module")
def pages(cubes: dict[str, xr.DataTree]) -> dict[str, str]:
    return {name: page.render(cube) for name, cube in cubes.items()}


def text_of(markup: str) -> str:
    plain = re.sub(r"<script.*?</script>", "", markup, flags=re.DOTALL)
    return html.unescape(re.sub(r"<[^>]+>", "", plain)).replace("\u00a0", " ")


def figures_of(cube: xr.DataTree) -> dict[str, Figure]:
    return {figure.name: figure for figure in make_figures(cube)}


def test_every_page_is_whole(cubes: dict[str, xr.DataTree], pages: dict[str, str]) -> None:
    shown = {
        "linf": {"published-best-known-accuracy", "published-autoattack-accuracy", "predictors"},
        "predictions": {"clean", "class-accuracy", "shifts", "effective-robustness", "paired"},
        "classes": {"curves-linf", "classes-linf", "drops-linf"},
        "stages": {"parameters", "cascade-linf-0", "predictors"},
        "testbed": {"shifts", "effective-robustness"},
    }
    for name, cube in cubes.items():
        figures = figures_of(cube)
        assert set(figures) == shown[name]
        for figure in figures.values():
            assert figure.spec is not None
            alt.Chart.from_dict({**figure.spec, "width": 300})
            json.dumps(figure.data.rows, allow_nan=False)
        text = text_of(pages[name])
        assert "These results were published by others and imported" in text
        assert "per-sample outcomes" in text or name == "predictions"
        assert not re.search(r"\bnan\b|\binf\b", text)


def test_robustbench(cubes: dict[str, xr.DataTree], pages: dict[str, str]) -> None:
    text = text_of(pages["linf"])
    assert (
        "mean clean accuracy is 87.6 %, the mean accuracy under AutoAttack 52.9 %; the highest is 75.3 % "
        "(Amini2024MeanSparse_S-WRN-94-16)" in text
    )
    assert "Spearman's ρ = 0.49 (95 % family jackknife 0.23 to 0.68; 99 models, 69 families)" in text
    assert "different ε (93 at 8/255 and 6 at 0.031)" in text
    assert "test samples" not in text.split("Findings")[0]
    frame = published.accuracies(cubes["linf"])
    found = published.rank_correlation(frame["clean_accuracy"], frame["autoattack_accuracy"])
    expected = stats.spearmanr(frame["clean_accuracy"], frame["autoattack_accuracy"])[0]
    assert found["spearman"] == pytest.approx(expected)
    assert found["spearman"] == pytest.approx(0.48766, abs=5e-6)


def test_accuracy_under_corruptions_knows_no_epsilon(shared_data: Path, tmp_path: Path) -> None:
    """The epsilons of that leaderboard are those of the training of some of its models."""
    (board,) = robustbench.read([shared_data / "robustbench_model_info.zip"], "cifar10", "corruptions")
    cube = cube_of(board, tmp_path)
    text = text_of("".join(imported.findings(cube)))
    assert "Clean accuracy and accuracy under corruptions go together with" in text
    assert "different ε" not in text
    made = figures_of(cube)["published-corruptions-accuracy"]
    assert "ε" not in made.reading
    assert "shape" not in json.dumps(made.spec)


def test_the_line_under_shift_is_described_and_not_praised(cubes: dict[str, xr.DataTree]) -> None:
    text = text_of("".join(imported.findings(cubes["predictions"])))
    assert "Under v4 the line of accuracy over clean accuracy (logit scale, 30 models) has slope 0.84" in text
    assert (
        "outside their 95 % prediction intervals lie 1 of 30 models, where chance alone puts about 1.5"
        in text
    )


def test_the_epsilon_of_a_training_is_no_attack(tmp_path: Path, shared_data: Path) -> None:
    path = shared_data / "robustbench_model_info.zip"
    (found,) = robustbench.read([path], "cifar10", "corruptions")
    assert [label for label in found.columns["epsilon_label"] if label].count("8/255") == 6
    text = text_of(page.render(cube_of(found, tmp_path)))
    assert "which are not the same attack" not in text
    assert "one accuracy per model, corruption and severity" in text


def test_nothing_is_computed_that_rests_on_samples(cubes: dict[str, xr.DataTree]) -> None:
    assert sampled_norms(cubes["linf"]) == counted_norms(cubes["linf"]) == []
    assert sampled_norms(cubes["classes"]) == []
    assert counted_norms(cubes["classes"]) == ["linf"]
    assert sampled_norms(handmade_cube()) == counted_norms(handmade_cube()) == ["linf"]


def test_class_table(cubes: dict[str, xr.DataTree], pages: dict[str, str], shared_data: Path) -> None:
    frame = pd.read_csv(shared_data / "robustbench_2023_class_table.csv")
    wide = frame.pivot_table(
        index=["model", "class"], columns="epsilon", values="accuracy_percent", dropna=False
    )
    drop = (wide["0/255"] - wide["8/255"]).unstack("class")
    found = published.drops(cubes["classes"], "linf")
    assert found is not None
    expected = drop.mean().to_numpy() / 100
    np.testing.assert_allclose(found["average_drop"], expected)
    assert 100 * expected[3] == pytest.approx(45.31, abs=0.005)
    np.testing.assert_allclose(found["overall"], expected.mean())
    text = text_of(pages["classes"])
    assert "Contradiction: Average drop of class 3: the source prints 42.40 %" in text
    assert "Average drop of class 3: the source prints 45.31 %" in text
    assert "the table gives 45.31 %: they agree" in text
    # The source averages over classes: 93.23 is the plain mean of the ten, 466 of 500 samples are 93.20 %.
    clean = wide["0/255"].unstack("class").loc["Wang2023Better_WRN-70-16"]
    assert clean.mean() == pytest.approx(93.23, abs=0.005)
    contradicted = "Contradiction: Clean accuracy of Wang2023Better_WRN-70-16: the source prints 92.23 %"
    assert text.count(contradicted) == 2  # by the source itself and by its table
    assert "Contradiction: accuracy rises with epsilon (Bai2023Improving_edm, class 5: " in text
    assert text.split("How sure is this?")[0].count("Contradiction:") == 5
    assert (
        "the source prints 93.23 % (the other table of clean accuracies), and the table gives 93.20 % over "
        "all samples, 93.23 % as the mean of its classes: they agree" in text
    )
    for model in ("Wang2023Better_WRN-70-16", "Wang2023Better_WRN-28-10", "Cui2023Decoupled_WRN-28-10"):
        mean = wide["8/255"].unstack("class").loc[model].mean()
        assert f"of {model}, epsilon 8/255: the source prints {mean:.2f} %" in text
    assert "46 printed shares fit no count" in text
    assert (
        "Not known of Bai2023Improving_edm." in text
    )  # its count is not recoverable; as printed it is 95.03
    assert "as printed" in text_of(figures_of(cubes["classes"])["classes-linf"].table)
    rows = figures_of(cubes["classes"])["classes-linf"].data.rows
    bai = {
        (row[1], row[3]): row for row in rows if row[0] == "Bai2023Improving_edm" and row[2] == "worst-case"
    }
    assert bai["3", "4/255"][4:7] == [0.6367, None, None]
    assert bai["4", "8/255"][4:7] == [None, None, None]
    low, high = bai["3", "0/255"][5:7]
    assert (low, high) == pytest.approx(stats.binomtest(43, 49).proportion_ci(method="wilson"), abs=1e-4)


def test_stages_and_parameters(cubes: dict[str, xr.DataTree], pages: dict[str, str]) -> None:
    figures = figures_of(cubes["stages"])
    rows = {(row[0], row[1]): row for row in figures["cascade-linf-0"].data.rows}
    assert rows["Peng2023Robust", "apgd-ce"][2:] == pytest.approx([0.738, -0.196, 840])
    assert rows["Wang2023Better_WRN-70-16", "clean"][2] == 0.9223
    costs = published.cost_of_parameters(cubes["stages"])
    assert costs["minutes"].tolist() == [250, 127, 23, 202, 23]
    expected = stats.spearmanr(costs["parameters"], costs["minutes"])[0]
    assert f"Spearman's ρ = {expected:.2f}" in figures["parameters"].reading
    assert "minutes are as published" in text_of(figures["cascade-linf-0"].table)
    assert (
        "the source prints 93.23 % (the other table of clean accuracies), the table gives 92.23 %"
        in text_of(pages["stages"])
    )


def test_predictions(cubes: dict[str, xr.DataTree], shared_data: Path) -> None:
    cube = cubes["predictions"]
    face = published.shifted(cube)
    wrn = face.sel(model="wrn_28_10")
    assert (100 * wrn["accuracy"]).round(2).values.tolist() == [89.71, 90.15]
    interval = stats.binomtest(round(0.9015 * 2000), 2000).proportion_ci(method="wilson")
    assert float(wrn["lower"].sel(shift="v6")) == pytest.approx(interval.low)
    assert float(wrn["clean"]) == pytest.approx(0.9593)
    frame = published.paired_with_best(cube, "v4")
    archive = np.load(shared_data / "cifar10_predictions.npz")
    right = archive["prediction_v4"] == archive["label_v4"]
    assert frame["accuracy"].iloc[0] == pytest.approx(right.mean(axis=1).max())
    names = list(archive["model"])
    best, other = names.index(frame["model"].iloc[0]), names.index("vgg16_keras")
    row = frame[frame["model"] == "vgg16_keras"].iloc[0]
    gain = right[other].astype(int) - right[best].astype(int)
    error = gain.std() / np.sqrt(len(gain))
    assert row["difference"] == pytest.approx(gain.mean())
    assert row["upper"] - row["difference"] == pytest.approx(stats.norm.ppf(0.975) * error)
    pairs = [
        stats.binomtest(int((right[i] & ~right[j]).sum()), max(int((right[i] ^ right[j]).sum()), 1)).pvalue
        for i in range(30)
        for j in range(i + 1, 30)
    ]
    first, second = sorted((best, other))
    position = [(i, j) for i in range(30) for j in range(i + 1, 30)].index((first, second))
    assert row["p"] == pytest.approx(max(holm(pairs)[position], 0), rel=1e-6, abs=1e-12)


def test_holes_stay_holes(cubes: dict[str, xr.DataTree], pages: dict[str, str], shared_data: Path) -> None:
    face = published.shifted(cubes["testbed"])
    frame = pd.read_csv(shared_data / "imagenet_testbed_top1.csv", index_col="model")
    fog = frame[[f"imagenet-c.fog.{level}_on-disk" for level in range(1, 6)]] / 100
    found = face["accuracy"].sel(shift="fog (on-disk)").values
    np.testing.assert_allclose(found, fog.mean(axis=1, skipna=False))
    assert np.isnan(found).sum() == fog.isna().any(axis=1).sum() > 100
    text = text_of(pages["testbed"])
    assert "45,774 of 71,994 results are given (64 %)" in text
    assert "no interval over test samples" in text


def small(folder: Path, text: str) -> xr.DataTree:
    (folder / "t.csv").write_text(text)
    return cube_of(table.read(folder / "t.csv"), folder)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model,clean,fog\na,90,50\n", "not estimable: 1 baseline model with"),
        ("model,fog\na,50\nb,40\n", "does not say which column is the original test set"),
        ("model,fog,snow\na,,\nb,,\n", "Columns without any result: fog, snow"),
        ("model,clean,fog\na,90,50\nb,90,50\nc,90,50\nd,90,50\n", "not estimable"),
    ],
)
def test_little_is_said_of_little(tmp_path: Path, text: str, said: str) -> None:
    words = text_of(page.render(small(tmp_path, text)))
    assert said in words
    assert not re.search(r"\bnan\b", words)


def test_one_class_one_model_and_ties(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(json.dumps({"label": [0, 0], "prediction": {"m": [0, 0]}}))
    text = text_of(page.render(cube_of(predictions.read([tmp_path / "p.json"]), tmp_path)))
    assert "Without an attack the accuracy is 100 % (m, 34.2 to 100 %)" in text
    assert "Models compared" not in text
    said = {"label": [0, 1, 2, 1], "prediction": {"m": [0, 1, 2, 1], "n": [0, 1, 2, 1]}}
    (tmp_path / "q.json").write_text(json.dumps(said))
    cube = cube_of(predictions.read([tmp_path / "q.json"]), tmp_path)
    assert "every model has the same accuracy, 100 %" in text_of(page.render(cube))
    assert published.paired_with_best(cube)["p"].iloc[1] == 1


def test_one_model_is_not_compared_and_equal_classes_do_not_differ(tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text("label,m\n" + "0,0\n1,1\n" * 10)
    text = text_of(page.render(cube_of(predictions.read([tmp_path / "one.csv"]), tmp_path)))
    assert "McNemar" not in text
    assert "For m all classes have the same accuracy." in text
    assert "differ by" not in text


def test_models_of_which_nothing_but_shares_is_known(tmp_path: Path) -> None:
    # Two places of a share fit several counts: neither clean accuracies nor properties are known.
    rows = [f"{m},{e},{c},100,0.{k}" for m, k in (("a", 62), ("b", 51)) for e in ("0", "8/255") for c in "xy"]
    (tmp_path / "t.csv").write_text("\n".join(["model,epsilon,class,total,accuracy", *rows]))
    mapping = tmp_path / "t.toml"
    mapping.write_text(
        'layout = "long"\nunit = "fraction"\n[columns]\nvalue = "accuracy"\nclass = "class"\n'
        'epsilon = "epsilon"\ntotal = "total"\n[constants]\nnorm = "linf"\nattack = "pgd"\n'
    )
    cube = cube_of(table.read(tmp_path / "t.csv", mapping), tmp_path)
    assert notions.measures(cube).sizes["measure"] == 0
    assert "not recoverable" in text_of(page.render(cube))
    with pytest.raises(UsageError, match="no measure"):
        predictors.weakest(cube)
    assert [found.verdict for found in claims.check(cube)] == ["not estimable"] * 4


def test_names_that_look_like_markup_are_escaped(tmp_path: Path) -> None:
    cube = small(tmp_path, "model,clean,<img src=x>\n<script>alert(1)</script>,90,50\nb,80,40\n")
    main = page.render(cube).partition("<main>")[2].partition("</main>")[0]
    assert "alert(1)" in main
    assert "<script>alert" not in main
    assert "<img" not in main


@pytest.mark.skipif(
    bool(browser.missing()) and os.environ.get("CI") != "true", reason=f"missing: {browser.missing()}"
)
def test_a_browser_draws_every_chart(
    cubes: dict[str, xr.DataTree], pages: dict[str, str], tmp_path: Path
) -> None:
    with browser.Browser(tmp_path / "profile") as chromium:
        chromium.size(1100, 900)
        for name in ("linf", "predictions"):
            path = tmp_path / f"{name}.html"
            path.write_text(pages[name], encoding="utf-8")
            chromium.open(path)
            count = chromium.run("return document.querySelectorAll('.chart').length")
            chromium.run("return metaeval.drawAll()")
            drawn = "return document.querySelectorAll('.chart[data-drawn=yes]').length"
            assert chromium.run(drawn) == count > 0
            assert chromium.run("return window.metaeval.errors") == []
            assert chromium.requests() == [path.resolve().as_uri()]
            marks = chromium.run("return document.querySelectorAll('.mark-symbol path').length")
            assert marks >= (2 * 99 if name == "linf" else 30)
            assert not [entry for entry in chromium.logs("browser") if entry["level"] == "SEVERE"]


def test_properties_and_robustness_of_published_models(cubes: dict[str, xr.DataTree]) -> None:
    cube = cubes["linf"]
    table = cube["models"].to_dataset()
    wide = table["architecture"].values == "WideResNet-70-16"
    assert wide.any()
    assert set(table["depth"].values[wide]) == {70}
    assert set(table["width"].values[wide]) == {16}
    robust, properties = notions.robustness(cube), notions.measures(cube)
    assert list(robust["notion"].values) == [f"linf 8/255 {kind}" for kind in ("accuracy", "gap", "relative")]
    assert int(robust.notnull().sum("model")[0]) == 93  # six are of another epsilon
    assert {"year", "depth", "width", "additional_data"} <= set(properties["measure"].values)
    assert "unreliable" not in properties["measure"].values
    found = notions.correlations(cube).sel(measure="width", notion="linf 8/255 accuracy")
    known = np.isfinite(properties.sel(measure="width").values) & np.isfinite(robust.values[:, 0])
    columns = (properties.sel(measure=["width", "clean accuracy"]).values, robust.values[:, :1])
    ranks = [stats.rankdata(column[known]) for column in np.hstack(columns).T]
    expected = np.linalg.inv(np.corrcoef(ranks))
    assert float(found["partial"]) == pytest.approx(
        -expected[0, 2] / np.sqrt(expected[0, 0] * expected[2, 2])
    )
    assert predictors.reliability(cube) == {}
    with pytest.raises(UsageError, match="hyper-parameter"):
        predictors.generalization(cube, "linf 8/255 accuracy")
    said = figures_of(cube)["predictors"]
    assert "93 of 99 models in 64 families" in said.covers
    assert "year goes with all 3 notions" in said.finding
    shifted = predictors.reliability(cubes["predictions"])
    assert set(shifted) == {"v4 accuracy", "v6 accuracy"}
    assert 0 < shifted["v4 accuracy"] < 1


LONG = """model,epsilon,attack,accuracy
a,0,pgd,0.9
a,8/255,pgd,0.5
a,8/255,square,0.6
b,0,pgd,0.8
b,8/255,pgd,0.4
"""


@pytest.mark.parametrize("total", ["", "total = 1000\n"])
def test_printed_accuracies_without_counts_are_shown(tmp_path: Path, total: str) -> None:
    (tmp_path / "t.csv").write_text(LONG)
    (tmp_path / "m.toml").write_text(
        'layout = "long"\nunit = "fraction"\n[columns]\nepsilon = "epsilon"\nattack = "attack"\n'
        f'[constants]\nnorm = "linf"\n{total}'
    )
    cube = cube_of(table.read(tmp_path / "t.csv", tmp_path / "m.toml"), tmp_path)
    figure = figures_of(cube)["printed-linf"]
    assert figure.spec is not None
    alt.Chart.from_dict({**figure.spec, "width": 300})
    shown = {(row[0], row[2], row[4]): row[5] for row in figure.data.rows}
    for line in LONG.splitlines()[1:]:
        model, label, attack, accuracy = line.split(",")
        assert shown[model, attack, label] == float(accuracy)
    assert shown["b", "square", "8/255"] is None
    text = text_of(page.render(cube))
    assert "the published accuracies are, by attack: pgd 40.0 % (b) to 50.0 % (a); square 60.0 % (a)." in text


def test_printed_accuracies_of_classes_without_totals(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("model,class,accuracy\na,cat,90\na,dog,80\nb,cat,70\nb,dog,\n")
    figures = figures_of(cube_of(table.read(tmp_path / "t.csv"), tmp_path))
    assert "80.0" in text_of(figures["printed-clean"].table)
    assert [row[5] for row in figures["printed-clean"].data.rows] == [0.9, 0.8, 0.7, None]


def test_clean_accuracies_stand_beside_those_of_one_epsilon(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("model,attack,accuracy\na,clean,90\na,pgd,50\nb,clean,80\nb,pgd,40\n")
    (tmp_path / "m.toml").write_text(
        'layout = "long"\n[columns]\nattack = "attack"\n[constants]\nnorm = "l2"\nepsilon = "0.5"\n'
    )
    cube = cube_of(table.read(tmp_path / "t.csv", tmp_path / "m.toml"), tmp_path)
    rows = figures_of(cube)["printed-l2"].data.rows
    assert [(row[0], row[4], row[5]) for row in rows] == [
        *(("a", "0", 0.9), ("a", "0.5", 0.5), ("b", "0", 0.8), ("b", "0.5", 0.4)),
    ]


def test_equal_accuracies_have_no_span(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(LONG.replace("0.4", "0.5"))
    (tmp_path / "m.toml").write_text(
        'layout = "long"\nunit = "fraction"\n[columns]\nepsilon = "epsilon"\nattack = "attack"\n'
        '[constants]\nnorm = "linf"\n'
    )
    cube = cube_of(table.read(tmp_path / "t.csv", tmp_path / "m.toml"), tmp_path)
    assert "by attack: pgd 50.0 % of all 2 models; square 60.0 % (a)." in text_of(page.render(cube))
