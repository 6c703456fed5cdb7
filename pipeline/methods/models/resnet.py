"""The residual networks of the CIFAR experiments.

B = batch, C = channels, D = feature maps, H, W = pixels, h, w = pixels after strides, K = outputs
"""

from torch import Tensor, nn
from torch.nn import functional


def _convolution(before: int, after: int, *, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, kernel_size=3, stride=stride, padding=1, bias=False)


class Block(nn.Module):
    """Two convolutions beside a shortcut without weights: every other pixel, and zeros for the maps that are new (option A)."""

    def __init__(self, before: int, after: int, *, stride: int) -> None:
        super().__init__()
        self.stride, self.num_new = stride, after - before
        self.conv1, self.bn1 = _convolution(before, after, stride=stride), nn.BatchNorm2d(after)
        self.conv2, self.bn2 = _convolution(after, after), nn.BatchNorm2d(after)
        # Two, so that each is a module used once: methods that hook a nonlinearity need that.
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()

    def forward(self, x_BDhw: Tensor) -> Tensor:
        """Feature maps, (B, after, h / stride, w / stride)."""
        shortcut_BDhw = x_BDhw
        if self.num_new:
            half = self.num_new // 2
            shortcut_BDhw = functional.pad(x_BDhw[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, self.num_new - half))
        inner_BDhw = self.relu1(self.bn1(self.conv1(x_BDhw)))
        return self.relu2(self.bn2(self.conv2(inner_BDhw)) + shortcut_BDhw)


class CifarResNet(nn.Module):
    """Three stages of blocks with 16, 32 and 64 maps, then the mean over pixels (He et al. 2015, arXiv:1512.03385, sec. 4.2).

    Parameter names are those of the weights that are published for CIFAR-10, such as resnet20-12fca82f.th.
    """

    def __init__(self, input_shape: tuple[int, ...], *, blocks_per_stage: int, num_outputs: int) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu = _convolution(input_shape[0], 16), nn.BatchNorm2d(16), nn.ReLU()
        self.layer1 = _stage(16, 16, num_blocks=blocks_per_stage, stride=1)
        self.layer2 = _stage(16, 32, num_blocks=blocks_per_stage, stride=2)
        self.layer3 = _stage(32, 64, num_blocks=blocks_per_stage, stride=2)
        self.linear = nn.Linear(64, num_outputs)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits (B, K)."""
        maps_BDhw = self.relu(self.bn1(self.conv1(x_BCHW)))
        maps_BDhw = self.layer3(self.layer2(self.layer1(maps_BDhw)))
        return self.linear(maps_BDhw.mean((2, 3)))


def _stage(before: int, after: int, *, num_blocks: int, stride: int) -> nn.Sequential:
    rest = (Block(after, after, stride=1) for _ in range(num_blocks - 1))
    return nn.Sequential(Block(before, after, stride=stride), *rest)
