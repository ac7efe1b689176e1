"""Per-sample random numbers: their distribution, independent streams, nothing owed to the batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from metaeval.attacks import noise

HASHES = [f"{k:032x}" for k in range(200)]


@pytest.fixture(scope="module")
def keys() -> torch.Tensor:
    return noise.sample_keys(0, HASHES, [8 / 255] * len(HASHES))


def test_splitmix64_gives_the_reference_outputs() -> None:
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    found = noise.splitmix64(torch.tensor([1234567]), 4).numpy().view(np.uint64)[0]
    assert found.tolist() == expected


def test_keys_depend_on_seed_content_and_the_exact_epsilon() -> None:
    cells = [(0, "a", 0.1), (1, "a", 0.1), (0, "b", 0.1), (0, "a", np.nextafter(0.1, 1)), (0, "a", 0.1)]
    keys = [noise.sample_keys(seed, [content], [epsilon]).item() for seed, content, epsilon in cells]
    assert len(set(keys[:4])) == 4
    assert keys[4] == keys[0]


def _mix(z: int) -> int:
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


def test_numbers_follow_their_definition_in_plain_integers() -> None:
    golden, key, counter = 0x9E3779B97F4A7C15, -987654321987654321, 3
    stream = _mix(key % 2**64 ^ _mix((counter + 1) * golden % 2**64))
    bits = [_mix((stream + (e + 1) * golden) % 2**64) for e in range(6)]
    keys = torch.tensor([key])
    assert noise.uniform(keys, counter, (2, 3)).flatten().tolist() == [
        b / 2**64 // 2**-24 * 2**-24 for b in bits
    ]
    assert noise.integers(keys, counter, 29, (6,))[0].tolist() == [(b >> 32) * 29 >> 32 for b in bits]


def test_numbers_are_fixed_for_ever() -> None:
    # Cubes are continued years later: these values may never change.
    assert noise.sample_keys(7, ["00ff"], [8 / 255]).tolist() == [4753863582560089016]
    keys = torch.tensor([1])
    assert noise.uniform(keys, 0, (2,)).tolist() == [[0.5225540399551392, 0.2864190340042114]]
    assert noise.integers(keys, 1, 1000, (3,)).tolist() == [[401, 782, 134]]
    assert noise.normal(keys, 2, (2,)).tolist() == [[1.3460190296173096, -0.1989748626947403]]


@pytest.mark.parametrize("draw", ["uniform", "normal", "integers"])
def test_batch_and_order_do_not_matter(keys: torch.Tensor, draw: str) -> None:
    def numbers(k: torch.Tensor) -> torch.Tensor:
        if draw == "integers":
            return noise.integers(k, 3, 29, (3, 5))
        return getattr(noise, draw)(k, 3, (3, 5))

    together = numbers(keys)
    assert together.shape == (200, 3, 5)
    assert torch.equal(torch.cat([numbers(keys[k : k + 1]) for k in range(200)]), together)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    assert torch.equal(numbers(keys[order]), together[order])


def test_uniform_numbers_are_uniform_and_in_range(keys: torch.Tensor) -> None:
    u = noise.uniform(keys, 0, (1000,))
    assert u.dtype == torch.float32
    assert u.min() >= 0
    assert u.max() < 1
    assert stats.kstest(u.flatten().numpy(), "uniform").pvalue > 1e-3
    within = [stats.kstest(row.numpy(), "uniform").pvalue for row in u]
    assert stats.kstest(within, "uniform").pvalue > 1e-3
    across = [stats.kstest(column.numpy(), "uniform").pvalue for column in u.T]
    assert stats.kstest(across, "uniform").pvalue > 1e-3


def test_normal_numbers_are_normal(keys: torch.Tensor) -> None:
    z = noise.normal(keys, 0, (1000,))
    assert z.dtype == torch.float32
    assert stats.kstest(z.flatten().numpy(), "norm").pvalue > 1e-3
    assert abs(stats.kurtosis(z.flatten().numpy())) < 5 * np.sqrt(24 / z.numel())
    assert 4 < z.abs().max() < 6


def test_normal_quantile_equals_scipys(monkeypatch: pytest.MonkeyPatch) -> None:
    top = np.arange(0, 2**52, 2**40 + 12345, dtype=np.int64)
    extreme = np.array([0, 1, 10**3, 10**6, 2**52 - 1, 2**51], dtype=np.int64)
    k = np.concatenate([top, extreme])
    monkeypatch.setattr(noise, "_bits", lambda keys, counter, shape: torch.from_numpy(k << 12)[None])
    expected = stats.norm.ppf((k + 0.5) * 2.0**-52)
    found = noise.normal(torch.zeros(1, dtype=torch.int64), 0, k.shape)[0].numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-12)


def test_logarithm_equals_numpys() -> None:
    x = torch.from_numpy(np.geomspace(1e-17, 0.5, 10_001))
    np.testing.assert_allclose(noise._log(x).numpy(), np.log(x.numpy()), rtol=4e-16)


def test_integers_are_uniform_below_their_bounds(keys: torch.Tensor) -> None:
    high = torch.tensor([1, 2, 7, 25])
    numbers = noise.integers(keys, 0, high, (500, 4))
    for column, bound in enumerate(high.tolist()):
        counts = np.bincount(numbers[..., column].flatten().numpy(), minlength=bound)
        assert len(counts) == bound
        if bound > 1:
            assert stats.chisquare(counts).pvalue > 1e-3


def test_streams_are_independent(keys: torch.Tensor) -> None:
    streams = {
        "first draw": noise.uniform(keys, 0, (500,)),
        "second draw": noise.uniform(keys, 1, (500,)),
        "first restart": noise.uniform(noise.derive(keys, 0), 0, (500,)),
        "second restart": noise.uniform(noise.derive(keys, 1), 0, (500,)),
        "other seed": noise.uniform(noise.sample_keys(1, HASHES, [8 / 255] * 200), 0, (500,)),
        "other epsilon": noise.uniform(noise.sample_keys(0, HASHES, [7 / 255] * 200), 0, (500,)),
        "next sample": noise.uniform(keys.roll(1), 0, (500,)),
        "shifted": noise.uniform(keys, 0, (501,))[:, 1:],
    }
    values = np.stack([stream.flatten().numpy() for stream in streams.values()])
    correlations = np.corrcoef(values)[np.triu_indices(len(values), 1)]
    assert np.abs(correlations).max() < 5 / np.sqrt(values.shape[1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_draws_the_same_numbers(keys: torch.Tensor) -> None:
    cuda = keys.cuda()
    assert torch.equal(noise.uniform(keys, 5, (1000,)), noise.uniform(cuda, 5, (1000,)).cpu())
    assert torch.equal(noise.normal(keys, 5, (10_000,)), noise.normal(cuda, 5, (10_000,)).cpu())
    assert torch.equal(noise.integers(keys, 5, 999, (1000,)), noise.integers(cuda, 5, 999, (1000,)).cpu())
