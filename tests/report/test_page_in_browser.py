"""The page in a real headless Chromium: drawn, quiet, offline, switchable, dark, narrow, printed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Browser, missing
from handmade_cube import handmade_cube
from test_predictors_and_claims import RANDOM, STRENGTH, cube_with

from metaeval.report.page import write_report

LONG = "a_model_with_a_name_that_is_far_too_long_for_any_legend_or_axis_and_never_ends_really"
HOSTILE = '<img src="https://example.org/x.png" onerror="document.title=1">&amp;"\'</script><b>'
MODELS = ("plain", "robust", LONG, HOSTILE)
LEVELS = {
    "linf": [(0.0, "0"), (1 / 255, "1/255"), (2 / 255, "2/255"), (4 / 255, "4/255"), (8 / 255, "8/255")],
    "l2": [(0.0, "0"), (0.25, "0.25"), (0.5, "0.5")],
}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if absent := missing():
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(f"CI must look at the page, but there is no {absent}")
        pytest.skip(f"the page cannot be looked at: no {absent}")
    with Browser(tmp_path_factory.mktemp("chromium")) as running:
        yield running


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cube = handmade_cube(
        models=MODELS,
        classes=["cat", "dog", "<b>ship</b>"],
        samples=90,
        norms=LEVELS,
        attacks=["apgd-ce", "fab", "square"],
        failed={("l2", "plain", "fab"): "out of memory </script><script>alert(1)</script>"},
        flags={("linf", "robust", "apgd-ce", "zero_gradient"): 0.2},
        reference=["2/255", "0.25"],
    )
    return write_report(cube, tmp_path_factory.mktemp("report") / "report.html")


def show(browser: Browser, page: Path, *, width: int = 1200, theme: str = "light", draw: bool = True) -> None:
    browser.size(width, 900, mobile=width < 500)
    browser.theme(theme)
    browser.open(page)
    if draw:
        browser.run("return metaeval.drawAll()")


def assert_quiet(browser: Browser) -> None:
    """No message of the console, no error caught, no request but for the page itself."""
    assert [entry["message"] for entry in browser.logs("browser")] == []
    assert browser.run("return metaeval.errors") == []
    requests = browser.requests()
    assert len([url for url in requests if url.startswith("file:")]) == 1
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []


def charts(browser: Browser) -> list[dict[str, Any]]:
    return browser.run(
        """return [...document.querySelectorAll('.chart')].map(c => ({
            figure: c.dataset.figure, panel: c.dataset.panel,
            visible: c.offsetParent !== null,
            series: c.querySelectorAll('svg g.role-mark path, svg g.role-mark text').length}))"""
    )


def marks(browser: Browser, name: str) -> int:
    time.sleep(0.3)
    return browser.run(
        f"""return document.querySelectorAll(
            '#{name} svg g.role-mark path, #{name} svg g.role-mark line').length"""
    )


def check(browser: Browser, kind: str, value: str, on: bool) -> None:
    browser.run(
        """const box = [...document.querySelectorAll(`input[name=${arguments[0]}]`)]
               .find(b => b.value === arguments[1]);
           if (box.checked !== arguments[2]) box.click();""",
        kind,
        value,
        on,
    )


def test_every_figure_is_drawn_without_a_word_or_a_request(browser: Browser, page: Path) -> None:
    show(browser, page)
    drawn = charts(browser)
    figures = {chart["figure"] for chart in drawn}
    assert figures == {
        "reference-linf-0",
        "reference-l2-0",
        "curves-linf",
        "curves-l2",
        "crossings-linf",
        "crossings-l2",
        "transfer-linf-l2",
        "classes-linf",
        "classes-l2",
        "cost",
    }
    assert all(chart["series"] > 0 for chart in drawn), drawn
    assert len([chart for chart in drawn if chart["figure"] == "classes-linf"]) == len(MODELS)
    assert browser.run("return document.title") == "A cube made by hand"
    assert browser.run("return document.querySelectorAll('img, b, iframe').length") == 0
    assert_quiet(browser)


def test_charts_are_drawn_only_when_they_come_into_view(browser: Browser, page: Path) -> None:
    show(browser, page, draw=False)
    time.sleep(1)
    drawn = "return document.querySelectorAll('.chart svg').length"
    first = browser.run(drawn)
    assert first < len(charts(browser))
    browser.run("document.getElementById('cost').scrollIntoView()")
    deadline = time.monotonic() + 20
    while not browser.run("return document.querySelectorAll('#cost .chart svg').length"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert browser.run(drawn) > first


def test_check_boxes_drive_every_chart(browser: Browser, page: Path) -> None:
    show(browser, page)
    names = ("reference-linf-0", "curves-linf", "crossings-linf", "cost")
    before = {name: marks(browser, name) for name in names}
    check(browser, "model", "robust", False)
    after = {name: marks(browser, name) for name in names}
    assert all(after[name] < before[name] for name in names), (before, after)
    hidden = browser.run(
        """return [...document.querySelectorAll('.panel')].filter(
            p => p.dataset.model === 'robust' && !p.hidden).length"""
    )
    assert hidden == 0
    check(browser, "model", "robust", True)
    assert {name: marks(browser, name) for name in names} == before

    check(browser, "attack", "square", True)
    assert marks(browser, "curves-linf") > before["curves-linf"]
    assert marks(browser, "reference-linf-0") > before["reference-linf-0"]
    check(browser, "attack", "square", False)

    browser.run("document.getElementById('bands').click()")
    bands = before["curves-linf"] - marks(browser, "curves-linf")
    assert bands == len(MODELS)

    assert_quiet(browser)

    browser.run("document.querySelector('[data-none=model]').click()")
    assert marks(browser, "curves-linf") == 0
    # Vega warns of axes without data; nothing worse may be said.
    assert {entry["level"] for entry in browser.logs("browser")} <= {"WARNING"}
    browser.run("document.querySelector('[data-all=model]').click()")
    assert marks(browser, "curves-linf") == before["curves-linf"] - bands


def test_check_boxes_work_from_the_keyboard(browser: Browser, page: Path) -> None:
    show(browser, page)
    browser.run("document.querySelector('input[name=model]').focus()")
    for kind in ("keyDown", "keyUp"):
        browser.cdp("Input.dispatchKeyEvent", type=kind, key=" ", code="Space", text=" ")
    assert not browser.run("return document.querySelector('input[name=model]').checked")
    assert browser.run("return document.getElementById('shown').textContent").startswith("3 of 4 models")


def test_dark_mode(browser: Browser, page: Path) -> None:
    def colours() -> list[str]:
        time.sleep(0.3)
        return browser.run(
            """return [getComputedStyle(document.body).backgroundColor,
               document.querySelector('#curves-linf svg .role-axis-label text').getAttribute('fill')]"""
        )

    show(browser, page, theme="light")
    assert colours() == ["rgb(255, 255, 255)", "#1c2024"]
    browser.theme("dark")  # while the page is open
    assert colours() == ["rgb(22, 24, 28)", "#e8e8ea"]
    show(browser, page, theme="dark")
    assert colours() == ["rgb(22, 24, 28)", "#e8e8ea"]
    assert_quiet(browser)


@pytest.mark.parametrize("width", [360, 768, 1000, 1600])
def test_nothing_sticks_out_at_any_width(browser: Browser, page: Path, width: int) -> None:
    show(browser, page, width=width)
    browser.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.run("return document.documentElement.scrollWidth") <= width
    wide = browser.run(
        """return [...document.querySelectorAll('.chart svg')].filter(
            s => s.getBoundingClientRect().right > innerWidth + 1).length"""
    )
    assert wide == 0


def test_print_draws_everything_in_light_colours(browser: Browser, page: Path) -> None:
    show(browser, page, theme="dark", draw=False)
    pdf = browser.pdf()
    assert pdf.startswith(b"%PDF")
    assert len(pdf) > 50_000
    drawn = charts(browser)
    assert all(chart["series"] > 0 for chart in drawn), drawn
    assert_quiet(browser)


def test_print_keeps_the_legend_and_the_page_width(browser: Browser, page: Path) -> None:
    show(browser, page, width=800)
    browser.cdp("Emulation.setEmulatedMedia", media="print", features=[])
    try:
        browser.run("dispatchEvent(new Event('beforeprint'))")
        shown = browser.run(
            """return [...document.querySelectorAll('.legend label')]
               .filter(l => l.offsetParent !== null).map(l => l.textContent)"""
        )
        assert shown == [*MODELS, "worst-case"]
        assert browser.run("return document.documentElement.scrollWidth") <= 800
    finally:
        browser.cdp("Emulation.setEmulatedMedia", media="", features=[])


def test_csv_holds_every_number(browser: Browser, page: Path) -> None:
    import csv
    import io

    show(browser, page, draw=False)
    rows = list(csv.DictReader(io.StringIO(browser.run("return metaeval.csv('curves-linf')"), newline="")))
    assert len(rows) == len(MODELS) * 4 * len(LEVELS["linf"])
    assert {row["model"] for row in rows} == set(MODELS)
    rows = list(csv.DictReader(io.StringIO(browser.run("return metaeval.csv('curves-l2')"), newline="")))
    failed = [row for row in rows if row["model"] == "plain" and row["attack"] == "fab"]
    assert {(row["accuracy"], row["status"]) for row in failed} == {("", "failed")}
    assert "</script>" in failed[0]["reason"]


THREE = ("plain", "robust", "middle")
CASES: dict[str, dict[str, Any]] = {
    "one model": {"models": ["only"]},
    "two models": {"models": ["first", "second"]},
    "one class": {"classes": ["all"]},
    "one epsilon": {"norms": {"linf": [(2 / 255, "2/255")]}},
    "epsilon zero only": {"norms": {"linf": [(0.0, "0")]}},
    "one sample": {"samples": 1, "classes": ["all"]},
    "one attack": {"attacks": ["apgd-ce"]},
    "ties": {"distances": {"linf": np.full((3, 2, 60), 0.005)}},
    "all robust": {"distances": {"linf": np.full((3, 2, 60), np.inf)}},
    "all broken": {"distances": {"linf": np.zeros((3, 2, 60))}},
    "all pending": {"pending": [("linf", m, a) for m in THREE for a in ("apgd-ce", "square")]},
    "all failed": {"failed": {("linf", m, "square"): "x" for m in THREE}},
    "no attacks": {"norms": {}, "attacks": []},
    "empty class": {"classes": ["a", "b", "none"], "labels": [i % 2 for i in range(60)]},
    "fifty classes": {"classes": [f"class {i}" for i in range(50)], "samples": 200},
    "hundred models and classes": {
        "models": [f"model_{i:03d}" for i in range(100)],
        "classes": [f"class {i}" for i in range(100)],
        "samples": 300,
        "attacks": ["a", "b", "c", "d"],
    },
    "hundred models": {"models": [f"model_{i:03d}" for i in range(100)], "attacks": ["a", "b", "c", "d"]},
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_unusual_cubes(browser: Browser, tmp_path: Path, case: str) -> None:
    target = write_report(handmade_cube(**CASES[case]), tmp_path / "report.html")
    show(browser, target, width=360)
    drawn = [chart for chart in charts(browser) if chart["visible"]]
    if case != "all pending":
        assert drawn
    assert all(chart["series"] > 0 for chart in drawn), drawn
    assert browser.run("return document.documentElement.scrollWidth") <= 360
    body = browser.run("return document.body.innerText")
    assert not {"NaN", "nan", "undefined", "null", "inf", "None"} & set(body.replace(",", " ").split())
    assert_quiet(browser)


def test_the_heat_map_of_measures_is_drawn(browser: Browser, tmp_path: Path) -> None:
    measures = {"flatness": ("sharpness", -1, -STRENGTH), "noise": ("norm", -1, RANDOM)}
    target = write_report(cube_with(measures), tmp_path / "report.html")
    show(browser, target, width=360)
    assert marks(browser, "predictors") > 10
    assert browser.run("return document.documentElement.scrollWidth") <= 360
    assert_quiet(browser)
