"""The program `python -m simulators.pubsub`."""

import sys

from simulators.pubsub.server import main

if __name__ == "__main__":
    sys.exit(main())
