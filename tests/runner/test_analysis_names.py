"""Names in ``[analysis]`` that the study does not have are found before anything runs."""

from __future__ import annotations

import pytest
from counted import Counted

import metaeval
from metaeval.errors import StudyError
from metaeval.runner.prepare import prepare


def test_what_the_analysis_names_must_be_in_the_study(counted: Counted) -> None:
    study = counted.write({"one": "", "two": ""})
    text = study.read_text()
    study.write_text(
        text + '\n[analysis]\nmodels = ["on?", "tow"]\nclasses = ["7", "ten"]\nattacks = ["apgd"]\n'
    )
    with pytest.raises(StudyError) as raised:
        prepare(metaeval.load_study(study))
    said = str(raised.value)
    assert "analysis.models[1]: no model of the study is called 'tow'; there are one, two" in said
    assert "did you mean 'two'?" in said
    assert "analysis.classes[1]: no class of the study is called 'ten'" in said
    assert "analysis.attacks[0]: no attack of the study is called 'apgd'" in said
    study.write_text(text + '\n[analysis]\nmodels = ["t*"]\nclasses = ["7", "8"]\n')
    assert len(prepare(metaeval.load_study(study)).entries) == 2
