"""Connectors: visual features to tokens of the language model.

projector               projects patch features to the width of the language model
fine_grained_perceiver  resamples a feature pyramid to a fixed number of tokens, recurrent over frames
region_sampler          pools each visual-prompt region to one token
"""
