"""python -m hyperseg_jax.predict: the same as `hyperseg predict`."""

import sys

from hyperseg_jax.commands.main import main
from hyperseg_jax.commands.script import script

if __name__ == "__main__":
    with script():
        main(["predict", *sys.argv[1:]])
