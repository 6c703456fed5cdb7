"""What `SampleStreams` draws, made on the device of a tensor: only the samples' ids travel there.

B = samples of a batch, N = numbers drawn for each
"""

from __future__ import annotations

import numpy as np

from pipeline.core.randomness import SampleStreams
from pipeline.methods.lazy import torch


def uniform_on(device: torch.device, streams: SampleStreams, size: int, *, draw: int = 0) -> torch.Tensor:
    """(B, size) numbers in [0, 1), float64: bit for bit those of `SampleStreams.uniform`, on any device."""
    return _shifted(_bits(device, streams, size, draw=draw), 11).double() * 2.0**-53


def normal_on(device: torch.device, streams: SampleStreams, size: int, *, draw: int = 0) -> torch.Tensor:
    """(B, size) standard normal numbers, float32: those of `SampleStreams.normal` up to the rounding of logarithm, cosine and sine."""
    pairs = size - size // 2
    halves_B2N = _bits(device, streams, pairs, draw=draw).view(torch.int32).view(len(streams.sample_ids_B), 2, pairs).float()
    share_BN, angle_BN = halves_B2N.unbind(1)
    radius_BN = share_BN.mul_(2.0**-32).add_(0.5).clamp_min_(2.0**-33).log_().mul_(-2.0).sqrt_()
    angle_BN.mul_(torch.pi * 2.0**-31)
    return torch.cat([radius_BN * angle_BN.cos(), radius_BN * angle_BN.sin()], dim=1)[:, :size]


def _bits(device: torch.device, streams: SampleStreams, size: int, *, draw: int) -> torch.Tensor:
    """(B, size) int64 words of 64 random bits."""
    low, high = (_signed(word) for word in streams.words(draw))
    ids_B = torch.from_numpy(np.array(streams.sample_ids_B, dtype=np.int64)).to(device)
    numbers_N = torch.arange(1, size + 1, device=device)
    return _mix(_mix(ids_B ^ low)[:, None] ^ _mix((numbers_N * _signed(0x9E3779B97F4A7C15)) ^ high))


def _signed(word: int) -> int:
    """The int64 with the bits of a uint64; torch has no arithmetic on uint64, and that of int64 wraps around to the same bits."""
    return word - (word >> 63 << 64)


def _shifted(bits: torch.Tensor, places: int) -> torch.Tensor:
    """Shifted right with zeros moved in: >> of an int64 would copy its sign."""
    return (bits >> places).bitwise_and_((1 << (64 - places)) - 1)


def _mix(bits: torch.Tensor) -> torch.Tensor:
    """See `pipeline.core.randomness._mix`."""
    bits = (bits ^ _shifted(bits, 30)).mul_(_signed(0xBF58476D1CE4E5B9))
    bits = _shifted(bits, 27).bitwise_xor_(bits).mul_(_signed(0x94D049BB133111EB))
    return _shifted(bits, 31).bitwise_xor_(bits)
