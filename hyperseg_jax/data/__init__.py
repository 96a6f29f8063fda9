"""The input pipeline: turns dataset records into batches.

sources         builds tasks (readers and processors) from the data block of a config
augment         random augmentation of training examples
processor       the interface that turns an example into arrays of fixed shape; length buckets
targets         target masks as arrays of a fixed size
mixture         maps a global index to (task, record) by exact task ratios
pipeline        the stream of batches, whose state is one integer position
padding         measures the padding in training batches and proposes a sequence length
read_ahead      reads an iterator ahead in a thread
video_files     reads frames of video files, folders and streams one at a time
"""
