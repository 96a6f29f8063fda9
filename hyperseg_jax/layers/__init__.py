"""Building blocks with parameters, each with its weight table.

Policies:
    precision             dtypes of parameters, compute and outputs
    remat                 scanned stacks of identical blocks, and their rematerialization

Linear maps and norms:
    linear                linear layers with optional low-rank adapters (LoRA)
    token_tables          token embeddings and tables of language heads, gathered in the compute dtype
    conv                  convolutions, channels last
    mlp                   feed-forward blocks
    norms                 LayerNorm and GroupNorm

Attention:
    attention             multi-head attention
    fused_attention       self-attention by the kernel of the device, if it has one
    rotary                rotary position embedding
    two_way               prompt tokens and an image attend to each other (SAM)
    window_attention      attention inside shifted windows (Swin)
    deformable_attention  attention to sampled points of several feature maps (Deformable DETR)
"""
