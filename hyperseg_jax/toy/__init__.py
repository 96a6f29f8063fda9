"""The toy world: images and videos of coloured shapes, in the file formats of the real benchmarks.

Drawing
    vocabulary      colours, shapes and sizes, and which are held out from training
    scenes          the placement and visibility of shapes
    drawing         rasterizes shapes
    videos          videos of shapes that move and occlude each other
    occlusion_videos  videos of shapes that vanish behind others and return, enter late and leave

Text
    expressions     referring expressions
    captions        captions of single objects, in the files of Visual Genome
    questions       reasoning questions with explanations, conversations
    corpus          the training texts of the toy tokenizer

Records, files and readers
    toy_images      generates the records of a world from seed and index
    writer          writes a world
    track_files     the objects of videos, and when they are visible, occluded or outside
    readers         reads a world
    video_layouts   writes toy videos in the layouts of the video benchmarks
    samples         writes a few toy examples in the layout of every benchmark
    text_controls   objects and targets for the text-control test of referring expressions
"""

from hyperseg_jax.toy.readers import CLIPS, open_reader
from hyperseg_jax.toy.toy_images import World
from hyperseg_jax.toy.video_layouts import write_video_layouts
from hyperseg_jax.toy.vocabulary import FILES, VERSION
from hyperseg_jax.toy.writer import read_world, write_world

__all__ = ["CLIPS", "FILES", "VERSION", "World", "open_reader", "read_world", "write_video_layouts", "write_world"]
