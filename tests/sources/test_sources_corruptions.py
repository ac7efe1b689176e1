"""Generated corruptions against closed forms, other code and themselves."""

from __future__ import annotations

import colorsys
import io
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from metaeval.hashing import hash_samples
from metaeval.sources.shifts import blur, weather
from metaeval.sources.shifts.corruptions import SEVERITIES, TABLE, corrupt, scale, unfit
from metaeval.sources.shifts.digital import pixelate
from metaeval.study.shift_inputs import CORRUPTIONS

STEP = 1 / 255  # published images are cut off to 8 bits
NAMES = list(TABLE)


def images(n: int, channels: int = 3, side: int = 32, seed: int = 0) -> np.ndarray:
    """Return smooth 8-bit images, unlike noise not at home in any corruption."""
    rng = np.random.default_rng(seed)
    x = ndimage.gaussian_filter(rng.normal(size=(n, channels, side, side)), (0, 0, 3, 3), mode="wrap")
    x = (x - x.min()) / (x.max() - x.min())
    return np.asarray(np.rint(x * 255).astype(np.float32) / np.float32(255))


def flat(value: float, n: int = 1, channels: int = 3, side: int = 32) -> np.ndarray:
    return np.full((n, channels, side, side), np.float32(value), dtype=np.float32)


def done(x: np.ndarray, name: str, severity: int, seed: int = 0) -> np.ndarray:
    return corrupt(x, name, severity, hash_samples(x), seed)


def drawn(x: np.ndarray, name: str, severity: int) -> np.ndarray:
    """Return corruptions of equal images as if they were different ones, in double precision."""
    return corrupt(x, name, severity, [str(row) for row in range(len(x))]).astype(np.float64)


def test_the_names_are_those_of_the_study_grammar() -> None:
    assert tuple(TABLE) == CORRUPTIONS
    assert all(len(small) == len(large) == 5 for _, small, large in TABLE.values())


@pytest.mark.parametrize("name", NAMES)
def test_an_image_s_corruption_depends_on_nothing_else(name: str) -> None:
    x = images(5)
    whole = done(x, name, 3)
    assert whole.dtype == np.float32
    assert whole.shape == x.shape
    assert whole.min() >= 0
    assert whole.max() <= 1
    np.testing.assert_array_equal(np.rint(whole * 255) / np.float32(255), whole)
    order = [3, 0, 4]
    np.testing.assert_array_equal(done(x[order], name, 3), whole[order])
    np.testing.assert_array_equal(done(x[1:2], name, 3), whole[1:2])


@pytest.mark.parametrize("name", ["gaussian_noise", "snow", "elastic_transform", "fog"])
def test_the_seed_and_the_severity_decide_what_is_random(name: str) -> None:
    x = images(3)
    assert not np.array_equal(done(x, name, 2, seed=0), done(x, name, 2, seed=1))
    assert not np.array_equal(done(x, name, 2), done(x, name, 3))
    assert not np.array_equal(done(x, name, 2)[0], done(x[[1]], name, 2)[0])


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 8, 12), (3, 65, 65), (1, 4, 4)])
def test_small_grey_and_oblong_images(shape: tuple[int, ...]) -> None:
    assert unfit(shape) is None
    x = np.random.default_rng(1).random((2, *shape), dtype=np.float32)
    for name in NAMES:
        y = done(x, name, 5)
        assert y.shape == x.shape
        assert np.isfinite(y).all()
        assert not np.array_equal(y, x), name


def test_what_cannot_be_corrupted() -> None:
    assert "1 or 3 channels" in str(unfit((64,)))
    assert "1 or 3 channels" in str(unfit((4, 32, 32)))
    assert "3 x 9" in str(unfit((1, 3, 9)))
    assert scale((3, 32, 32)) == scale((1, 64, 64)) == "CIFAR-10-C"
    assert scale((3, 224, 224)) == "ImageNet-C"


