"""The demo's simulated gateway: starting, finding, commanding and stopping its process, and the accounts that use
it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from brokers.registry import manifests
from execution_service.app.settings.loading import Settings
from execution_service.app.settings.model import REPOSITORY_ROOT
from simulators.catalogue import programs, simulator_of
from simulators.simulator import Place, account_table

DATABASE_NAME_LENGTH = 63
FILL_DELAY_SECONDS = 0.5
READY_SECONDS = 30.0
STOP_SECONDS = 10.0
CALL_SECONDS = 5.0
LOOK_SECONDS = 0.05
LAST_LINES = 15


class GatewayFailed(Exception):
    """The gateway could not be started, commanded or stopped. The message says where to look."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """A running gateway, as in its notice. `address` is where the broker's library reaches it."""

    broker: str
    pid: int
    address: str
    control_url: str

    def state(self) -> Mapping[str, Any]:
        """Its state. Raises GatewayFailed."""
        return self._call(Request(self.control_url))

    def do(self, **command: object) -> Mapping[str, Any]:
        """Sends a command to its control side. Raises GatewayFailed."""
        return self._call(Request(self.control_url, json.dumps(command).encode()))

    def _call(self, request: Request) -> Mapping[str, Any]:
        try:
            with urlopen(request, timeout=CALL_SECONDS) as answer:
                said: Mapping[str, Any] = json.load(answer)
        except OSError as exc:
            raise GatewayFailed(f"the simulated gateway (process {self.pid}) does not answer: {exc}") from exc
        return said


def folder_of(settings: Settings) -> Path:
    """The folder of the gateway's book, its notice and the demo's accounts file."""
    return settings.data_dir / "demo"


def running_gateway(settings: Settings) -> Gateway | None:
    """The gateway running with this DATA_DIR. A notice left by a killed one does not count."""
    left = left_gateway(settings)
    return left if left is not None and _is_gateway(left) else None


def left_gateway(settings: Settings) -> Gateway | None:
    """The gateway whose notice exists, running or not."""
    for broker in programs():
        try:
            said = json.loads(_notice(settings, broker).read_text(encoding="utf-8"))
        except FileNotFoundError:
            continue
        return Gateway(broker=broker, pid=int(said["pid"]), address=said["gateway"], control_url=said["control"])
    return None


def start_gateway(settings: Settings, broker: str, faults: str | None = None) -> Gateway:
    """Starts it in the background on free loopback ports, with the book that it had before; with `faults`
    (`SEED[:RATE]`) it plays random faults. Raises GatewayFailed."""
    _forget(settings)
    folder = folder_of(settings)
    for each in (settings.data_dir, folder):  # `mkdir` would create parents readable by others
        each.mkdir(mode=0o700, parents=True, exist_ok=True)
    output = settings.log_dir / "simulated_gateway.console.log"
    command = [sys.executable, "-m", _program(broker), "--port", "0", "--data", str(folder / f"{broker}.db")]
    command += [
        "--notice",
        str(_notice(settings, broker)),
        "--fill-delay-seconds",
        str(FILL_DELAY_SECONDS),
        "--seed",
        "1",
        *(() if faults is None else ("--faults", faults)),
    ]
    with open(output, "wb") as sink:
        process = subprocess.Popen(
            command,
            cwd=REPOSITORY_ROOT,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    end = time.monotonic() + READY_SECONDS
    while process.poll() is None and time.monotonic() < end:
        found = left_gateway(settings)
        if found is not None and found.pid == process.pid:
            return found
        time.sleep(LOOK_SECONDS)
    if process.poll() is None:
        process.kill()
    last = "\n".join(f"  {line}" for line in output.read_text(errors="replace").splitlines()[-LAST_LINES:])
    raise GatewayFailed(f"The simulated gateway did not start. The last lines of {output}:\n{last}")


def stop_gateway(settings: Settings) -> int | None:
    """Stops the running gateway, if there is one, and returns its process id. Its book is kept. Raises
    GatewayFailed."""
    gateway = running_gateway(settings)
    if gateway is None:
        _forget(settings)
        return None
    with contextlib.suppress(ProcessLookupError):
        os.kill(gateway.pid, signal.SIGTERM)
    end = time.monotonic() + STOP_SECONDS
    while _is_gateway(gateway):
        if time.monotonic() > end:
            raise GatewayFailed(
                f"The simulated gateway, process {gateway.pid}, has not ended within {STOP_SECONDS:.0f} s"
            )
        time.sleep(LOOK_SECONDS)
    _forget(settings)
    return gateway.pid


def environment_for(settings: Settings, gateway: Gateway) -> dict[str, str]:
    """This process's environment, but with the demo's own accounts and database: trades of the mock broker for an
    account of the same name are not in the gateway's book. Raises GatewayFailed."""
    place = Place(address=gateway.address, folder=folder_of(settings), ask=gateway.do)
    return environment_at(settings, gateway.broker, place)


def environment_in_process(settings: Settings, broker: str) -> dict[str, str]:
    """The same for a broker that needs no gateway."""
    return environment_at(settings, broker, Place(address="", folder=folder_of(settings) / broker))


def environment_at(settings: Settings, broker: str, place: Place) -> dict[str, str]:
    """With one account at that broker. Raises GatewayFailed."""
    accounts = folder_of(settings) / "accounts.toml"
    accounts.parent.mkdir(parents=True, exist_ok=True)
    simulator, manifest = simulator_of(broker), manifests()[broker]
    keys = simulator.account(place)
    named = {"name": f"{manifest.title} demo (simulated)", "broker": broker}
    accounts.write_text(account_table(simulator.demo_account_id, {**named, **keys}), encoding="utf-8")
    return {
        **os.environ,
        "ACCOUNTS_FILE": str(accounts),
        "MONGODB_DATABASE": _database(settings, broker),
        "USE_MOCK_BROKER": "false",
        **simulator.environment,
    }


def _database(settings: Settings, broker: str) -> str:
    ending = f"_{broker}_demo"
    return settings.mongodb_database[: DATABASE_NAME_LENGTH - len(ending)] + ending


def _program(broker: str) -> str:
    program = simulator_of(broker).program
    assert program is not None, broker
    return program


def _notice(settings: Settings, broker: str) -> Path:
    return folder_of(settings) / f"{broker}.json"


def _forget(settings: Settings) -> None:
    """Removes what killed gateways left behind."""
    for broker in programs():
        _notice(settings, broker).unlink(missing_ok=True)


def _is_gateway(gateway: Gateway) -> bool:
    """Whether the process is running and is that gateway, not another process with a reused id."""
    try:
        os.kill(gateway.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    process = Path(f"/proc/{gateway.pid}")
    if not process.parent.joinpath("self").exists():
        return True  # without /proc the process id must suffice
    try:
        # Empty for a zombie.
        return _program(gateway.broker).encode() in process.joinpath("cmdline").read_bytes()
    except OSError:
        return False
