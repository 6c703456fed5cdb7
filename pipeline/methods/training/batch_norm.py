"""Batch normalisation whose statistics are those of the global batch, so that any number of ranks learns the same weights.

torch's SyncBatchNorm wants a GPU, and would count the sample that a rank without a part of the batch takes.

B = batch (this rank's part), D = feature maps, further axes are positions
"""

import torch
from torch import Tensor, nn

# The base of BatchNorm1d, 2d and 3d, as torch.nn.SyncBatchNorm has it.
from torch.nn.modules.batchnorm import _BatchNorm


class SumOverRanks(torch.autograd.Function):
    """The sum of a tensor over all ranks; its gradient is the sum of theirs, and so is the gradient of that."""

    @staticmethod
    def forward(ctx: object, value: Tensor) -> Tensor:
        """The same tensor on every rank."""
        total = value.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> Tensor:
        """What all ranks make of the sum."""
        return SumOverRanks.apply(grads[0])


class GlobalBatchNorm(_BatchNorm):
    """Takes the place of a torch.nn.BatchNorm during training on several ranks, with the same parameters, buffers and names."""

    num_samples: int = 0
    """Of the global batch."""
    counts: bool = True
    """Whether this rank's samples are part of it."""

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of positions."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalised activations, of the shape and dtype of the input.

        Raises:
            ValueError: there is one value a feature map, whose variance is not known.
        """
        if not self.training:
            return super().forward(input)
        x_BD = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        axes = [0, *range(2, x_BD.ndim)]
        num_values = self.num_samples * x_BD.shape[2:].numel()
        if num_values < 2:
            raise ValueError(
                "batch normalisation wants more than one value a feature map, "
                f"got {num_values}; set batch_size so that the last batch is larger"
            )
        share = float(self.counts)
        # Deviations are summed after the mean is known: the difference of two large sums would lose their digits.
        mean_D = SumOverRanks.apply(share * x_BD.sum(axes)) / num_values
        centred_BD = x_BD - _per_map(mean_D, x_BD)
        variance_D = SumOverRanks.apply(share * centred_BD.square().sum(axes)) / num_values
        self._follow(mean_D.detach(), variance_D.detach() * (num_values / (num_values - 1)))
        normal_BD = centred_BD * _per_map((variance_D + self.eps).rsqrt(), x_BD)
        if self.affine:
            normal_BD = normal_BD * _per_map(self.weight, x_BD) + _per_map(self.bias, x_BD)
        return normal_BD.to(input.dtype)

    def _follow(self, mean_D: Tensor, variance_D: Tensor) -> None:
        """Move the running statistics towards those of the batch, as torch.nn.BatchNorm does."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        step = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean_D.to(self.running_mean), step)
        self.running_var.lerp_(variance_D.to(self.running_var), step)


def _per_map(value_D: Tensor, x_BD: Tensor) -> Tensor:
    """(1, D, 1, ...)."""
    return value_D.reshape(1, -1, *[1] * (x_BD.ndim - 2))


def with_global_statistics(model: nn.Module) -> None:
    """Put a `GlobalBatchNorm` in the place of each batch normalisation inside the model; it shares its parameters and buffers."""
    for parent in list(model.modules()):
        for name, layer in parent.named_children():
            if isinstance(layer, _BatchNorm) and not isinstance(layer, GlobalBatchNorm | nn.SyncBatchNorm):
                setattr(parent, name, _global(layer))


def _global(layer: _BatchNorm) -> GlobalBatchNorm:
    made = GlobalBatchNorm(
        layer.num_features, layer.eps, layer.momentum, affine=layer.affine, track_running_stats=layer.track_running_stats
    )
    for name, parameter in layer.named_parameters():
        made.register_parameter(name, parameter)
    for name, buffer in layer.named_buffers():
        made.register_buffer(name, buffer)
    return made.train(layer.training)


def announce_batch(model: nn.Module, *, num_samples: int, counts: bool) -> None:
    """Tell each `GlobalBatchNorm` how many samples the next global batch has, and whether this rank has a part of it."""
    for layer in model.modules():
        if isinstance(layer, GlobalBatchNorm):
            layer.num_samples, layer.counts = num_samples, counts