# The accuracy of a network need not fall with every severity, and the distance need not grow for glass blur
# and elastic transform, whose settings trade strength for size (as in the published sets).
@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("glass_blur", "elastic_transform", "frost")])
def test_severities_are_in_order_on_average(name: str) -> None:
    x = images(20)
    distance = [float(np.abs(done(x, name, s) - x).mean()) for s in SEVERITIES]
    assert all(b > 0.95 * a for a, b in pairwise(distance))  # two severities of motion blur are nearly equal
    assert distance[-1] > 1.4 * distance[0] > 0


@pytest.mark.parametrize("severity", SEVERITIES)
def test_brightness_and_contrast_in_closed_form(severity: int) -> None:
    added = [0.05, 0.1, 0.15, 0.2, 0.3][severity - 1]
    np.testing.assert_allclose(done(flat(100 / 255), "brightness", severity), 100 / 255 + added, atol=STEP)
    np.testing.assert_array_equal(
        done(flat(0.0), "brightness", severity).max(), np.float32(int(added * 255 + 1e-6) / 255)
    )
    x = images(2)
    expected = [  # the standard library's conversion, pixel by pixel
        colorsys.hsv_to_rgb(h, s, min(v + added, 1))
        for h, s, v in (colorsys.rgb_to_hsv(*pixel) for pixel in x[0].reshape(3, -1).T.tolist())
    ]
    found = done(x, "brightness", severity)[0].reshape(3, -1).T
    np.testing.assert_allclose(found, np.array(expected), atol=STEP)
    kept = [0.75, 0.5, 0.4, 0.3, 0.15][severity - 1]
    np.testing.assert_array_equal(done(flat(0.2), "contrast", severity), flat(0.2))
    y = done(x, "contrast", severity).astype(np.float64)
    np.testing.assert_allclose(y.std(axis=(2, 3)), kept * x.std(axis=(2, 3)), atol=STEP)
    np.testing.assert_allclose(y.mean(axis=(2, 3)), x.mean(axis=(2, 3)), atol=STEP)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_noises_have_their_distributions(severity: int) -> None:
    x = flat(128 / 255, n=20)
    deviation = [0.04, 0.06, 0.08, 0.09, 0.1][severity - 1]
    noise = drawn(x, "gaussian_noise", severity) - 128 / 255 + STEP / 2
    n = noise.size
    assert abs(noise.mean()) < 5 * deviation / np.sqrt(n)
    assert abs(noise.std() / deviation - 1) < 5 / np.sqrt(2 * n) + 0.001
    photons = [500, 250, 100, 75, 50][severity - 1]
    shot = drawn(flat(64 / 255, n=20), "shot_noise", severity)
    assert abs(shot.var() / (64 / 255 / photons) - 1) < 0.03
    share = [0.01, 0.02, 0.03, 0.05, 0.07][severity - 1]
    impulse = drawn(x, "impulse_noise", severity)
    hit = np.abs(impulse - x) > STEP
    assert set(np.unique(impulse[hit])) == {0.0, 1.0}
    assert abs(hit.mean() - share) < 5 * np.sqrt(share / n)
    assert abs(impulse[hit].mean() - 0.5) < 5 * 0.5 / np.sqrt(hit.sum())


