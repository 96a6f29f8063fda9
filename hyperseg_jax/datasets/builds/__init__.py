"""Builds: the examples of a dataset in ArrayRecord shards, for pods that read from a bucket. `datasets/built` reads them.

build       writes the shards of a split with worker processes; interrupted builds resume
index       metadata of a build: build.json, a json file per shard, and index.json
store       a folder on a local disk or in a bucket
records     encodes an Example as bytes and decodes it
images      encodes frames as image files
clips       samples clips from records with full videos
"""
