"""ResNet with frozen batch norm (He et al. 2016; the image encoder of OFA, without the last stage)."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from hyperseg_jax.layers.conv import Conv, conv_table
from hyperseg_jax.layers.norms import FrozenBatchNorm, batch_norm_table
from hyperseg_jax.layers.precision import Precision
from hyperseg_jax.layers.remat import stack_blocks
from hyperseg_jax.structs import DeviceArray
from hyperseg_jax.tables import Table

STRIDE = 16
"""Of the features. A side of n pixels has ceil(n / 16) features."""
EXPANSION = 4
"""Output width of a bottleneck block, relative to the width of its 3x3 convolution."""


class Bottleneck(nn.Module):
    """Convolutions of 1x1, 3x3 (with the stride) and 1x1, each with a norm, and a residual connection.

    projects: the residual connection has a 1x1 convolution with the stride, and a norm.
    Parts: conv1 to conv3, norm1 to norm3, shortcut, shortcut_norm.
    """

    width: int
    stride: int
    projects: bool
    precision: Precision

    @nn.compact
    def __call__(self, x: Float[DeviceArray, "B H W C"]) -> tuple[Float[jax.Array, "B h w _"], None]:
        p, out = self.precision, EXPANSION * self.width
        y = nn.relu(FrozenBatchNorm(precision=p, name="norm1")(Conv(self.width, 1, 1, 0, False, p, name="conv1")(x)))
        y = Conv(self.width, 3, self.stride, 1, False, p, name="conv2")(y)
        y = nn.relu(FrozenBatchNorm(precision=p, name="norm2")(y))
        y = FrozenBatchNorm(precision=p, name="norm3")(Conv(out, 1, 1, 0, False, p, name="conv3")(y))
        if self.projects:
            x = x[:, :: self.stride, :: self.stride]  # all that a 1x1 convolution with this stride reads
            x = FrozenBatchNorm(precision=p, name="shortcut_norm")(Conv(out, 1, 1, 0, False, p, name="shortcut")(x))
        return nn.relu(y + x), None


class ResNet(nn.Module):
    """Encodes images to features of stride 16; defaults are ResNet-101 without its last stage.

    depths: number of blocks of each stage. width: of the stem, and of the 3x3 convolutions of the first stage.
    Parts: stem, stem_norm, and for each stage i: first_i, and rest_i (stacked) if it has more blocks.
    """

    depths: tuple[int, ...] = (3, 4, 23)
    width: int = 64
    remat: str = "none"
    precision: Precision = Precision()

    @property
    def channels(self) -> int:
        """Number of output channels."""
        return EXPANSION * self.width * 2 ** (len(self.depths) - 1)

    @nn.compact
    def __call__(self, image: Float[DeviceArray, "B H W 3"]) -> Float[jax.Array, "B _ _ C"]:
        """Encodes normalized images of any size."""
        p = self.precision
        x = Conv(self.width, 7, 2, 3, False, p, name="stem")(image)
        x = nn.relu(FrozenBatchNorm(precision=p, name="stem_norm")(x))
        x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        for i, depth in enumerate(self.depths):
            width, stride = self.width * 2**i, 2 if i else 1
            x, _ = Bottleneck(width, stride, True, p, name=f"first_{i}")(x)
            if depth > 1:
                x, _ = stack_blocks(Bottleneck, depth - 1, self.remat)(width, 1, False, p, name=f"rest_{i}")(x)
        return jnp.asarray(x)


def table(resnet: ResNet) -> Table:
    """Returns the weight table for torchvision's names ("conv1.weight", "bn1...", "layer1.0.conv1.weight", ...)."""
    rows = conv_table("stem", "conv1", False) + batch_norm_table("stem_norm", "bn1")
    for i, depth in enumerate(resnet.depths):
        first, rest = f"layer{i + 1}.0", f"layer{i + 1}.{{i}}"
        rows += _block_table(first).with_prefix(f"first_{i}/")
        rows += conv_table(f"first_{i}/shortcut", f"{first}.downsample.0", False)
        rows += batch_norm_table(f"first_{i}/shortcut_norm", f"{first}.downsample.1")
        if depth > 1:
            rows += _block_table(rest).stacked(depth - 1, start=1).with_prefix(f"rest_{i}/")
    return rows


def _block_table(name: str) -> Table:
    rows = Table()
    for k in (1, 2, 3):
        rows += conv_table(f"conv{k}", f"{name}.conv{k}", False) + batch_norm_table(f"norm{k}", f"{name}.bn{k}")
    return rows
