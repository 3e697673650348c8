"""The program `python -m simulators.binance`."""

import sys

from simulators.binance.server import main

if __name__ == "__main__":
    sys.exit(main())
