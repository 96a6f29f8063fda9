"""Text processing on the host.

fairseq_dictionary  the tokens of GPT-2 in the numbering of fairseq
tokenizer    converts text to token ids and back
class_templates  the sentences of class names for CLIP's text encoder
sides        what texts say about mirrored images: left and right in several languages
side_words   the words for left and right
known_words  the words by which a language is recognized
expressions  text normalization of published data pipelines
layout       fixed-length prompt arrays, and packing of several prompts
"""
