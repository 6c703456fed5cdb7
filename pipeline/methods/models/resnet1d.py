"""Networks for signals, as in the PTB-XL benchmark (Strodthoff et al. 2020, arXiv:2004.13701): two residual ones and an inception one.

Signals can have any length: all end with the maximum and the mean over time. Weights are drawn as there: He's normal ones, biases 0.

B = batch, C = channels or leads, T = time steps, D = feature maps, t = time steps after strides, K = outputs
"""

import torch
from torch import Tensor, nn

HIDDEN = 128
"""Units between the two linear layers of the head."""
FILTERS = 32
"""Feature maps of each branch of an inception block."""
INCEPTION_KERNELS = (39, 19, 9)
XRESNET_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
"""{depth: blocks of each stage}; from 50 on of three convolutions."""


def resnet1d_wang(num_channels: int, *, num_outputs: int, dropout: float) -> nn.Module:
    """Three blocks of two convolutions with 128 maps (Wang et al. 2017, arXiv:1611.06455), on a stem that keeps the length."""
    width = 128
    stages = (Block(width, width, kernels=(5, 3), stride=stride, shortcut=_projected(width, width, stride)) for stride in (1, 2, 2))
    return _drawn(
        nn.Sequential(_convolution(num_channels, width, kernel=7), *stages, Head(width, num_outputs=num_outputs, dropout=dropout))
    )


def xresnet1d(num_channels: int, *, depth: int, num_outputs: int, dropout: float) -> nn.Module:
    """XResNet (He et al. 2018, arXiv:1812.01187, ResNet-D), kernels of 5, as many maps in all stages: 256, or 64 up to depth 34."""
    width, wide = 64, 64 if depth < 50 else 256
    stem = (_convolution(before, after, stride=stride) for before, after, stride in ((num_channels, 32, 2), (32, 32, 1), (32, 64, 1)))
    blocks, before = [], width
    for stage, num_blocks in enumerate(XRESNET_BLOCKS[depth]):
        for number in range(num_blocks):
            stride = 2 if stage and not number else 1
            kernels = (5, 5) if depth < 50 else (1, 5, 1)
            blocks.append(Block(before, wide, kernels=kernels, inner=width, stride=stride, shortcut=_pooled(before, wide, stride)))
            before = wide
    pool = nn.MaxPool1d(kernel_size=3, stride=2, padding=1)
    return _drawn(nn.Sequential(*stem, pool, *blocks, Head(wide, num_outputs=num_outputs, dropout=dropout)))


def inception1d(num_channels: int, *, num_outputs: int, dropout: float) -> nn.Module:
    """InceptionTime (Fawaz et al. 2019, arXiv:1909.04939): six blocks, a shortcut over each three."""
    width = FILTERS * (len(INCEPTION_KERNELS) + 1)
    head = Head(width, num_outputs=num_outputs, dropout=dropout)
    return _drawn(nn.Sequential(InceptionStage(num_channels, width), InceptionStage(width, width), head))


class Block(nn.Module):
    """Convolutions beside a shortcut, and a ReLU behind their sum; the one with the widest kernel first takes the stride."""

    def __init__(
        self, before: int, after: int, *, kernels: tuple[int, ...], stride: int, shortcut: nn.Module, inner: int | None = None
    ) -> None:
        super().__init__()
        widths = (before, *[inner or after] * (len(kernels) - 1), after)
        strided = kernels.index(max(kernels))
        self.convolutions = nn.Sequential(
            *(
                _convolution(widths[i], widths[i + 1], kernel=kernel, stride=stride if i == strided else 1, activated=i < len(kernels) - 1)
                for i, kernel in enumerate(kernels)
            )
        )
        self.shortcut, self.relu = shortcut, nn.ReLU()

    def forward(self, x_BDt: Tensor) -> Tensor:
        """Feature maps, (B, after, t / stride)."""
        return self.relu(self.convolutions(x_BDt) + self.shortcut(x_BDt))


class InceptionBlock(nn.Module):
    """Convolutions of several lengths on few maps, beside one of length 1 on the maximum; put together and normalised."""

    def __init__(self, before: int) -> None:
        super().__init__()
        self.bottleneck = nn.Conv1d(before, FILTERS, kernel_size=1, bias=False)
        self.branches = nn.ModuleList(
            nn.Conv1d(FILTERS, FILTERS, kernel_size=kernel, padding=kernel // 2, bias=False) for kernel in INCEPTION_KERNELS
        )
        self.pooled = nn.Sequential(nn.MaxPool1d(3, stride=1, padding=1), nn.Conv1d(before, FILTERS, kernel_size=1, bias=False))
        self.norm, self.relu = nn.BatchNorm1d(FILTERS * (len(INCEPTION_KERNELS) + 1)), nn.ReLU()

    def forward(self, x_BDt: Tensor) -> Tensor:
        """Feature maps, (B, 128, t)."""
        few_BDt = self.bottleneck(x_BDt)
        return self.relu(self.norm(torch.cat([*(branch(few_BDt) for branch in self.branches), self.pooled(x_BDt)], dim=1)))


class InceptionStage(nn.Module):
    """Three blocks beside a shortcut."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.blocks = nn.Sequential(InceptionBlock(before), InceptionBlock(after), InceptionBlock(after))
        self.shortcut, self.relu = _convolution(before, after, kernel=1, activated=False), nn.ReLU()

    def forward(self, x_BDt: Tensor) -> Tensor:
        """Feature maps, (B, after, t)."""
        return self.relu(self.blocks(x_BDt) + self.shortcut(x_BDt))


class Head(nn.Module):
    """Maximum and mean over time, then two linear layers, each behind batch normalisation and dropout, the first's rate half as high."""

    def __init__(self, width: int, *, num_outputs: int, dropout: float) -> None:
        super().__init__()
        self.maximum, self.mean = nn.AdaptiveMaxPool1d(1), nn.AdaptiveAvgPool1d(1)
        self.layers = nn.Sequential(
            nn.BatchNorm1d(2 * width),
            nn.Dropout(dropout / 2),
            nn.Linear(2 * width, HIDDEN),
            nn.ReLU(),
            nn.BatchNorm1d(HIDDEN),
            nn.Dropout(dropout),
            nn.Linear(HIDDEN, num_outputs),
        )

    def forward(self, x_BDt: Tensor) -> Tensor:
        """Logits (B, K)."""
        return self.layers(torch.cat([self.maximum(x_BDt), self.mean(x_BDt)], dim=1).flatten(1))


def _convolution(before: int, after: int, *, kernel: int = 5, stride: int = 1, activated: bool = True) -> nn.Sequential:
    """Convolution and batch normalisation, by choice with a ReLU."""
    convolution = nn.Conv1d(before, after, kernel_size=kernel, stride=stride, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm1d(after), *[nn.ReLU()] * activated)


def _projected(before: int, after: int, stride: int) -> nn.Module:
    """A shortcut by a convolution of length 1, where one is needed."""
    return nn.Identity() if (before, stride) == (after, 1) else _convolution(before, after, kernel=1, stride=stride, activated=False)


def _pooled(before: int, after: int, stride: int) -> nn.Sequential:
    """A shortcut that takes means where there is a stride, and a convolution where the number of maps changes."""
    pool = [nn.AvgPool1d(stride, ceil_mode=True)] if stride > 1 else []
    return nn.Sequential(*pool, *([_convolution(before, after, kernel=1, activated=False)] if before != after else []))


def _drawn(network: nn.Module) -> nn.Module:
    """The network with weights as the benchmark draws them, which leaves no scale at 0."""
    for module in network.modules():
        if isinstance(module, nn.Conv1d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network
