"""The toy world: pictures and clips of coloured shapes, in the file formats of the real benchmarks."""

from hyperseg_jax.toy.clip_layouts import write_clip_layouts
from hyperseg_jax.toy.pictures import World
from hyperseg_jax.toy.readers import open_reader
from hyperseg_jax.toy.vocabulary import VERSION
from hyperseg_jax.toy.writer import read_world, write

__all__ = ["VERSION", "World", "open_reader", "read_world", "write", "write_clip_layouts"]
