"""Features -> tokens of the language model.

projector               patch features to the language model's width
fine_grained_perceiver  a pyramid's detail in a fixed number of tokens, recurrent over frames
region_sampler          drawn regions to one token each
"""
