"""Text processing on the host.

tokenizer    converts text to token ids and back
expressions  text normalization of published data pipelines
layout       fixed-length prompt arrays, and packing of several prompts
"""
