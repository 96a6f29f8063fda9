"""Features and queries -> masks and scores.

pixel_decoder  a pyramid to mask features and three refined maps, with deformable attention
mask2former    masked attention of queries, with scores against language embeddings
"""
