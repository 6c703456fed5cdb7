"""Counter-based randomness: what is drawn depends on what it is drawn for, never on who draws it or in which order.

A stream is named by (seed, purpose, counters), the counters being round, epoch and the like, so that a resumed run and
any number of ranks draw the same numbers.

B = samples of a batch, N = numbers drawn for each
"""

import hashlib
import json
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray


def stream_key(seed: int, purpose: str, *counters: int) -> int:
    """128 bits that name one stream."""
    name = json.dumps([seed, purpose, *counters])
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "little")


def generator(seed: int, purpose: str, *counters: int) -> np.random.Generator:
    """A generator of its own for one stream (Philox, Salmon et al. 2011, doi:10.1145/2063384.2063405)."""
    return np.random.Generator(np.random.Philox(key=stream_key(seed, purpose, *counters)))


def _mix(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele et al. 2014, doi:10.1145/2660193.2660195)."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleStreams:
    """One stream for each sample of a batch: what sample i draws depends on its id and the stream's name alone."""

    sample_ids_B: NDArray[np.int64]
    seed: int
    purpose: str
    counters: tuple[int, ...] = ()

    def uniform(self, size: int, *, draw: int = 0) -> NDArray[np.float64]:
        """(B, size) numbers in [0, 1); another `draw` gives other numbers."""
        return (self._bits(size, draw=draw) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def normal(self, size: int, *, draw: int = 0) -> NDArray[np.float32]:
        """(B, size) standard normal numbers, two from the halves of each 64 bits (Box and Muller 1958); none is above 6.8 in size."""
        pairs = size - size // 2
        halves_B2N = self._bits(pairs, draw=draw).astype("<u8").view("<i4").reshape(len(self.sample_ids_B), 2, pairs).astype(np.float32)
        # In (0, 1], of which no logarithm is infinite.
        share_BN = np.maximum(halves_B2N[:, 0] * np.float32(2.0**-32) + np.float32(0.5), np.float32(2.0**-33))
        radius_BN, angle_BN = np.sqrt(np.float32(-2.0) * np.log(share_BN)), halves_B2N[:, 1] * np.float32(np.pi * 2.0**-31)
        return np.concatenate([radius_BN * np.cos(angle_BN), radius_BN * np.sin(angle_BN)], axis=1)[:, :size]

    def _bits(self, size: int, *, draw: int) -> NDArray[np.uint64]:
        """(B, size) words of 64 random bits."""
        low, high = map(np.uint64, self.words(draw))
        ids_B1 = _mix(np.asarray(self.sample_ids_B, dtype=np.int64).astype(np.uint64)[:, None] ^ low)
        draws_1N = _mix(np.arange(1, size + 1, dtype=np.uint64)[None, :] * np.uint64(0x9E3779B97F4A7C15) ^ high)
        return _mix(ids_B1 ^ draws_1N)

    def words(self, draw: int) -> tuple[int, int]:
        """The two halves, 64 bits each, of the name of one draw."""
        key = stream_key(self.seed, self.purpose, *self.counters, draw)
        return key & 0xFFFFFFFFFFFFFFFF, key >> 64

    def named(self, part: str) -> "SampleStreams":
        """Other streams of the same samples, such as those of `baseline` beside those of `noise`."""
        return replace(self, purpose=f"{self.purpose}.{part}")

    def at(self, positions: NDArray[np.int64] | slice) -> "SampleStreams":
        """The streams of some of the batch's samples."""
        return replace(self, sample_ids_B=self.sample_ids_B[positions])
