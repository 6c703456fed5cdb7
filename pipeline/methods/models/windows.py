"""A network for short signals made one for long ones.

B = batch, C = channels, T = time steps, L = those of a window, W = windows, K = outputs
"""

import torch
from torch import Tensor, nn


class OverWindows(nn.Module):
    """Each output is the greatest over windows that overlap by half; a signal as short as a window, as in training, is one.

    So the PTB-XL benchmark judges records (Strodthoff et al. 2020, arXiv:2004.13701, sec. III). What explains or disturbs the model
    meets the same function of the whole signal.
    """

    def __init__(self, network: nn.Module, *, length: int) -> None:
        super().__init__()
        self.network, self.length = network, length

    def forward(self, x_BCT: Tensor) -> Tensor:
        """Outputs (B, K).

        Raises:
            ValueError: the signal is shorter than a window.
        """
        last = x_BCT.shape[-1] - self.length
        if last < 0:
            raise ValueError(f"wanted signals of {self.length} time steps or more, got {x_BCT.shape[-1]}")
        if last == 0:
            return self.network(x_BCT)
        # The last window ends where the signal does, also where the stride would not lead there.
        starts = [*range(0, last, max(1, self.length // 2)), last]
        x_BWCL = torch.stack([x_BCT[..., start : start + self.length] for start in starts], dim=1)
        return self.network(x_BWCL.flatten(0, 1)).unflatten(0, (len(x_BCT), len(starts))).amax(1)
