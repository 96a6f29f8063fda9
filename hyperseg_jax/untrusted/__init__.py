"""Reading other people's files without executing them, within limits.

limits          how much a file may ask for: pixels, masks, frames, records, nesting, seconds
bad_file        the map of a file, and how a refusal is worded
paths           names in data: below their folder, and of regular files
budget          what one record has asked for so far
images          every image of the project: formats by name
libtiff         what Pillow's decoder of TIFF complains of
label_maps      matrices of MATLAB files
videos          containers and codecs by name
json_text       annotation files
features        datasets that tensorflow-datasets prepared
stores          buckets by name
checkpoints     folders that Orbax wrote, before it opens them
checkpoint_arrays   the arrays in them: their shapes, types and codecs
printing        how names and texts are printed: no markup, no control characters
pickle_machine  pickles read as data; names are only looked up in a table
strict_json     JSON of bounded size, parts and nesting, no name twice
tokenizers      what the files of a tokenizer may ask for: known components, bounded growth, ids without gaps
old_pickles     the operations of pickle protocols 0 and 1
"""
