"""python -m hyperseg_jax.train: the same as `hyperseg train`."""

import sys

from hyperseg_jax.commands.main import main
from hyperseg_jax.commands.script import script

if __name__ == "__main__":
    with script():
        main(["train", *sys.argv[1:]])
