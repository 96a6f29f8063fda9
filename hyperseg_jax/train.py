"""python -m hyperseg_jax.train: the same as `hyperseg train`."""

import sys

from hyperseg_jax.commands.main import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
