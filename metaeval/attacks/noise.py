"""Random numbers that depend on a sample's key alone, never on its batch, its order or the device.

Counter-based: number `e` of draw `counter` is a hash of (key, counter, e), here SplitMix64 (Steele, Lea and
Flood 2014), computed for all samples at once in wrapping int64. Integers and uniforms are exact integer
arithmetic; normals use +, *, /, sqrt of float64 only, which IEEE 754 fixes to the last bit, so that a CPU
and a GPU draw the same numbers.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor


def _signed(value: int) -> int:
    """Return the int64 with the bits of an unsigned 64-bit number."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


_INCREMENT = _signed(0x9E3779B97F4A7C15)
_MULTIPLIERS = (_signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB))

# Rational approximations of the normal quantile (Wichura 1988, algorithm AS 241, PPND16), highest power
# first: |p - 1/2| <= 0.425, then by r = sqrt(-log p) below and above 5. Relative error about 1e-16.
_CENTRE = (
    (2.5090809287301226727e3, 3.3430575583588128105e4, 6.7265770927008700853e4, 4.5921953931549871457e4,
     1.3731693765509461125e4, 1.9715909503065514427e3, 1.3314166789178437745e2, 3.3871328727963666080e0),
    (5.2264952788528545610e3, 2.8729085735721942674e4, 3.9307895800092710610e4, 2.1213794301586595867e4,
     5.3941960214247511077e3, 6.8718700749205790830e2, 4.2313330701600911252e1, 1.0),
)  # fmt: skip
_NEAR_TAIL = (
    (7.74545014278341407640e-4, 2.27238449892691845833e-2, 2.41780725177450611770e-1,
     1.27045825245236838258e0,
     3.64784832476320460504e0, 5.76949722146069140550e0, 4.63033784615654529590e0, 1.42343711074968357734e0),
    (1.05075007164441684324e-9, 5.47593808499534494600e-4, 1.51986665636164571966e-2,
     1.48103976427480074590e-1,
     6.89767334985100004550e-1, 1.67638483018380384940e0, 2.05319162663775882187e0, 1.0),
)  # fmt: skip
_FAR_TAIL = (
    (2.01033439929228813265e-7, 2.71155556874348757815e-5, 1.24266094738807843860e-3,
     2.65321895265761230930e-2,
     2.96560571828504891230e-1, 1.78482653991729133580e0, 5.46378491116411436990e0, 6.65790464350110377720e0),
    (2.04426310338993978564e-15, 1.42151175831644588870e-7, 1.84631831751005468180e-5,
     7.86869131145613259100e-4,
     1.48753612908506148525e-2, 1.36929880922735805310e-1, 5.99832206555887937690e-1, 1.0),
)  # fmt: skip


def sample_keys(seed: int, hashes: Sequence[str], epsilons: Iterable[float]) -> Tensor:
    """Return one key per cell from the seed, the sample's content hash and the epsilon.

    Parameters
    ----------
    seed : int
        The study's seed.
    hashes : sequence of str
        Content hash of each sample.
    epsilons : iterable of float
        Radius of each sample, in any float type; its float64 value counts.

    Returns
    -------
    Tensor
        int64 (n,) on the CPU.
    """
    keys = [
        int.from_bytes(
            hashlib.blake2b(f"{seed}:{content}:{float(epsilon).hex()}".encode(), digest_size=8).digest(),
            "little",
            signed=True,
        )
        for content, epsilon in zip(hashes, epsilons, strict=True)
    ]
    return torch.tensor(keys, dtype=torch.int64)


def derive(keys: Tensor, index: int) -> Tensor:
    """Return the keys of stream `index` of each key: one per restart, target or draw.

    Parameters
    ----------
    keys : Tensor
        int64 (n,).
    index : int
        Not negative.
    """
    constant = int(_mix(torch.tensor(index + 1, dtype=torch.int64) * _INCREMENT))  # On the CPU: no waiting.
    return _mix(keys ^ constant)


