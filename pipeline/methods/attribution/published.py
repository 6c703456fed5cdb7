"""Integrated gradients by finite differences as once published, defects included, for audits of the published figures.

B = batch, D = coordinates of one pass, F = input values of one sample, C = channels, H, W = pixels, S = steps
"""

from __future__ import annotations

from pipeline.methods.attribution.passes import Passes
from pipeline.methods.attribution.target import Score
from pipeline.methods.lazy import torch


def published_integrated_gradients(
    passes: Passes, x_BCHW: torch.Tensor, score: Score, *, baselines: torch.Tensor, num_steps: int, step: float
) -> torch.Tensor:
    """(x_i - b_i) / S * sum over j of [f(b_i + j/S (x + h e_i - b_i)) - f(b_i + j/S (x - b_i))] / h, where b_i is one number.

    To first order in h it is (x_i - b_i) times the mean of a * d_i f over the shares a of the way: of a linear model (S + 1) / 2S of
    the right value, and in sum f(x) less the mean of f over the way.

    Args:
        passes: the model.
        x_BCHW: inputs.
        score: what is explained of each.
        baselines: (N, B or 1, C, H, W); the result is the mean over them.
        num_steps: S, at the right ends of equal parts of the way.
        step: h.
    """
    x_BF, phi_BF = x_BCHW.flatten(1), torch.zeros_like(x_BCHW).flatten(1)
    for baseline_BF in baselines.expand(-1, *x_BCHW.shape).flatten(2):
        is_one_number = bool((baseline_BF == baseline_BF[:, :1]).all())
        for samples, part in passes.parts(len(x_BF), x_BF.shape[1]):
            x_bF, own = x_BF[samples], score.at(samples)
            baseline_Db1 = baseline_BF[samples, part].T[:, :, None]
            shared_Db1 = baseline_Db1[:1] if is_one_number else baseline_Db1
            up_D1F = step * torch.eye(x_bF.shape[1], dtype=x_bF.dtype, device=x_bF.device)[part, None]
            for j in range(1, num_steps + 1):
                raised_DbF = baseline_Db1 + j / num_steps * (x_bF + up_D1F - baseline_Db1)
                point_DbF = shared_Db1 + j / num_steps * (x_bF - shared_Db1)
                slope_Db = (_scores(passes, raised_DbF, x_BCHW, own) - _scores(passes, point_DbF, x_BCHW, own)) / step
                phi_BF[samples, part] += ((x_bF[:, part].T - baseline_Db1[:, :, 0]) * slope_Db / num_steps).T.to(phi_BF)
    return phi_BF.reshape(x_BCHW.shape) / len(baselines)


def _scores(passes: Passes, points_DbF: torch.Tensor, x_BCHW: torch.Tensor, score: Score) -> torch.Tensor:
    return passes.scores(points_DbF.unflatten(2, x_BCHW.shape[1:]), score)
