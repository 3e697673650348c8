"""Has modules loaded, and runs each program that it is asked for as a process of its own, forked from this one: `python -m
tests.external.fork_server SOCKET MODULE …`. `forked.py` asks."""

from __future__ import annotations

import atexit
import gc
import io
import json
import os
import runpy
import socketserver
import sys
import threading
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn


class Server(socketserver.ForkingMixIn, socketserver.UnixStreamServer):
    """A process for each caller."""

    timeout = 1.0
    block_on_close = False
    max_children = 1000


class Handler(socketserver.StreamRequestHandler):
    """In a forked process, the parent of the program's: tells the program's id, and when it has ended its exit status."""

    def handle(self) -> None:
        line = self.rfile.readline()
        if not line:
            return  # who only looked whether anybody listens
        asked: dict[str, Any] = json.loads(line)
        process = os.fork()
        if process == 0:
            os._exit(_become(asked))
        try:
            self._say(pid=process)
        finally:
            _, status = os.waitpid(process, 0)
        self._say(status=os.waitstatus_to_exitcode(status))

    def _say(self, **words: int) -> None:
        try:
            self.wfile.write(json.dumps(words).encode() + b"\n")
        except BrokenPipeError:
            return  # whoever asked does not wait any longer


def _become(asked: dict[str, Any]) -> int:
    """The exit status of the program, which has run to its end, with all that it registered for it."""
    os.setsid()
    os.chdir(asked["folder"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    for number, name in enumerate((os.devnull, asked["out"], asked["err"])):
        os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_APPEND), number)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False), encoding="utf-8")
    sys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "w", closefd=False)), encoding="utf-8")
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(io.FileIO(2, "w", closefd=False)), encoding="utf-8", line_buffering=True
    )
    program = Path(asked["program"])
    sys.argv = [asked["program"], *asked["arguments"]]
    sys.path.insert(0, str(program.resolve().parent))
    try:
        runpy.run_path(str(program), run_name="__main__")
        status = 0
    except SystemExit as exc:
        if isinstance(exc.code, str):
            print(exc.code, file=sys.stderr)
        status = exc.code if isinstance(exc.code, int) else int(exc.code is not None)
    except BaseException:  # noqa: BLE001  as the interpreter does at the end of a program
        traceback.print_exc()
        status = 1
    # As the interpreter does: threads are waited for, then what was registered is called.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    return status


def main() -> NoReturn:
    """Until it is ended, or whoever started it has."""
    parent = os.getppid()
    address, *modules = sys.argv[1:]
    for name in modules:
        import_module(name)
    gc.freeze()  # what is loaded stays where it is, so that the forked ones share it
    with Server(address, Handler) as server:
        while os.getppid() == parent:
            server.handle_request()
            server.service_actions()
    sys.exit(0)


if __name__ == "__main__":
    main()
