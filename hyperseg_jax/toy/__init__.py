"""The toy world: images and videos of coloured shapes, in the file formats of the real benchmarks.

What is drawn
    vocabulary      colours, shapes, sizes, and what is kept out of training
    scenes          which shapes stand where, and what is visible of each
    drawing         shapes as pixels
    clips           videos: shapes that move, cross and hide each other

What is said about it
    expressions     referring expressions
    questions       reasoning questions with explanations, conversations
    corpus          all texts, from which the toy tokenizer is trained

Records, files and readers
    toy_images      the records of a world: each follows from the seed and its index
    writer          writes a world
    readers         reads a world
    clip_layouts    toy videos in the layouts of the video benchmarks
    samples         a few toy examples in the layout of every benchmark
    text_controls   the objects and targets of the referring test
"""

from hyperseg_jax.toy.clip_layouts import write_clip_layouts
from hyperseg_jax.toy.readers import open_reader
from hyperseg_jax.toy.toy_images import World
from hyperseg_jax.toy.vocabulary import VERSION
from hyperseg_jax.toy.writer import read_world, write

__all__ = ["VERSION", "World", "open_reader", "read_world", "write", "write_clip_layouts"]
