"""torchvision's vision transformer, for images of any side and number of channels.

C = channels, H, W = pixels
"""

from torch import nn

from pipeline.core.settings import SettingsError


def vision_transformer(
    input_shape: tuple[int, ...], *, patch_px: int, num_layers: int, num_heads: int, width: int, mlp_width: int, num_outputs: int
) -> nn.Module:
    """The network of `Vit`, (B, C, H, W) -> logits (B, K). Its last layer starts at 0, as torchvision's does.

    Raises:
        SettingsError: the image is not square, or patches do not fill it.
    """
    from pipeline.methods.vision import torchvision

    num_channels, height, image_width = input_shape
    if height != image_width or height % patch_px:
        raise SettingsError(
            f"vit cuts square images into patches of {patch_px} pixels, got {height} x {image_width}; {_remedy(height, image_width)}"
        )
    network = torchvision.models.VisionTransformer(
        image_size=height,
        patch_size=patch_px,
        num_layers=num_layers,
        num_heads=num_heads,
        hidden_dim=width,
        mlp_dim=mlp_width,
        num_classes=num_outputs,
    )
    # torchvision's takes three channels only.
    patches = nn.Conv2d(num_channels, width, kernel_size=patch_px, stride=patch_px)
    nn.init.trunc_normal_(patches.weight, std=(num_channels * patch_px**2) ** -0.5)
    nn.init.constant_(patches.get_parameter("bias"), 0)
    network.conv_proj = patches
    return network


def _remedy(height: int, width: int) -> str:
    if height != width:
        return "use another model"
    return f"set patch_px to one of {', '.join(str(side) for side in range(1, height + 1) if height % side == 0)}"
