"""Text on the host.

tokenizer  text to token ids and back
prompts    the exact words of each task, as token ids and labels
layout     prompts as arrays of a fixed length, and packing of several
"""
