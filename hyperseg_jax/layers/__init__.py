"""Building blocks with parameters, each with its weight table.

Policies:
    precision             which types parameters, products and outputs have
    remat                 stacks of equal blocks as one compiled body, and what its backward pass keeps

Linear maps and norms:
    linear                linear layers, with low-rank adapters (LoRA) inside
    conv                  convolutions, channels last
    mlp                   feed-forward blocks
    norms                 LayerNorm and GroupNorm

Attention:
    attention             multi-head attention
    rotary                rotary position embedding
    window_attention      attention inside shifted windows (Swin)
    deformable_attention  attention to a few points on several maps (Deformable DETR)
"""
