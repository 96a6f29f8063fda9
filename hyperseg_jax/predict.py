"""python -m hyperseg_jax.predict: the same as `hyperseg predict`."""

import sys

from hyperseg_jax.commands.main import main

if __name__ == "__main__":
    main(["predict", *sys.argv[1:]])
