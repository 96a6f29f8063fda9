"""Text on the host.

tokenizer    text to token ids and back
expressions  how published data code writes the sentences of its data sets
layout       prompts as arrays of a fixed length, and packing of several
"""
