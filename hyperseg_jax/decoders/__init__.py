"""Mask decoders: features and queries to masks and scores.

pixel_decoder      refines a pyramid to mask features and three feature maps, with deformable attention
fpn_pixel_decoder  the same with a feature pyramid network and a transformer on its coarsest level
mask2former        masked-attention decoder with scores against language embeddings
seem               queries that attend to the image and to the tokens of prompts of all kinds
token_groups       groups of queries and tokens, and tables of which groups attend to which
sam_prompts        SAM's prompt encoder: points, boxes and masks as tokens
sam                SAM's mask decoder
marks              the pixels that visual prompts mark, as tokens
"""
