"""Predictions in the file formats of the benchmarks' servers, one file a format; each `write` makes a whole file.

coco_panoptic     predictions.json and PNGs of segment ids
mmbench           a spreadsheet of answers
ref_youtube_vos   a zip of one PNG a frame and expression
vqa               a json list of answers
youtube_vis       a zip of run lengths by video
whole_zip         the zip that appears whole, and PNG bytes
"""