def uniform(keys: Tensor, counter: int, shape: Sequence[int] = ()) -> Tensor:
    """Return float32 numbers (n, \\*shape), uniform on the multiples of 2^-24 in [0, 1).

    Parameters
    ----------
    keys : Tensor
        int64 (n,), one per sample; the numbers come on its device.
    counter : int
        Number of the draw within the key's stream, from 0; equal counters give equal numbers.
    shape : sequence of int
        Shape of one sample's numbers.
    """
    bits = _shift(_bits(keys, counter, shape), 40)
    return bits.to(torch.float32).mul_(2.0**-24)


def integers(keys: Tensor, counter: int, high: int | Tensor, shape: Sequence[int] = ()) -> Tensor:
    """Return int64 numbers (n, \\*shape) in 0 .. high - 1, their bias below high / 2^32.

    Parameters
    ----------
    keys, counter, shape
        As in `uniform`.
    high : int or Tensor
        At least 1, below 2^31; a tensor must broadcast against (n, \\*shape).
    """
    return _shift(_shift(_bits(keys, counter, shape), 32).mul_(high), 32)


def normal(keys: Tensor, counter: int, shape: Sequence[int] = ()) -> Tensor:
    """Return float32 standard normal numbers (n, \\*shape), by the quantile of a 52-bit uniform.

    Parameters
    ----------
    keys, counter, shape
        As in `uniform`.
    """
    p = _shift(_bits(keys, counter, shape), 12).to(torch.float64).add_(0.5).mul_(2.0**-52)
    q = p - 0.5
    centre = q * _ratio(_CENTRE, 0.180625 - q * q)
    r = (-_log(torch.minimum(p, 1.0 - p))).sqrt_()
    tail = torch.where(r <= 5.0, _ratio(_NEAR_TAIL, r - 1.6), _ratio(_FAR_TAIL, r - 5.0))
    return torch.where(q.abs() <= 0.425, centre, tail.copysign(q)).to(torch.float32)


def _bits(keys: Tensor, counter: int, shape: Sequence[int]) -> Tensor:
    return splitmix64(derive(keys, counter), math.prod(shape)).reshape(len(keys), *shape)


def splitmix64(states: Tensor, count: int) -> Tensor:
    """Return the first `count` outputs of SplitMix64 from each state: int64 (n, count)."""
    steps = torch.arange(1, count + 1, dtype=torch.int64, device=states.device) * _INCREMENT
    return _mix(states[:, None] + steps)


def _mix(z: Tensor) -> Tensor:
    z = (z ^ _shift(z, 30)).mul_(_MULTIPLIERS[0])
    z = (z ^ _shift(z, 27)).mul_(_MULTIPLIERS[1])
    return z ^ _shift(z, 31)


def _shift(z: Tensor, count: int) -> Tensor:
    """Shift right, zeros in: torch's own shift of int64 repeats the sign bit."""
    return (z >> count).bitwise_and_((1 << (64 - count)) - 1)


def _ratio(coefficients: tuple[tuple[float, ...], tuple[float, ...]], x: Tensor) -> Tensor:
    return _polynomial(coefficients[0], x).div_(_polynomial(coefficients[1], x))


def _polynomial(coefficients: Sequence[float], x: Tensor) -> Tensor:
    value = torch.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        value.mul_(x).add_(coefficient)
    return value


def _log(x: Tensor) -> Tensor:
    """Natural logarithm of normal float64 numbers; libraries' own differ in the last bit between devices."""
    mantissa, exponent = torch.frexp(x)
    low = mantissa < math.sqrt(0.5)
    mantissa = torch.where(low, 2.0 * mantissa, mantissa)
    exponent = exponent - low.to(exponent.dtype)
    s = (mantissa - 1.0) / (mantissa + 1.0)  # log(mantissa) = 2 atanh(s), |s| < 0.172
    series = _polynomial([1.0 / k for k in range(21, 0, -2)], s * s)
    return exponent.to(torch.float64).mul_(math.log(2.0)).add_(series.mul_(s).mul_(2.0))
