"""What `SampleStreams` draws, made on the device of a tensor: only the samples' ids travel there.

B = samples of a batch, N = numbers drawn for each
"""

from __future__ import annotations

import numpy as np

from pipeline.core.randomness import SampleStreams
from pipeline.methods.lazy import torch


def uniform_on(device: torch.device, streams: SampleStreams, size: int, *, draw: int = 0) -> torch.Tensor:
    """(B, size) numbers in [0, 1), float64: bit for bit those of `SampleStreams.uniform`, on any device."""
    low, high = (_signed(word) for word in streams.words(draw))
    ids_B = torch.from_numpy(np.array(streams.sample_ids_B, dtype=np.int64)).to(device)
    numbers_N = torch.arange(1, size + 1, device=device)
    bits_BN = _mix(_mix(ids_B ^ low)[:, None] ^ _mix((numbers_N * _signed(0x9E3779B97F4A7C15)) ^ high))
    return _shifted(bits_BN, 11).double() * 2.0**-53


def normal_on(device: torch.device, streams: SampleStreams, size: int, *, draw: int = 0) -> torch.Tensor:
    """(B, size) standard normal numbers, float64: those of `SampleStreams.normal` up to the rounding of logarithm, cosine and sine."""
    first_BN, second_BN = uniform_on(device, streams, size + size % 2, draw=draw).chunk(2, dim=1)
    radius_BN, angle_BN = torch.sqrt(-2.0 * torch.log1p(-first_BN)), 2.0 * torch.pi * second_BN
    return torch.cat([radius_BN * torch.cos(angle_BN), radius_BN * torch.sin(angle_BN)], dim=1)[:, :size]


def _signed(word: int) -> int:
    """The int64 with the bits of a uint64; torch has no arithmetic on uint64, and that of int64 wraps around to the same bits."""
    return word - (word >> 63 << 64)


def _shifted(bits: torch.Tensor, places: int) -> torch.Tensor:
    """Shifted right with zeros moved in: >> of an int64 would copy its sign."""
    return (bits >> places) & ((1 << (64 - places)) - 1)


def _mix(bits: torch.Tensor) -> torch.Tensor:
    """See `pipeline.core.randomness._mix`."""
    bits = (bits ^ _shifted(bits, 30)) * _signed(0xBF58476D1CE4E5B9)
    bits = (bits ^ _shifted(bits, 27)) * _signed(0x94D049BB133111EB)
    return bits ^ _shifted(bits, 31)
