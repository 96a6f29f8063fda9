"""Causal language models.

phi       the causal language model and its language head
splice    builds the mixed stream of text, image and query tokens, and pools its hidden states
cache     the key-value cache
generate  Writer: the interface of text generation; greedy decoding in one compiled loop
"""
