"""Builds: a benchmark's examples in ArrayRecord shards, for pods that read from a bucket. Read by datasets/built."""
