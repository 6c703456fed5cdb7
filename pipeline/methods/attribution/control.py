"""Controls: attributions that know nothing of the model, for what a method must beat.

B = batch, C = channels, H, W = pixels. Inputs (B, C, T) and (B, F) work the same way.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from pipeline.core.randomness import SampleStreams
from pipeline.core.settings import Settings
from pipeline.methods.attribution.gradients import no_baseline
from pipeline.methods.lazy import torch


class RandomControl(Settings):
    """Standard normal noise that depends on the sample's stream alone (a control as in Adebayo et al. 2018, arXiv:1810.03292)."""

    complete: ClassVar[bool] = False
    baseline = no_baseline
    method: Literal["random"] = "random"

    def __call__(
        self,
        model: torch.nn.Module,
        x_BCHW: torch.Tensor,
        target_B: torch.Tensor,
        *,
        streams: SampleStreams | None = None,
        baseline_CHW: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """(B, C, H, W), without unit. See `Attributor` for the arguments; only the shape of x and the streams are used.

        Raises:
            ValueError: there are no streams, or not one a sample.
        """
        if streams is None or len(streams.sample_ids_B) != len(x_BCHW):
            got = None if streams is None else len(streams.sample_ids_B)
            raise ValueError(
                f"method random draws from one stream a sample: wanted {len(x_BCHW)} streams, got {got}; pass streams=SampleStreams(...)"
            )
        return torch.from_numpy(streams.normal(math.prod(x_BCHW.shape[1:]))).reshape(x_BCHW.shape).to(x_BCHW)
