"""Submission files for the benchmarks' evaluation servers, one module per format; each `write` is atomic.

coco_panoptic     predictions.json and PNGs of segment ids
davis             a zip with a PNG of object ids per frame
mmbench           a spreadsheet of answers
ref_youtube_vos   a zip with one PNG per frame and expression
vqa               a JSON list of answers
youtube_vis       a zip with the run lengths of each video
atomic_zip        writes zip files atomically; PNG encoding
"""
