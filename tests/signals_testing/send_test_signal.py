"""Publishes a sample that lies beside it and follows it to its end; what it does is in `scripts/send_test_signal.py`."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from execution_service.app.own_python import use_own_python

    use_own_python()

from scripts.send_test_signal import main

if __name__ == "__main__":
    sys.exit(main())
