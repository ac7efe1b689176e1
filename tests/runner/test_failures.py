"""What goes wrong is said, stays where it is, and never becomes a number."""

from __future__ import annotations

import json
import os
import stat

import numpy as np
import pytest
import torch
from counted import Counted

import metaeval
from metaeval.runner.devices import choose_device, find_batch_size, with_shrinking_batch


def test_a_failed_task_is_failed_and_not_robust(counted: Counted) -> None:
    study = str(
        counted.write({"one": "", "two": "fail_when_attacked = true"}, attacks='["apgd-ce", "square"]')
    )
    result = counted.metaeval("run", study, expect=3)
    assert "this model refuses gradients" in result.stderr
    assert (counted.folder / "reports/counted/report.html").exists()
    linf = metaeval.open_cube(counted.folder / "reports" / "counted")["linf"].to_dataset()
    assert linf.status.flag_meanings.split()[int(linf.status.sel(model="two", attack="apgd-ce"))] == "failed"
    assert "RuntimeError: this model refuses gradients" in str(
        linf.reason.sel(model="two", attack="apgd-ce").values
    )
    failed = linf.sel(model="two", attack=["apgd-ce", "worst-case"])
    assert failed.robust_accuracy.isnull().all()
    assert (failed.correct == -1).all()
    # Square needs no gradient: its column of the same model stands, as does all of the other model.
    assert linf.robust_accuracy.sel(model="two", attack="square").notnull().all()
    assert linf.robust_accuracy.sel(model="one").notnull().all()
    # The log says where it broke.
    log = (counted.folder / "reports/counted/log.jsonl").read_text()
    events = [json.loads(line) for line in log.splitlines()]
    assert any("refuses gradients" in event.get("traceback", "") for event in events)


def test_masked_gradients_are_flagged_in_the_cube_and_on_the_page(counted: Counted) -> None:
    """A step function hides its gradient: APGD finds nothing, Square does, and nobody calls that robust."""
    study = str(counted.write({"one": "", "two": "stairs = 8"}, attacks='["apgd-ce", "square"]'))
    counted.metaeval("run", study)
    linf = metaeval.open_cube(counted.folder / "reports" / "counted")["linf"].to_dataset()
    flags = linf.flags.sel(model="two")
    assert flags.sel(attack="apgd-ce", flag="zero_gradient") == 1
    assert flags.sel(attack="square", flag="only_black_box") > 0.3
    assert linf.flags.sel(model="one", attack="square", flag="only_black_box") < 0.1
    worst, square = (linf.correct.sel(model="two", attack=name) for name in ("worst-case", "square"))
    assert (worst <= square).all()
    page = (counted.folder / "reports/counted/report.html").read_text()
    assert "no attack with gradients broke" in page
    assert "gradients vanish" in page


def test_failed_tasks_are_tried_again(counted: Counted) -> None:
    study = str(counted.write({"one": "", "two": "fail_when_attacked = true"}))
    counted.metaeval("run", study, expect=3)
    (counted.folder / "repaired").touch()
    result = counted.metaeval("run", study)
    assert "1 tasks computed, 1 reused" in result.stdout
    linf = metaeval.open_cube(counted.folder / "reports" / "counted")["linf"].to_dataset()
    assert (linf.status == linf.status.flag_meanings.split().index("ok")).all()
    assert linf.robust_accuracy.notnull().all()


def test_a_model_that_cannot_be_loaded_fails_alone(counted: Counted) -> None:
    study = str(counted.write({"one": "", "two": ""}))
    counted.metaeval("check", study)
    state = (counted.folder / "one.safetensors").read_bytes()
    (counted.folder / "two.safetensors").write_bytes(state[: len(state) // 2])
    result = counted.metaeval("check", study, expect=2)
    assert "two.safetensors" in result.stderr
    assert "study.toml:" in result.stderr


def test_other_weights_are_another_column(counted: Counted) -> None:
    """A number of old weights is never shown for new ones."""
    study = str(counted.write({"one": "", "two": ""}))
    counted.metaeval("run", study)
    before = metaeval.open_cube(counted.folder / "reports" / "counted")["linf"].to_dataset().load()
    (counted.folder / "one.safetensors").write_bytes((counted.folder / "three.safetensors").read_bytes())
    counted.metaeval("run", study, "--only", "two/*")
    linf = metaeval.open_cube(counted.folder / "reports" / "counted")["linf"].to_dataset()
    assert linf.robust_accuracy.sel(model="one").isnull().all()
    np.testing.assert_array_equal(
        linf.robust_accuracy.sel(model="two"), before.robust_accuracy.sel(model="two")
    )
    result = counted.metaeval("run", study)
    assert "1 tasks computed, 1 reused" in result.stdout


def test_missing_weights_are_said_before_anything_runs(counted: Counted) -> None:
    study = str(counted.write({"one": "", "two": ""}))
    (counted.folder / "two.safetensors").unlink()
    for command in ("check", "plan", "run"):
        result = counted.metaeval(command, study, expect=4)
        assert "two.safetensors" in result.stderr
    assert not (counted.folder / "reports").exists()


def test_batches_shrink_when_memory_runs_out() -> None:
    seen: list[int] = []

    def work(size: int) -> int:
        seen.append(size)
        if size > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return size

    shrunk: list[int] = []
    assert with_shrinking_batch(work, 16, shrunk.append) == 2
    assert seen == [16, 8, 4, 2]
    assert shrunk == [8, 4, 2]
    with pytest.raises(MemoryError):
        with_shrinking_batch(lambda size: (_ for _ in ()).throw(MemoryError()), 4, shrunk.append)
    with pytest.raises(RuntimeError, match="shapes"):
        with_shrinking_batch(lambda size: (_ for _ in ()).throw(RuntimeError("shapes")), 4, shrunk.append)


def test_batch_size_follows_the_memory_of_the_model() -> None:
    small, cpu = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)), choose_device("cpu")
    assert find_batch_size(small, (1, 8, 8), cpu) == 1000
    wide = torch.nn.Sequential(*[torch.nn.Conv2d(3 if i == 0 else 256, 256, 3, padding=1) for i in range(12)])
    assert 1 <= find_batch_size(wide, (3, 32, 32), cpu) < 1000


def test_read_only_output_is_refused(counted: Counted) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    study = str(counted.write({"one": ""}))
    (counted.folder / "reports").mkdir()
    (counted.folder / "reports").chmod(stat.S_IRUSR | stat.S_IXUSR)
    counted.metaeval("run", study, expect=2)


def test_time_to_verify_is_counted_apart(counted: Counted) -> None:
    """The model sleeps at every pass, so time follows the batches that went through it."""
    study = str(counted.write({"one": "delay = 0.01"}, samples=20, attacks='["apgd-ce"]'))
    counted.metaeval("run", study)
    cost = metaeval.open_cube(counted.folder / "reports" / "counted")["cost"].to_dataset()
    seconds = cost.seconds.sel(model="one", norm="linf", attack="apgd-ce")
    verified = int(cost.forwards.sel(model="one", norm="linf", attack="apgd-ce", stage="verification"))
    assert float(seconds.sel(stage="verification")) >= 0.01 * verified / 32
    assert float(seconds.sel(stage="attack")) > float(seconds.sel(stage="verification"))
