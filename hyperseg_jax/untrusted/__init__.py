"""Readers of untrusted files. They never execute code in a file, and they bound memory and time.

limits          resource limits of input files: pixels, masks, frames, records, nesting, seconds
bad_file        the BadFile exception, and memory-mapped files
paths           file names in data: must stay in their folder and be regular files
budget          accumulated resource use of one record
images          decodes all images, with an allowlist of formats
image_parts     counts the parts of image files, and removes metadata
orientation     the EXIF orientation of image files, and turning pixels upright
mask_images     black and white images as masks, by their colours
libtiff         collects errors of Pillow's TIFF decoder
label_maps      reads matrices from MATLAB files
videos          decodes videos, with an allowlist of containers and codecs
video_ends      tells whether the end of a video file is missing
json_text       parses annotation files
array_record    checks ArrayRecord shards before the library unpacks them
msgpack_parts   counts the values of a record before it is unpacked
features        reads the metadata of datasets prepared by tensorflow-datasets
stores          opens buckets, with an allowlist of protocols
checkpoints     validates Orbax checkpoint folders before Orbax opens them
checkpoint_arrays   validates the shapes, dtypes and codecs of checkpoint arrays
checkpoint_index    bounds what the index of checkpoint arrays unpacks to
printing        sanitizes untrusted text for messages: no markup, no control characters
pickle_machine  reads pickles as data; names are only looked up in a table
regexes         bounds the time of regular expressions
strict_json     parses JSON with limits on size and nesting, without duplicate names
tokenizers      validates tokenizer files: known components, bounded growth, ids without gaps
old_pickles     operations of pickle protocols 0 and 1
"""
