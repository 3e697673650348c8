"""The only entry: arguments, settings, logging, then the service; nothing else."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

if __package__ in (None, ""):  # started by its path, as the specification does
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    sys.path = [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent]
    from execution_service.app.own_python import stop_at_once, use_own_python

    stop_at_once(is_question="--check" in sys.argv)
    use_own_python()

if __name__ == "__main__":  # not where it is imported: other programs have a way of their own to stop
    from execution_service.app.own_python import stop_at_once

    stop_at_once(is_question="--check" in sys.argv)
    gc.disable()  # nothing that is loaded is garbage, and to look for some is an eighth of what loading costs

import argparse
import asyncio
import importlib
import threading
from collections.abc import Sequence
from typing import Any

from brokers.registry import quiet_loggers
from execution_service.app.embedded import EmbeddedPartFailed
from execution_service.app.endings import CannotGoOn, CannotStart
from execution_service.app.log import Logging, start_logging
from execution_service.app.log_lines import redact, safe
from execution_service.app.own_servers import own_servers
from execution_service.app.settings.loading import Settings, load_settings
from execution_service.app.settings.problems import ConfigurationError

SERVICE, CHECK = "execution_service.app.process", "execution_service.app.check"
EXIT_FAILED = 1
EXIT_CONFIGURATION = 2
STOP_SECONDS = 8.0


def main(arguments: Sequence[str] | None = None) -> int:
    """0 after a signal, 2 for configuration that cannot be used, 1 for the rest."""
    parser = argparse.ArgumentParser(
        prog="execution-service", description="Takes approved orders from Pub/Sub and executes each exactly once."
    )
    parser.add_argument("--use-mock-broker", action="store_true", help="serve every account by the mock broker")
    parser.add_argument(
        "--check", action="store_true", help="connect to everything once, say what works, place nothing"
    )
    options = parser.parse_args(arguments)
    try:
        settings = load_settings(use_mock_broker=options.use_mock_broker)
    except ConfigurationError as exc:
        for problem in exc.problems:
            print(f"Configuration: {problem}", file=sys.stderr)
        return EXIT_CONFIGURATION
    redact(*settings.secret_values)
    os.umask(0o077)  # every file and socket of ours and of the programs we start is its owner's alone
    if options.check:
        return 0 if asyncio.run(_loaded(CHECK).check(settings)) else EXIT_CONFIGURATION
    logging = start_logging(settings.log_dir, settings.log_level, settings.log_format.value, leaky=quiet_loggers())
    try:
        asyncio.run(_serve(settings, logging))
    except ConfigurationError as exc:
        logging.flush()
        for problem in exc.problems:
            print(f"Configuration: {problem}", file=sys.stderr)
        return EXIT_CONFIGURATION
    except (CannotStart, EmbeddedPartFailed) as exc:
        logging.flush()
        print(safe(f"Execution service cannot start: {exc}"), file=sys.stderr)
        return EXIT_FAILED
    except CannotGoOn as exc:
        logging.flush()
        print(safe(f"Execution service cannot go on: {exc}"), file=sys.stderr)
        return EXIT_FAILED
    finally:
        logging.stop()
    return 0


async def _serve(settings: Settings, logging: Logging) -> None:
    """The rest of the service is loaded, in a thread, while the servers of its own start. Raises as `serve` and `own_servers`."""
    async with own_servers(settings) as servers:
        process = await asyncio.to_thread(_loaded, SERVICE)
        await process.serve(
            settings,
            servers,
            lambda text: print(text, flush=True),
            lambda reason: _end_in_time(logging, EXIT_FAILED if reason else 0),
        )


def _loaded(module: str) -> Any:
    """Garbage is looked for from now on, and not in what lives as long as the process."""
    loaded = importlib.import_module(module)
    gc.freeze()
    gc.enable()
    return loaded


def _end_in_time(logging: Logging, status: int) -> None:
    """Ends the process though a store or Pub/Sub that hangs would hold it up: what counts is durable, the next start takes it up."""

    def end() -> None:
        logging.flush(1.0)
        print("Execution service stopped without waiting for what hangs", flush=True)
        os._exit(status)

    timer = threading.Timer(STOP_SECONDS, end)
    timer.daemon = True
    timer.start()


if __name__ == "__main__":
    sys.exit(main())
