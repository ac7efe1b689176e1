"""A process that writes columns is killed at random moments: what its records say done is done."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from metaeval.cube.aggregate import rebuild
from metaeval.cube.counts import UNKNOWN
from metaeval.cube.opening import open_cube
from metaeval.cube.selection import NormSelection, Selection
from metaeval.cube.store import CubeStore
from metaeval.cube.verify import verify

KILLS = 20

# Every column's values follow from its seed, and its identity names the seed.
WRITER = """
import sys
sys.path.insert(0, sys.argv[2])
from cube_builder import build_store, random_column, EPSILONS
from metaeval.cube.store import CubeStore

turn = int(sys.argv[3])
store = build_store(sys.argv[1])
print("ready", flush=True)
for seed in range(turn * 1000, turn * 1000 + 1000):
    if seed % 7 == 0:
        store.ensure_models([f"late {turn}"])
    model, attack = ("first", "second")[seed % 2], ("apgd-ce", "square")[seed // 2 % 2]
    shard = seed // 4 % 2
    rows = store.rows(shard)
    column = random_column(store, "linf", rows.stop - rows.start, seed)
    store.write_column(model, "linf", attack, shard, column, identity=str(seed), settings={})
"""


def test_records_hold_after_kills(tmp_path: Path) -> None:
    from cube_builder import random_column

    rng = random.Random(0)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    written = 0
    for turn in range(KILLS):
        command = [sys.executable, "-c", WRITER, str(tmp_path / "out"), str(Path(__file__).parent), str(turn)]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            time.sleep(rng.uniform(0, 0.25))
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        store = CubeStore.open_or_create(tmp_path / "out")
        assert [finding for finding in verify(tmp_path / "out") if finding.kind == "error"] == []
        for model in ("first", "second"):
            for attack in ("apgd-ce", "square"):
                for shard in (0, 1):
                    record = store.record(model, "linf", attack, shard)
                    if record is None:
                        continue
                    written += 1
                    stored = store.read_column(model, "linf", attack, shard, record.identity)
                    assert stored is not None
                    rows = store.rows(shard)
                    expected = random_column(store, "linf", rows.stop - rows.start, int(record.identity))
                    assert np.array_equal(stored.column.distance, expected.distance)
                    assert np.array_equal(stored.column.cell, expected.cell)
    assert written > 3 * KILLS
    # Shards of different identities are no column, and nothing in progress is published.
    rebuild(
        store, Selection(("first", "second"), 1200, {"linf": NormSelection(("apgd-ce", "square"), (0.0,))})
    )
    linf = open_cube(tmp_path / "out")["linf"]
    assert (linf["correct"].values == UNKNOWN).all()
    assert np.isnan(linf["robust_accuracy"].values).all()