@pytest.mark.parametrize("name", ["defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "pixelate"])
def test_blurs_leave_flat_images_as_they_are(name: str) -> None:
    for severity in SEVERITIES:
        np.testing.assert_allclose(done(flat(0.4), name, severity), flat(0.4), atol=1.01 * STEP)


def test_a_disk_is_a_disk() -> None:
    for radius in (3, 8, 10):
        weights = blur.disk(radius, 0.1)
        places = np.arange(len(weights)) - len(weights) // 2
        inside = places[:, None] ** 2 + places[None] ** 2 <= radius**2
        np.testing.assert_allclose(weights, inside / inside.sum(), atol=1e-12)
    np.testing.assert_allclose(blur.disk(1.5, 0.1).sum(), 1)
    point = np.zeros((1, 1, 21, 21))
    point[..., 10, 10] = 1
    spread = blur.defocus_blur(point, [], 3, 0.1)[0, 0]
    assert spread[10, 13] == pytest.approx(1 / 29)  # a disk of radius 3 has 29 pixels
    assert spread[10, 14] == 0


def test_motion_runs_along_its_direction() -> None:
    point = np.zeros((1, 15, 15))
    point[0, 7, 7] = 1
    weights = np.exp(-(np.arange(7) ** 2) / 2)
    level = blur.along(point, 3, 1.0, 0)[0]
    np.testing.assert_allclose(level[7, 7::-1][:7], weights / weights.sum(), atol=1e-12)
    assert np.count_nonzero(level) == 7
    upright = blur.along(point, 3, 1.0, -90)[0]
    np.testing.assert_allclose(upright, level.T[::-1], atol=1e-12)


def test_pixelate_and_jpeg_by_hand() -> None:
    x = images(1, side=64)
    means = x.reshape(1, 3, 32, 2, 32, 2).mean(axis=(3, 5))
    found = pixelate(x.astype(np.float64), [], 0.5)
    np.testing.assert_allclose(found, means.repeat(2, axis=2).repeat(2, axis=3), atol=STEP)
    file = io.BytesIO()
    Image.fromarray(np.rint(x[0] * 255).astype(np.uint8).transpose(1, 2, 0)).save(file, "JPEG", quality=58)
    with Image.open(file) as image:
        expected = np.asarray(image).transpose(2, 0, 1) / np.float32(255)
    np.testing.assert_array_equal(done(x, "jpeg_compression", 3)[0], expected)


def test_glass_moves_pixels_and_loses_none() -> None:
    x = np.random.default_rng(0).permutation(32 * 32).reshape(1, 1, 32, 32) / 1023
    y = blur.glass_blur(x, [np.random.default_rng(1)], 1e-6, 2, 1)
    np.testing.assert_array_equal(np.sort(y.ravel()), np.sort(np.floor(x * 255).ravel() / 255))
    assert not np.array_equal(y, np.floor(x * 255) / 255)


def test_zoom_blur_of_a_ramp_has_its_slope() -> None:
    ramp = np.broadcast_to(np.linspace(0, 1, 32), (1, 1, 32, 32)).copy()
    factors = np.arange(1, 1.11, 0.01)
    slopes = np.diff(blur.zoom_blur(ramp, [], 1.11, 0.01)[0, 0, 16, 8:24]) * 31
    np.testing.assert_allclose(slopes.mean(), (1 + (1 / factors).sum()) / (len(factors) + 1), rtol=0.02)


def test_fog_frost_and_clouds() -> None:
    cloud = weather.plasma(np.random.default_rng(0), 32, 2.0)
    assert (cloud.min(), cloud.max()) == (0.0, 1.0)
    # Smoother with a larger decay: neighbours on a torus are nearer to each other.
    rough = [
        np.mean(
            [
                np.abs(np.diff(weather.plasma(np.random.default_rng(s), 32, d), axis=0)).mean()
                for s in range(20)
            ]
        )
        for d in (1.5, 2.0, 3.0)
    ]
    assert rough == sorted(rough, reverse=True)
    x = images(4)
    fogged = done(x, "fog", 5)
    assert fogged.max() <= x.max() + STEP
    assert fogged.std() < x.std()
    np.testing.assert_array_equal(done(flat(0.0), "fog", 5), flat(0.0))
    assert (done(x, "frost", 1) >= x - STEP).all()  # it only adds


def test_elastic_moves_values_and_makes_none() -> None:
    x = images(6)
    y = done(x, "elastic_transform", 4)
    assert y.max() <= x.max()
    assert y.min() >= x.min() - STEP
    np.testing.assert_allclose(done(flat(0.3), "elastic_transform", 5), flat(0.3), atol=1.01 * STEP)


def test_large_images_have_the_severities_of_imagenet_c() -> None:
    x = flat(128 / 255, n=2, side=80)
    noise = drawn(x, "gaussian_noise", 1) - 128 / 255
    assert noise.std() == pytest.approx(0.08, rel=0.02)
    np.testing.assert_allclose(done(x, "brightness", 2), 128 / 255 + 0.2, atol=STEP)
