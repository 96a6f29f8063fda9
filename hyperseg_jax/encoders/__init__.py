"""Pixels -> features.

swin    a pyramid of windowed transformers; features for masks
siglip  patches through a plain transformer; features for the language model
"""
