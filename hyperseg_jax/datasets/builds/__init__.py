"""Builds: the examples of a benchmark in ArrayRecord shards, for pods that read from a bucket. `datasets/built` reads them.

build       writes the shards of a split, with worker processes, and continues after a stop
index       build.json, the json beside each shard, and index.json
store       a folder on this machine or in a bucket
records     an Example as bytes, and back
images      frames as image files
clips       clips from the whole video that a record holds
"""
