"""Connectors: visual features to tokens of the language model.

projector               projects patch features to the width of the language model
perceiver               the layer of a perceiver: latents attend to features
fine_grained_perceiver  resamples a feature pyramid to a fixed number of tokens, recurrent over frames
object_perceiver        resamples the tokens of each reference frame to a fixed number of tokens
text_fusion             text embeddings attend to an image
caption_mixer           reads a region from SAM's tokens and image, as a prefix of the language model
region_sampler          pools each visual-prompt region to one token
"""
