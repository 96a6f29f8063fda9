"""python -m hyperseg_jax.evaluate: the same as `hyperseg evaluate`."""

import sys

from hyperseg_jax.commands.main import main
from hyperseg_jax.commands.script import script

if __name__ == "__main__":
    with script():
        main(["evaluate", *sys.argv[1:]])
