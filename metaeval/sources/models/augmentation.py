"""Augmentation: flips and crops that the seed, the epoch and the sample decide, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import pad

PADDING = 4  # pixels at each side, the standard for images of 32 x 32 (He et al. 2016)
SHARE = 8  # smaller images are padded by so many-th of their shorter side


def padding_of(shape: tuple[int, ...]) -> int:
    """Return by how many pixels an image (channels, height, width) is padded: 4, less below 32 x 32."""
    return max(1, min(PADDING, min(shape[1:]) // SHARE))


@dataclass(frozen=True)
class Augmentation:
    """What happens to each sample in one epoch.

    Attributes
    ----------
    flips : bool tensor (n,), optional
        Which images are mirrored.
    offsets : int64 tensor (n, 2), optional
        Row and column in the padded image where the crop starts.
    """

    flips: torch.Tensor | None
    offsets: torch.Tensor | None
    padding: int

    def apply(self, x: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """Return the augmented images (k, channels, height, width) of the samples `chosen` (k,).

        Parameters
        ----------
        x : tensor
            Their images, on any device.
        chosen : int64 tensor
            Which samples they are, on the CPU.
        """
        if self.flips is not None:
            flips = self.flips[chosen].to(x.device)
            x = torch.where(flips.view(-1, 1, 1, 1), x.flip(-1), x)
        if self.offsets is not None:
            offsets = self.offsets[chosen].to(x.device)
            height, width = x.shape[2:]
            rows = offsets[:, :1] + torch.arange(height, device=x.device)
            columns = offsets[:, 1:] + torch.arange(width, device=x.device)
            sample = torch.arange(len(x), device=x.device)[:, None, None]
            # Indices around a slice put the sliced axis (channels) last.
            cut = pad(x, (self.padding,) * 4)[sample, :, rows[:, :, None], columns[:, None, :]]
            x = cut.permute(0, 3, 1, 2).contiguous()
        return x


def draw(name: str, samples: int, shape: tuple[int, ...], seed: int) -> Augmentation | None:
    """Return the augmentation of one epoch, drawn for all samples at once; None for ``none``.

    Parameters
    ----------
    name : str
        ``none``, ``flip`` (a mirror image with probability 1/2), ``crop`` (out of the image with a frame of
        zeros, at a random place) or ``flip+crop``.
    samples, shape
        Number of samples and shape (channels, height, width) of one.
    seed : int
        Of this epoch.
    """
    if name == "none":
        return None
    parts = name.split("+")
    generator = torch.Generator().manual_seed(seed)
    # Both are always drawn: whether images are cropped does not change which are mirrored.
    flips = torch.rand(samples, generator=generator) < 0.5
    padding = padding_of(shape)
    offsets = torch.randint(0, 2 * padding + 1, (samples, 2), generator=generator)
    return Augmentation(flips if "flip" in parts else None, offsets if "crop" in parts else None, padding)
