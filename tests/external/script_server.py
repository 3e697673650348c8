"""Has the libraries of the scripts loaded, and runs each script that it is asked for as a process of its own, forked from this one: `python -m
tests.external.script_server SOCKET`. `scripts_run.py` asks."""

from __future__ import annotations

import atexit
import contextlib
import io
import json
import os
import runpy
import socketserver
import sys
import traceback
from pathlib import Path
from typing import Any, NoReturn

# Loaded here, once, for all that are forked.
from scripts import execctl, mvp_demo_status, send_test_signal

LOADED = (execctl, mvp_demo_status, send_test_signal)


class Server(socketserver.ForkingMixIn, socketserver.UnixStreamServer):
    """A process for each caller."""

    timeout = 1.0
    block_on_close = False


class Handler(socketserver.StreamRequestHandler):
    """In the forked process: tells its id, becomes the script, and tells the script's exit status."""

    def handle(self) -> None:
        line = self.rfile.readline()
        if not line:
            return  # who only looked whether anybody listens
        asked: dict[str, Any] = json.loads(line)
        os.setsid()
        self._say(pid=os.getpid())
        with contextlib.suppress(BrokenPipeError):  # whoever asked does not wait any longer
            self._say(status=_become(asked))

    def _say(self, **words: int) -> None:
        self.wfile.write(json.dumps(words).encode() + b"\n")
        self.wfile.flush()


def _become(asked: dict[str, Any]) -> int:
    """The exit status of the script, which has run to its end, with all that it registered for it."""
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    for number, name in enumerate((os.devnull, asked["out"], asked["err"])):
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_APPEND), number)
    sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False), encoding="utf-8")
    sys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "w", closefd=False)), encoding="utf-8")
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(io.FileIO(2, "w", closefd=False)), encoding="utf-8", line_buffering=True
    )
    script = Path(asked["script"])
    sys.argv = [asked["script"], *asked["arguments"]]
    sys.path.insert(0, str(script.resolve().parent))
    try:
        runpy.run_path(str(script), run_name="__main__")
        status = 0
    except SystemExit as exc:
        if isinstance(exc.code, str):
            print(exc.code, file=sys.stderr)
        status = exc.code if isinstance(exc.code, int) else int(exc.code is not None)
    except BaseException:  # noqa: BLE001  as the interpreter does at the end of a program
        traceback.print_exc()
        status = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return status


def main() -> NoReturn:
    """Until it is ended, or whoever started it has."""
    parent = os.getppid()
    with Server(sys.argv[1], Handler) as server:
        while os.getppid() == parent:
            server.handle_request()
            server.service_actions()
    sys.exit(0)


if __name__ == "__main__":
    main()
