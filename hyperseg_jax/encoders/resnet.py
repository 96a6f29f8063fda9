"""ResNet with frozen batch norm (He et al. 2016; the image encoder of OFA, without the last stage)."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

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
    def __call__(
        self, x: Float[DeviceArray, "B H W C"], valid: Bool[DeviceArray, "B H W 1"]
    ) -> tuple[Float[jax.Array, "B h w _"], None]:
        """valid: which cells of x belong to the image."""
        p, out = self.precision, EXPANSION * self.width
        y = nn.relu(FrozenBatchNorm(precision=p, name="norm1")(Conv(self.width, 1, 1, 0, False, p, name="conv1")(x)))
        y = jnp.where(valid, y, 0)
        y = Conv(self.width, 3, self.stride, 1, False, p, name="conv2")(y)
        y = nn.relu(FrozenBatchNorm(precision=p, name="norm2")(y))
        y = FrozenBatchNorm(precision=p, name="norm3")(Conv(out, 1, 1, 0, False, p, name="conv3")(y))
        if self.projects:
            x = x[:, :: self.stride, :: self.stride]  # all that a 1x1 convolution with this stride reads
            x = FrozenBatchNorm(precision=p, name="shortcut_norm")(Conv(out, 1, 1, 0, False, p, name="shortcut")(x))
        return nn.relu(y + x), None


class ResNet(nn.Module):
    """Encodes images to features of stride 16; defaults are ResNet-101 without its last stage.

    blocks: number of blocks of each stage. width: of the stem, and of the 3x3 convolutions of the first stage.
    Parts: stem, stem_norm, and for each stage i: first_i, and rest_i (stacked) if it has more blocks.
    """

    blocks: tuple[int, ...] = (3, 4, 23)
    width: int = 64
    remat: str = "none"
    precision: Precision = Precision()

    @property
    def channels(self) -> int:
        """Number of output channels."""
        return EXPANSION * self.width * 2 ** (len(self.blocks) - 1)

    @nn.compact
    def __call__(
        self, image: Float[DeviceArray, "B H W 3"], filled: Int[DeviceArray, "B 2"] | None = None
    ) -> Float[jax.Array, "B _ _ C"]:
        """Encodes normalized images of any size.

        filled: (height, width) of the images on a canvas, which is 0 beyond them; None if they fill it. The features of an
        image do not depend on its canvas.
        """
        p, sizes = self.precision, jnp.full((len(image), 2), jnp.asarray(image.shape[1:3])) if filled is None else filled
        x = Conv(self.width, 7, 2, 3, False, p, name="stem")(image)
        x = nn.relu(FrozenBatchNorm(precision=p, name="stem_norm")(x))
        x = nn.max_pool(jnp.where(_valid_cells(x, sizes, 2), x, 0), (3, 3), (2, 2), ((1, 1), (1, 1)))
        for i, depth in enumerate(self.blocks):
            width, stride, cell = self.width * 2**i, 2 if i else 1, 4 * 2**i
            x, _ = Bottleneck(width, stride, True, p, name=f"first_{i}")(x, _valid_cells(x, sizes, cell // stride))
            if depth > 1:
                rest = stack_blocks(Bottleneck, depth - 1, self.remat, (nn.broadcast,))
                x, _ = rest(width, 1, False, p, name=f"rest_{i}")(x, _valid_cells(x, sizes, cell))
        return jnp.asarray(x)


def _valid_cells(x: Float[DeviceArray, "B h w C"], sizes: Int[DeviceArray, "B 2"], cell: int) -> Bool[jax.Array, "B h w 1"]:
    """Returns which cells, with sides of `cell` pixels, belong to images of these sizes in pixels."""
    rows, columns = (jnp.arange(x.shape[axis + 1]) * cell < sizes[:, axis, None] for axis in (0, 1))
    return (rows[:, :, None] & columns[:, None])[..., None]


def table(resnet: ResNet) -> Table:
    """Returns the weight table for torchvision's names ("conv1.weight", "bn1...", "layer1.0.conv1.weight", ...)."""
    rows = conv_table("stem", "conv1", False) + batch_norm_table("stem_norm", "bn1")
    for i, depth in enumerate(resnet.blocks):
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
