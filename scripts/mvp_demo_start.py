"""Starts and stops everything that one machine needs, in the background: the service and, for a real adapter, a
simulated gateway."""

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
    from execution_service.app.own_python import use_own_python

    use_own_python()

from rich.console import Console

from brokers.registry import stand_in
from execution_service.app.settings.loading import Settings
from execution_service.app.settings.model import REPOSITORY_ROOT
from scripts.demo_gateway import (
    Gateway,
    GatewayFailed,
    environment_for,
    environment_in_process,
    left_gateway,
    running_gateway,
    start_gateway,
    stop_gateway,
)
from scripts.display import new_console, print_table
from scripts.locate import Notice, is_service, running_service, settings_or_exit
from simulators.catalogue import in_process, programs, simulator_of
from simulators.fault_plan import FaultPlan

READY_SECONDS = 150.0
STOP_SECONDS = 20.0
LOOK_SECONDS = 0.1
LAST_LINES = 15
EXIT_FAILED, EXIT_ARGUMENTS = 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0 if the service runs (or, with --stop, does not), 1 if it could not be started or stopped, 2 for
    wrong arguments or settings."""
    mock, simulated = stand_in().name, programs()
    brokers = (mock, *simulated, *in_process())
    parser = argparse.ArgumentParser(
        description="Starts the execution service with all it needs in the background. "
        f"{' and '.join(simulated)} are the real adapters and libraries, against a simulated gateway on this machine: no order leaves it."
    )
    parser.add_argument(
        "--broker", default=mock, type=str.lower, help=f"what serves the demo's accounts: {', '.join(brokers)}"
    )
    parser.add_argument("--stop", action="store_true", help="stop what was started so")
    parser.add_argument(
        "--faults",
        metavar="SEED[:RATE]",
        help="the simulated gateway plays random faults, the same again by the same seed (the rate: of all calls; 0.1 unless told)",
    )
    options = parser.parse_args(arguments)
    if options.faults is not None:
        wrong = _what_is_wrong_with(options.faults, options.broker)
        if wrong is not None:
            parser.error(wrong)
    console = new_console()
    if options.broker not in brokers:
        print(
            f"The demo has no broker {options.broker!r}; this version has: {', '.join(brokers)}. Real accounts: "
            "accounts.toml and python execution_service/execution_main.py",
            file=sys.stderr,
        )
        return EXIT_ARGUMENTS
    settings = settings_or_exit()
    notice, gateway = running_service(settings), left_gateway(settings)
    try:
        if options.stop:
            return _stop(settings, notice, console)
        if notice is None:
            gateway, notice = _start(settings, options.broker, running_gateway(settings), console, options.faults)
        else:
            runs = _broker_started(settings) if gateway is None else gateway.broker
            console.print(f"Already running: process {notice.pid}.")
            if runs != options.broker:
                print(
                    f"It runs with the {'simulated ' if gateway else ''}{runs} broker: first stop it with "
                    "python scripts/mvp_demo_start.py --stop",
                    file=sys.stderr,
                )
                return EXIT_FAILED
            if options.faults is not None:
                print(
                    "It runs already, with the faults that it was started with: first stop it with --stop",
                    file=sys.stderr,
                )
                return EXIT_FAILED
            if gateway is not None:
                gateway.state()
    except GatewayFailed as exc:
        print(str(exc), file=sys.stderr)
        return EXIT_FAILED
    if notice is None:
        return EXIT_FAILED
    _show(settings, notice, gateway, console)
    return 0


def _what_is_wrong_with(faults: str, broker: str) -> str | None:
    """Why a gateway could not play these faults; None: it can."""
    if broker not in programs():
        return f"--faults is for a simulated gateway: --broker {' or '.join(programs())}"
    try:
        FaultPlan.of(faults)
    except ValueError as exc:
        return f"--faults {faults}: {exc}"
    return None


def _start(
    settings: Settings, broker: str, running: Gateway | None, console: Console, faults: str | None
) -> tuple[Gateway | None, Notice | None]:
    """The gateway and the service's notice, once both are ready. Without a notice the start failed, and the reason
    was printed."""
    settings.log_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    if broker == stand_in().name:
        stop_gateway(settings)
        return None, _start_service(settings, broker, ["--use-mock-broker"], None, console)
    if broker in in_process():
        stop_gateway(settings)
        return None, _start_service(settings, broker, [], environment_in_process(settings, broker), console)
    if running is not None and (running.broker != broker or faults is not None):
        stop_gateway(settings)
        running = None
    with console.status("starting the simulated gateway"):
        gateway = running or start_gateway(settings, broker, faults)
    notice = None
    try:
        notice = _start_service(settings, broker, [], environment_for(settings, gateway), console)
    finally:
        if notice is None:
            stop_gateway(settings)
    return gateway, notice


def _start_service(
    settings: Settings, broker: str, arguments: Sequence[str], environment: dict[str, str] | None, console: Console
) -> Notice | None:
    """The notice of the service once it is ready. None: the start failed, and the reason was printed."""
    output = settings.log_dir / "execution_service.console.log"
    with open(output, "wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "execution_service.execution_main", *arguments],
            cwd=REPOSITORY_ROOT,
            env=environment,
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
                _started(settings).write_text(f"{process.pid} {broker}\n", encoding="utf-8")
                return notice
            time.sleep(LOOK_SECONDS)
    notice = running_service(settings)
    if notice is not None:
        return notice  # another one was started at the same moment, and ours gave way
    if process.poll() is None:
        process.terminate()
        words = f"was not ready within {READY_SECONDS:.0f} s and was told to stop"
    else:
        words = f"ended with exit status {process.returncode}"
    print(f"The execution service {words}. The last lines of {output}:", file=sys.stderr)
    for line in output.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:]:
        print(f"  {line}", file=sys.stderr)
    return None


def _stop(settings: Settings, notice: Notice | None, console: Console) -> int:
    if notice is not None:
        if not _is_started_here(settings, notice):
            print(
                f"Process {notice.pid} was not started by mvp_demo_start.py, and is left running: end it where it was started "
                f"(Ctrl-C), or with kill {notice.pid}",
                file=sys.stderr,
            )
            return EXIT_FAILED
        if not _has_stopped(notice, console):
            return EXIT_FAILED
        _started(settings).unlink(missing_ok=True)
        console.print(f"Stopped: process {notice.pid}. Working orders stay at the broker.")
    gateway_pid = stop_gateway(settings)
    if gateway_pid is not None:
        console.print(f"Stopped: the simulated gateway, process {gateway_pid}. Its book stays.")
    if notice is None and gateway_pid is None:
        console.print("Nothing runs.")
    return 0


def _started(settings: Settings) -> Path:
    """The file with the id of the process that was last started here, and its broker."""
    return settings.data_dir / "mvp_demo_start.pid"


def _is_started_here(settings: Settings, notice: Notice) -> bool:
    try:
        return _started(settings).read_text(encoding="utf-8").split()[:1] == [str(notice.pid)]
    except FileNotFoundError:
        return False


def _broker_started(settings: Settings) -> str:
    """What the service was started with here, where no gateway runs."""
    try:
        told = _started(settings).read_text(encoding="utf-8").split()
    except FileNotFoundError:
        told = []
    return told[1] if len(told) > 1 else stand_in().name


def _has_stopped(notice: Notice, console: Console) -> bool:
    os.kill(notice.pid, signal.SIGTERM)
    end = time.monotonic() + STOP_SECONDS
    with console.status(f"stopping process {notice.pid}"):
        while time.monotonic() < end:
            if not is_service(notice.pid):
                return True
            time.sleep(LOOK_SECONDS)
    print(f"Process {notice.pid} has not ended within {STOP_SECONDS:.0f} s", file=sys.stderr)
    return False


def _show(settings: Settings, notice: Notice, gateway: Gateway | None, console: Console) -> None:
    broker = _broker_started(settings) if gateway is None else gateway.broker
    project = notice.google_cloud_project
    print_table(
        console,
        "Running",
        ("Part", "Where"),
        (
            ("execution service", f"process {notice.pid}"),
            *(() if gateway is None else _gateway_rows(gateway)),
            (
                "store",
                f"{notice.mongodb_uri or settings.printable()['MONGODB_URI']}, database {notice.mongodb_database}",
            ),
            ("Pub/Sub", f"{notice.pubsub_emulator_host or 'Google'}, project {project}"),
            ("data", settings.data_dir),
            ("logs", settings.log_dir),
        ),
        prose=("Where",),
    )
    console.print("Next:")
    for command in (
        *(f"python tests/signals_testing/send_test_signal.py --file {what}" for what in simulator_of(broker).samples),
        "python scripts/mvp_demo_status.py",
        "python scripts/execctl.py orders",
        "python scripts/mvp_demo_start.py --stop",
    ):
        console.print(f"  {command}")


def _gateway_rows(gateway: Gateway) -> tuple[tuple[str, str], ...]:
    account_id = simulator_of(gateway.broker).demo_account_id
    return (
        ("simulated gateway", f"{gateway.broker}, process {gateway.pid}, {gateway.address}"),
        ("its control side", gateway.control_url),
        (
            "account",
            f"{account_id}: test signals must name it (--account {account_id})",
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
