"""Runs the command line as `python -m saepipe`, which is how `torchrun -m saepipe` starts a rank."""

import sys

from saepipe.cli import main

if __name__ == "__main__":
    sys.exit(main())
