"""Mask decoders: features and queries to masks and scores.

pixel_decoder  refines a pyramid to mask features and three feature maps, with deformable attention
mask2former    masked-attention decoder with scores against language embeddings
"""
