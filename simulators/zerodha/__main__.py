"""The program `python -m simulators.zerodha`."""

import sys

from simulators.zerodha.server import main

if __name__ == "__main__":
    sys.exit(main())
