"""Starts everything that one machine needs, in the background, and stops it again; what it starts is the service itself, nothing else."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    from scripts.own_python import use_own_python

    use_own_python()

from rich.console import Console

from execution_service.settings import REPOSITORY_ROOT, Settings
from scripts.display import new_console, print_table
from scripts.whereabouts import Notice, is_service, running_service, settings_or_exit

BROKERS = ("mock",)
READY_SECONDS = 150.0
STOP_SECONDS = 20.0
LOOK_SECONDS = 0.1
LAST_LINES = 15
EXIT_FAILED, EXIT_ARGUMENTS = 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when the service runs (or, with --stop, does not); 1 when it could not be started or stopped; 2 for what this version has not."""
    parser = argparse.ArgumentParser(description="Starts the execution service with all it needs in the background.")
    parser.add_argument("--broker", default="mock", help=f"which broker serves every account: {', '.join(BROKERS)}")
    parser.add_argument("--stop", action="store_true", help="stop what runs")
    options = parser.parse_args(arguments)
    console = new_console()
    if options.broker not in BROKERS:
        print(
            f"The demo has no broker {options.broker!r}; this version has: {', '.join(BROKERS)}. Real accounts: "
            "accounts.toml and python execution_service/execution_main.py",
            file=sys.stderr,
        )
        return EXIT_ARGUMENTS
    settings = settings_or_exit()
    notice = running_service(settings)
    if options.stop:
        return _stop(notice, console)
    if notice is not None:
        console.print(f"Already running: process {notice.pid}.")
    else:
        notice = _start(settings, console)
        if notice is None:
            return EXIT_FAILED
    _show(settings, notice, console)
    return 0


def _start(settings: Settings, console: Console) -> Notice | None:
    """The notice of the service once it is ready; None, and the reason is printed, if it did not get so far."""
    settings.log_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    output = settings.log_dir / "execution_service.console.log"
    with open(output, "wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "execution_service.execution_main", "--use-mock-broker"],
            cwd=REPOSITORY_ROOT,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    end = time.monotonic() + READY_SECONDS
    with console.status("starting the execution service"):
        while process.poll() is None and time.monotonic() < end:
            notice = running_service(settings)
            if notice is not None and notice.pid == process.pid:
                return notice
            time.sleep(LOOK_SECONDS)
    notice = running_service(settings)
    if notice is not None:
        return notice  # somebody else started one at the same moment, and ours gave way
    if process.poll() is None:
        process.terminate()
        words = f"was not ready within {READY_SECONDS:.0f} s and was told to stop"
    else:
        words = f"ended with exit status {process.returncode}"
    print(f"The execution service {words}. The last lines of {output}:", file=sys.stderr)
    for line in output.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:]:
        print(f"  {line}", file=sys.stderr)
    return None


def _stop(notice: Notice | None, console: Console) -> int:
    if notice is None:
        console.print("Nothing runs.")
        return 0
    os.kill(notice.pid, signal.SIGTERM)
    end = time.monotonic() + STOP_SECONDS
    with console.status(f"stopping process {notice.pid}"):
        while time.monotonic() < end:
            if not is_service(notice.pid):
                console.print(f"Stopped: process {notice.pid}. Working orders stay at the broker.")
                return 0
            time.sleep(LOOK_SECONDS)
    print(f"Process {notice.pid} has not ended within {STOP_SECONDS:.0f} s", file=sys.stderr)
    return EXIT_FAILED


def _show(settings: Settings, notice: Notice, console: Console) -> None:
    project = notice.google_cloud_project
    print_table(
        console,
        "Running",
        ("Part", "Where"),
        (
            ("execution service", f"process {notice.pid}"),
            (
                "store",
                f"{notice.mongodb_uri or settings.printable()['MONGODB_URI']}, database {notice.mongodb_database}",
            ),
            ("Pub/Sub", f"{notice.pubsub_emulator_host or 'Google'}, project {project}"),
            ("data", settings.data_dir),
            ("logs", settings.log_dir),
        ),
    )
    console.print("Next:")
    for command in (
        "python tests/signals_testing/send_test_signal.py --file equity_simple_signal_1.json",
        "python scripts/mvp_demo_status.py",
        "python scripts/execctl.py orders",
        "python scripts/mvp_demo_start.py --stop",
    ):
        console.print(f"  {command}")


if __name__ == "__main__":
    sys.exit(main())
