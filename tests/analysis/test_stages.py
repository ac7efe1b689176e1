"""The stage table against the published one and by hand."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from metaeval.analysis import stages
from metaeval.errors import UsageError

TABLE = Path(os.environ["METAEVAL_SHARED_DATA"]) / "robustbench_2023_stages.csv"
NAMES = ["clean", "apgd-ce", "apgd-dlr", "fab"]


@pytest.mark.skipif(not TABLE.exists(), reason="shared data are not here")
def test_published_stages() -> None:
    frame = pd.read_csv(TABLE)
    models = list(dict.fromkeys(frame["model"]))
    accuracy = frame["accuracy_percent"].to_numpy().reshape(5, 4) / 100
    minutes = frame["minutes_as_printed"].to_numpy().reshape(5, 4)
    found = stages.table(accuracy, minutes, models, NAMES).set_index(["model", "stage"])
    peng = found.loc["Peng2023Robust"]
    assert (100 * peng["delta"]).round(2).tolist()[1:] == [-19.6, -2.33, 0.0]
    assert np.isnan(peng["delta"].iloc[0])
    assert peng["minutes"].tolist()[1:] == [14, 25, 211]
    by_pandas = frame.groupby("model")["accuracy_percent"].diff() / 100
    np.testing.assert_allclose(found["delta"], by_pandas)


def test_refusals() -> None:
    with pytest.raises(UsageError, match="accuracy of m rises from a to b"):
        stages.table([[0.5, 0.6]], [[1, 1]], ["m"], ["a", "b"])
    with pytest.raises(UsageError, match="need 1 models x 2"):
        stages.table([[0.5]], [[1, 1]], ["m"], ["a", "b"])
