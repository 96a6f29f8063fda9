"""SCA, Segment and Caption Anything (arXiv 2312.00869).

images       images and boxes as inputs of the model; large-scale jitter
texts        captions as token ids
"""
