"""The program `python -m simulators.ibkr`."""

from simulators.ibkr.gateway import main

if __name__ == "__main__":
    main()
