"""Encoders: pixels or text to features.

swin       Swin Transformer; a feature pyramid for masks
focal      FocalNet; a feature pyramid of focal modulation
davit      DaViT; a feature pyramid of window attention and channel attention
sam_vit    SAM's vision transformer, with its neck, or one that makes a feature pyramid
siglip     SigLIP vision transformer; features for the language model
resnet     ResNet without its last stage; features of stride 16
clip_text  CLIP's text transformer; features of tokens, and one vector per text
"""
