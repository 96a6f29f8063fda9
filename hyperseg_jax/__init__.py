"""Universal image and video segmentation with vision-language models, in JAX."""

__version__ = "0.1.0"
