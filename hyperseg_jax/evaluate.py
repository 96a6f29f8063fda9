"""python -m hyperseg_jax.evaluate: the same as `hyperseg evaluate`."""

import sys

from hyperseg_jax.commands.main import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
