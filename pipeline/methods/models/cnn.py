"""The convolutional networks of `SmallCnn` and `CifarCnn`.

B = batch, C = channels, D = feature maps, H, W = pixels, h, w = pixels after pooling, K = outputs
"""

from torch import Tensor, nn

from pipeline.core.settings import SettingsError


class ConvNet(nn.Module):
    """`features` keeps the image plane, for methods that explain its last maps; `classifier` turns it into logits."""

    def __init__(self, input_shape: tuple[int, ...], *, channels: tuple[int, int], hidden: int, num_outputs: int) -> None:
        super().__init__()
        num_channels, height, width = input_shape
        if min(height, width) < 4:
            raise SettingsError(f"small_cnn halves the image twice and needs at least 4 x 4 pixels, got {height} x {width}; use model mlp")
        first, second = channels
        self.features = nn.Sequential(
            nn.Conv2d(num_channels, first, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(first, second, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(second * (height // 4) * (width // 4), hidden),
            nn.ReLU(),
            nn.Linear(hidden, num_outputs),
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits (B, K)."""
        maps_BDhw = self.features(x_BCHW)
        return self.classifier(maps_BDhw)


class CifarConvNet(nn.Module):
    """The network of `CifarCnn`; `features` keeps the image plane."""

    def __init__(self, input_shape: tuple[int, ...], *, num_outputs: int) -> None:
        super().__init__()
        num_channels, height, width = input_shape
        if min(height, width) < 4:
            raise SettingsError(f"cifar_cnn halves the image twice and needs at least 4 x 4 pixels, got {height} x {width}; use model mlp")
        self.features = nn.Sequential(
            nn.Conv2d(num_channels, 32, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 32, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(),
            nn.Linear(64 * (height // 4) * (width // 4), 256),
            nn.ReLU(),
            nn.Linear(256, num_outputs),
        )

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Logits (B, K)."""
        maps_BDhw = self.features(x_BCHW)
        return self.classifier(maps_BDhw)
