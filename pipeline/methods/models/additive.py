"""The function that `additive` data are drawn from, as a network without trainable weights: the oracle beside a trained one.

B = batch, F = features
"""

import torch
from torch import Tensor, nn

from pipeline.methods.additive import BETA, INTERCEPT, Effect, effects


class AdditiveFunction(nn.Module):
    """f(x) without the noise."""

    def __init__(self, input_shape: tuple[int, ...], *, effect: Effect, num_outputs: int) -> None:
        super().__init__()
        beta_F = torch.tensor(BETA[effect], dtype=torch.float64)
        if input_shape != tuple(beta_F.shape) or num_outputs != 1:
            raise ValueError(
                f"model oracle takes the {len(beta_F)} features of data set additive and gives 1 value, got samples {input_shape} and "
                f"{num_outputs} outputs"
            )
        self.effect: Effect = effect
        self.beta_F: Tensor
        self.register_buffer("beta_F", beta_F)

    def forward(self, x_BF: Tensor) -> Tensor:
        """Values (B, 1)."""
        return INTERCEPT + effects(x_BF, self.beta_F.to(x_BF), self.effect).sum(1, keepdim=True)
