"""DaViT in PyTorch, written from the specification, for sizes without a recorded case. Names are those of the weight table."""

import torch
from torch import nn
from torch.nn import functional


class Depthwise(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.fn = nn.Module()
        self.fn.dw = nn.Conv2d(width, width, 3, padding=1, groups=width)

    def forward(self, x):
        return x + self.fn.dw(x)


class Attention(nn.Module):
    def __init__(self, width, heads, window):
        super().__init__()
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.heads, self.window = heads, window

    def forward(self, x):
        return self.in_windows(x) if self.window else self.between_channels(x)

    def in_windows(self, x):
        b, h, w, c = x.shape
        size = self.window
        x = functional.pad(x, (0, 0, 0, -w % size, 0, -h % size))
        rows, columns = x.shape[1] // size, x.shape[2] // size
        tokens = x.reshape(b, rows, size, columns, size, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, size * size, c)
        parts = self.qkv(tokens).reshape(len(tokens), size * size, 3, self.heads, c // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        attended = ((q @ k.transpose(-2, -1)) * (c // self.heads) ** -0.5).softmax(-1) @ v
        tokens = self.proj(attended.transpose(1, 2).reshape(len(tokens), size * size, c))
        x = tokens.reshape(b, rows, columns, size, size, c).permute(0, 1, 3, 2, 4, 5).reshape(b, rows * size, columns * size, c)
        return x[:, :h, :w]

    def between_channels(self, x):
        b, h, w, c = x.shape
        parts = self.qkv(x.reshape(b, h * w, c)).reshape(b, h * w, 3, self.heads, c // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        attended = ((q * (h * w) ** -0.5).transpose(-2, -1) @ k).softmax(-1) @ v.transpose(-2, -1)
        return self.proj(attended.permute(0, 3, 1, 2).reshape(b, h * w, c)).reshape(b, h, w, c)


class Branch(nn.Module):
    """fn(norm(x)), with the names of the published modules."""

    def __init__(self, width, fn):
        super().__init__()
        self.norm, self.fn = nn.LayerNorm(width), fn

    def forward(self, x):
        return x + self.fn(self.norm(x))


class Mlp(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.net = nn.Sequential()
        self.net.add_module("fc1", nn.Linear(width, 4 * width))
        self.net.add_module("act", nn.GELU())
        self.net.add_module("fc2", nn.Linear(4 * width, width))

    def forward(self, x):
        return self.net(x)


class Block(nn.Module):
    def __init__(self, width, name, heads, window):
        super().__init__()
        self.attention_name = name
        self.conv1, self.conv2 = Depthwise(width), Depthwise(width)
        self.add_module(name, Branch(width, Attention(width, heads, window)))
        self.ffn = Branch(width, Mlp(width))

    def forward(self, x):
        last, first = lambda y: y.permute(0, 2, 3, 1), lambda y: y.permute(0, 3, 1, 2)
        x = first(getattr(self, self.attention_name)(last(self.conv1(x))))
        return first(self.ffn(last(self.conv2(x))))


class Embedding(nn.Module):
    def __init__(self, before, width, kernel, first):
        super().__init__()
        self.proj = nn.Conv2d(before, width, kernel, 4 if first else 2, (kernel - 1) // 2)
        self.norm, self.first = nn.LayerNorm(width if first else before), first

    def forward(self, x):
        norm = lambda y: self.norm(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return norm(self.proj(x)) if self.first else self.proj(norm(x))


class DaViT(nn.Module):
    def __init__(self, widths, depths, heads, groups, kernels, window):
        super().__init__()
        before = (3, *widths[:-1])
        self.convs = nn.ModuleList(Embedding(*each, not i) for i, each in enumerate(zip(before, widths, kernels, strict=True)))
        self.blocks = nn.ModuleList()
        for width, depth, spatial, channel in zip(widths, depths, heads, groups, strict=True):
            stage = nn.ModuleList()
            for _ in range(depth):
                unit = nn.Sequential()
                unit.add_module("spatial_block", Block(width, "window_attn", spatial, window))
                unit.add_module("channel_block", Block(width, "channel_attn", channel, 0))
                stage.append(unit)
            self.blocks.append(stage)

    def forward(self, x):
        levels = []
        for conv, stage in zip(self.convs, self.blocks, strict=True):
            x = conv(x)
            for unit in stage:
                x = unit(x)
            levels.append(x)
        return levels


def random_twin(seed, *fields):
    """Returns a twin with random weights."""
    torch.manual_seed(seed)
    twin = DaViT(*fields).eval()
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            parameter.normal_(1.0 if name.endswith("norm.weight") else 0.0, 0.2 if parameter.ndim == 1 else 0.1)
    return twin
