"""The catalogue of attacks: names, settings, versions, reasons not to run, prices."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint, PackageNotFoundError, version

import pytest

from metaeval import listing, registry
from metaeval.attacks import catalogue
from metaeval.attacks.spec import AttackSpec, Setting
from metaeval.attacks.torchattacks_table import ROWS
from metaeval.errors import UsageError

IDS = [
    "apgd-ce",
    "apgd-dlr",
    "apgd-t",
    "fab",
    "fab-t",
    "square",
    "fgsm@torchattacks",
    "bim@torchattacks",
    "pgd@torchattacks",
    "deepfool@torchattacks",
    "cw@torchattacks",
    *(f"{row.name}@torchattacks" for row in ROWS),
    "ddn@foolbox",
    "fmn@foolbox",
    "ead@foolbox",
    "cw@foolbox",
    "pgd@foolbox",
]


def test_every_attack_says_what_it_is():
    assert catalogue.names()[: len(IDS)] == IDS
    for name in IDS:
        spec = catalogue.get(name)
        assert spec.id == name
        assert "@" not in name or name.endswith(f"@{spec.implementation}")
        assert spec.by_norm.keys() <= set(spec.norms)
        for served in map(spec.for_norm, spec.norms):
            assert callable(registry.resolve(served.run))
            assert any(character.isdigit() for character in served.citation), "a citation has a year"
            for setting in served.settings.values():
                assert setting.default >= setting.minimum
                assert setting.standard in (None, setting.default), "the default is the standard"


def test_the_catalogue_imports_no_torch():
    code = "import sys, metaeval.attacks.catalogue as c; c.names(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_list_has_every_attack_with_what_runs_for_each_norm():
    rows = listing.attacks()
    assert list(dict.fromkeys(row["id"] for row in rows)) == IDS
    assert all(
        row[key] for row in rows for key in ("norms", "kind", "black_box", "implementation", "citation")
    )
    mixed = {row["norms"]: row["implementation"] for row in rows if row["id"] == "apgd-ce"}
    assert mixed == {"linf l2": "metaeval", "l1": "pyautoattack"}
    black = {row["id"] for row in rows if row["black_box"] == "yes"}
    assert black == {
        "square",
        *(f"{name}@torchattacks" for name in ("spsa", "square", "onepixel", "pixle")),
    }


def test_unknown_attacks_name_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'square'"):
        catalogue.get("sqare")


def test_settings_are_resolved_and_checked_all_at_once():
    spec = catalogue.get("apgd-ce")
    assert catalogue.resolve_settings(spec, {}) == {"iterations": 100, "restarts": 1, "eot": 1}
    assert catalogue.resolve_settings(spec, {"iterations": "20"})["iterations"] == 20
    step = catalogue.resolve_settings(catalogue.get("pgd@torchattacks"), {"relative_step_size": "1/8"})
    assert step["relative_step_size"] == 0.125
    given = {"iteration": 5, "restarts": 0}
    assert [(key, near) for key, _, near in catalogue.setting_problems(spec, given)] == [
        ("iteration", "iterations"),
        ("restarts", None),
    ]
    with pytest.raises(UsageError, match=r"iteration: .*iterations.*restarts: 0 is below the minimum 1"):
        catalogue.resolve_settings(spec, given)


@pytest.mark.parametrize("value", [2.5, "many", True, None, [3], "1/0"])
def test_a_count_must_be_a_whole_number(value):
    with pytest.raises(UsageError, match="is not a whole number"):
        catalogue.resolve_settings(catalogue.get("square"), {"queries": value})


def test_weaker_than_standard_is_labelled():
    spec = catalogue.get("square")
    settings = catalogue.resolve_settings(spec, {"queries": 500})
    assert catalogue.reduced(spec, settings) == ["queries 500 (standard 5000)"]
    assert catalogue.reduced(spec, catalogue.resolve_settings(spec, {"queries": 9000})) == []


def test_versions_name_the_implementation():
    assert catalogue.attack_version(catalogue.get("fab")) == f"pyautoattack {version('pyautoattack')}"
    assert (
        catalogue.attack_version(catalogue.get("cw@torchattacks"))
        == f"torchattacks {version('torchattacks')}"
    )
    assert catalogue.attack_version(catalogue.get("square")) == "metaeval revision 1"


def test_a_norm_of_another_implementation_has_another_version():
    spec = catalogue.get("apgd-ce")
    assert catalogue.attack_version(spec.for_norm("l2")) == "metaeval revision 2"
    assert catalogue.attack_version(spec.for_norm("l1")) == f"pyautoattack {version('pyautoattack')}"
    assert spec.warm
    assert not spec.for_norm("l1").warm
    with pytest.raises(UsageError, match="2 is below the minimum 3"):
        catalogue.resolve_settings(spec.for_norm("l1"), {"iterations": 2})


def test_inputs_that_do_not_fit_are_refused_with_a_reason():
    def reason(name, norm, shape):
        return catalogue.problems(catalogue.get(name), norm=norm, classes=10, shape=shape)

    assert "needs images (channels, height, width), inputs have shape (5,)" in reason(
        "mifgsm@torchattacks", "linf", (5,)
    )
    assert "needs images of 3 channels" in reason("pifgsm@torchattacks", "linf", (1, 28, 28))
    assert "as high as wide, they are 8 x 9" in reason("difgsm@torchattacks", "linf", (3, 8, 9))
    assert "takes 1024 features at most, inputs have 3072" in reason("jsma@torchattacks", "l1", (3, 32, 32))
    assert "cannot tile images of 14 x 14 pixels" in reason("square@torchattacks", "l2", (1, 14, 14))
    assert "5 x 5 pixels or more, they are 4 x 9" in reason("square@torchattacks", "l2", (1, 4, 9))
    assert "square with norm l1 needs images" in reason("square", "l1", (20,))
    for name, norm in (("jsma@torchattacks", "l1"), ("square", "l1"), ("square@torchattacks", "linf")):
        assert reason(name, norm, (1, 28, 28)) is None
    assert reason("square", "linf", (20,)) is None


def test_an_extra_is_named_where_its_package_is_missing(monkeypatch):
    def absent(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(catalogue, "version", absent)
    assert catalogue.problems(catalogue.get("ddn@foolbox"), norm="l2").endswith(
        "needs the package foolbox: pip install 'metaeval[foolbox]'"
    )
    assert catalogue.problems(catalogue.get("fab"), norm="l2").endswith("'metaeval[run]'")
    assert catalogue.problems(catalogue.get("apgd-ce"), norm="l2") is None
    assert "pyautoattack" in catalogue.problems(catalogue.get("apgd-ce"), norm="l1")


def test_reasons_not_to_run():
    problems = catalogue.problems
    assert problems(catalogue.get("apgd-dlr"), norm="linf", classes=3) is None
    assert "at least 3 classes, there are 2" in problems(catalogue.get("apgd-dlr"), norm="linf", classes=2)
    assert "norm linf" in problems(catalogue.get("cw@torchattacks"), norm="linf")
    absent = AttackSpec("a", ("l2",), "minimum-norm", "m:f", "no-such-package", "", lambda s, c: (1, 1))
    assert "no-such-package" in problems(absent, norm="l2")
    assert catalogue.attack_version(absent) == "no-such-package (not installed)"


def test_prices():
    def cost(name, levels, **given):
        spec = catalogue.get(name)
        search = given.pop("search", "frontier")
        settings = catalogue.resolve_settings(spec, given)
        return catalogue.cost(spec, settings, classes=10, levels=levels, search=search)

    assert cost("apgd-ce", 0) == (0, 0)
    assert cost("apgd-ce", 1) == (101, 101)
    assert cost("apgd-ce", 1, iterations=10, restarts=3) == (33, 33)
    assert 101 < cost("apgd-ce", 8)[0] < 2 * 101
    assert 4 * 101 < cost("apgd-ce", 8, search="exact")[0] <= 8 * 101
    assert cost("fab", 1) == cost("fab", 8) == (201, 1000)
    assert cost("apgd-t", 1) == (9 * 101 + 1, 9 * 101)
    assert cost("fab-t", 8) == (1 + 9 * 202, 900)
    assert cost("square", 1, queries=500) == (501, 0)
    assert cost("fgsm@torchattacks", 8) == cost("fgsm@torchattacks", 8, search="exact")


def test_other_packages_add_attacks(monkeypatch):
    point = EntryPoint("theirs", "somewhere:spec", "metaeval.attacks")
    settings = {"steps": Setting(3, "", 1)}
    theirs = AttackSpec(
        "theirs", ("linf",), "fixed-epsilon", "m:f", "metaeval", "", lambda s, c: (1, 1), settings
    )
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == point.group else [])
    monkeypatch.setattr(EntryPoint, "load", lambda self: theirs)
    assert catalogue.names() == [*IDS, "theirs"]
    assert catalogue.get("theirs") is theirs
    monkeypatch.setattr(EntryPoint, "load", lambda self: "nonsense")
    with pytest.raises(UsageError, match="no AttackSpec"):
        catalogue.get("theirs")
