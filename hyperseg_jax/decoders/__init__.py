"""Mask decoders: features and queries to masks and scores.

pixel_decoder      refines a pyramid to mask features and three feature maps, with deformable attention
fpn_pixel_decoder  the same with a feature pyramid network and a transformer on its coarsest level
mask2former        masked-attention decoder with scores against language embeddings
"""
