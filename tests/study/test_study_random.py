"""Random changes to studies: whatever the document, it loads or is explained."""

from __future__ import annotations

import copy
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from study_files import DESIGN, MINIMAL, NPZ

from metaeval.errors import StudyError
from metaeval.study import json_schema, load_study

anything = st.recursive(
    st.one_of(
        st.none().map(lambda _: "8/255"),
        st.integers(-3, 300),
        st.floats(),
        st.booleans(),
        st.text(max_size=6),
        st.sampled_from(["linf", "train", "all", "npz", "digits", "0:1:3", "checkpoint", "${X_Y_Z}", "1/0"]),
        st.dates(),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["source", "name", "depth", "x"]), inner, max_size=3),
    ),
    max_leaves=5,
)


def containers(value: Any) -> list[Any]:
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    return ([value] if inner else []) + [deep for item in inner for deep in containers(item)]


SCHEMA = Draft202012Validator(json_schema())


def explain(error: StudyError) -> None:
    """Assert that what is said is sorted, says each thing once, and in nobody's voice but ours."""
    places = [(problem.line, problem.column) for problem in error.problems]
    assert places == sorted(places)
    assert len({problem.key for problem in error.problems}) == len(error.problems)
    for problem in error.problems:
        # Neither pydantic's words nor Python's.
        assert not re.search(r"Input should|valid|None|NoneType|<class|instance", problem.message)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_document_loads_or_is_explained(tmp_path: Path, data: st.DataObject) -> None:
    document = copy.deepcopy(tomllib.loads(data.draw(st.sampled_from([DESIGN, MINIMAL, NPZ]))))
    for _ in range(data.draw(st.integers(1, 4))):
        container = data.draw(st.sampled_from(containers(document)))
        keys = list(container) if isinstance(container, dict) else list(range(len(container)))
        key = data.draw(st.sampled_from(keys))
        change = data.draw(st.sampled_from(["replace", "replace", "remove", "add"]))
        if change == "replace":
            container[key] = data.draw(anything)
        elif change == "remove":
            del container[key]
        elif isinstance(container, dict):
            container[data.draw(st.text(max_size=4))] = data.draw(anything)
        if not document or not containers(document):
            break
    path = tmp_path / "study.toml"
    path.write_bytes(tomli_w.dumps(document).encode())
    try:
        study = load_study(path)
    except StudyError as error:
        explain(error)
    else:
        json.dumps(study.to_dict(), allow_nan=False)
        assert list(SCHEMA.iter_errors(document)) == []
