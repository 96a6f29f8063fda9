"""Tokens -> tokens.

phi       the causal language model and its language head
splice    the mixed stream of text, image and query tokens, and pooling out of it
cache     keys and values of what was read
generate  Writer: how a model writes texts; greedy decoding in one compiled loop
"""
