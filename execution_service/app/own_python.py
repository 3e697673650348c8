"""The first moments of a program: it starts again with the repository's own Python, the one that has the libraries, and can be stopped
already. Standard library only, and knows no program."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from pathlib import Path

REPOSITORY_ROOT = Path(__file__).resolve().parent.parent.parent
ENVIRONMENT = REPOSITORY_ROOT / ".venv"
STARTED_AGAIN = "EXECUTION_SERVICE_STARTED_AGAIN"


STOPS = (signal.SIGTERM, signal.SIGINT)


def stop_at_once(*, is_question: bool) -> None:
    """Until somebody else takes care of them, SIGTERM and SIGINT end the process at once: for a program that has begun nothing yet, and whose
    children end with it. One that came since `use_own_python` counts too. Its status is 0, but for a question: to end it is no answer."""
    for number in STOPS:
        signal.signal(number, _end_unanswered if is_question else _end)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)


def _end(*_: object) -> None:
    os._exit(0)


def _end_unanswered(number: int, *_: object) -> None:
    os._exit(128 + number)


def use_own_python() -> None:
    """Returns in a Python that has the libraries, or replaces the process by one, or ends it saying how to make one.

    A virtual environment that somebody chose and that has the libraries is left alone. To be called before anything third-party is
    imported, by a program that was started by its path.
    """
    was_started_again = os.environ.pop(STARTED_AGAIN, None) is not None
    python = ENVIRONMENT / "bin" / "python"
    is_own = Path(sys.prefix).resolve() == ENVIRONMENT.resolve()
    is_chosen = sys.prefix != sys.base_prefix and _has_libraries()
    if not is_own and not is_chosen and not was_started_again and os.access(python, os.X_OK):
        os.environ[STARTED_AGAIN] = "1"
        sys.stdout.flush()
        if signal.getsignal(signal.SIGTERM) in (_end, _end_unanswered):
            signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)  # kept for the program that takes our place
        os.execv(python, [str(python), *sys.argv])
    if not _has_libraries():
        sys.exit(
            f"This Python ({sys.executable}) has not the libraries of this project. Once, in {REPOSITORY_ROOT}:\n"
            "  make setup\n"
            "or, with a Python of your own choice:\n"
            "  python3 -m venv .venv && .venv/bin/pip install -e '.[embedded]'"
        )


def _has_libraries() -> bool:
    return all(importlib.util.find_spec(name) is not None for name in ("pymongo", "pydantic_settings", "rich"))
