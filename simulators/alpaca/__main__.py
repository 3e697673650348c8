"""The program `python -m simulators.alpaca`."""

import sys

from simulators.alpaca.server import main

if __name__ == "__main__":
    sys.exit(main())
