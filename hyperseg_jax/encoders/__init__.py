"""Image encoders: pixels to features.

swin    Swin Transformer; a feature pyramid for masks
siglip  SigLIP vision transformer; features for the language model
"""
