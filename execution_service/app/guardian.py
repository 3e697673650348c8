"""Runs one program for as long as its standard input stays open: so that a child dies with its parent, also when that is killed.

`python guardian.py LOCKFILE FOLDER COMMAND …`: waits for the lock, makes the command's folder ready, starts the command, and ends it: in peace at a
signal or at a word on standard input, at once where that ends without one, for then the parent was killed. Standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

GRACE_SECONDS = 5.0
LOCK_POLL_SECONDS = 0.01
LEAVE = b"leave\n"
"""What a parent that stops says: the command may take its time to end."""
UNFINISHED = "unfinished"
"""A file in the folder, from before the command is first started there until whoever uses it says that it is complete (`note_complete`)."""
SET_ASIDE_AT_MOST = 5
"""Folders that were unfinished. Where a start fails over and over the last of them is replaced, so that they do not fill the disk."""
PR_SET_PDEATHSIG = 1


def main() -> int:
    lock_path, folder, command = sys.argv[1], Path(sys.argv[2]), sys.argv[3:]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    stopped, stop = os.pipe()
    signal.signal(signal.SIGTERM, lambda *_: os.write(stop, b"x"))
    with open(lock_path, "a", encoding="ascii") as lock:
        if not _locked(lock.fileno(), stopped):
            return 0
        make_ready(folder)
        libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None

        def die_with_me() -> None:
            os.setsid()
            if libc is not None:
                libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

        # The command holds the lock too: if we are killed, the next guardian waits until it has really let go of its files.
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=die_with_me, pass_fds=(lock.fileno(),))
        while child.poll() is None:
            ready, _, _ = select.select([0, stopped], [], [], 0.5)
            if ready:
                # What was killed is waited for by the next life, and what counts is durable already: nothing is gained by a slow end.
                is_in_peace = stopped in ready or bool(os.read(0, len(LEAVE)))
                return _end(child, GRACE_SECONDS if is_in_peace else 0.0)
        return child.returncode


def make_ready(folder: Path) -> None:
    """A folder that is not there is made, for its owner only, with the mark that it is unfinished. One that bears the mark is set aside, and made
    anew: a program that was killed while it made its files there may never start on them again, and nothing was kept in them. Any other is
    left as it is. To be called by who holds the lock. Raises OSError."""
    if (folder / UNFINISHED).exists():
        names = [folder.with_name(f"{folder.name}.unfinished-{n}") for n in range(1, SET_ASIDE_AT_MOST + 1)]
        aside = next((name for name in names if not name.exists()), names[-1])
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
    if not folder.exists():
        # The mark is in it from its first moment on: a folder without one may have everything.
        fresh = folder.with_name(f"{folder.name}.new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700, parents=True)
        (fresh / UNFINISHED).touch(mode=0o600)
        _sync(fresh)
        fresh.rename(folder)
        _sync(folder.parent)


def note_complete(folder: Path) -> None:
    """From now on what is in the folder is kept, whatever happens. To be called before anything is stored there. Raises OSError: then nothing may
    be stored there."""
    mark = folder / UNFINISHED
    if mark.exists():
        mark.unlink()
        _sync(folder)


def _sync(folder: Path) -> None:
    """What was made or removed in it is so after a power failure, too."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _locked(descriptor: int, stopped: int) -> bool:
    """True once the lock is ours, which a program that is still ending may hold; False if we are to stop before that."""
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        ready, _, _ = select.select([0, stopped], [], [], LOCK_POLL_SECONDS)
        if ready:
            return False


def _end(child: subprocess.Popen[bytes], grace_seconds: float) -> int:
    if grace_seconds:
        child.terminate()
    end = time.monotonic() + grace_seconds
    while child.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    if child.poll() is None:
        child.kill()
    child.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
