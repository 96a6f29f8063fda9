"""Text processing on the host.

fairseq_dictionary  the tokens of GPT-2 in the numbering of fairseq
tokenizer    converts text to token ids and back
class_templates  the sentences of class names for CLIP's text encoder
expressions  text normalization of published data pipelines
layout       fixed-length prompt arrays, and packing of several prompts
"""
