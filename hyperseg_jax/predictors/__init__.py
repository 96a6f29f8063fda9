"""The Python API for trained models.

model           Model: segments images and videos by text, classes or visual prompts, and answers questions; load()
arguments       checks the arguments of all of these
session         Session: interactive segmentation of one image, with undo
video_objects   follows objects through a video whose masks are given on a frame
automatic       finds everything in an image by prompting a grid of points
pseudo_labels   labels a folder of images, for self-training
"""
