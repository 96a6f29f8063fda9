"""The data stream: from the records of readers to batches.

sources         the data block of a config -> tasks: readers, and how an example becomes arrays
augment         random changes of a training example
processor       what a system does with an example: arrays of fixed shape, buckets
mixture         global index -> (task, record), by exact ratios
pipeline        the stream of batches, whose position is one integer
padding         how much of the batches is padding, and which length would do
video_files     frames of video files, folders and streams, one at a time
"""
