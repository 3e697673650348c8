"""`make fuzz`: hostile messages for a given time, by the seeded mutations and, where it is installed, by atheris with coverage feedback."""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.fuzz.deliveries import check_attributes
from tests.fuzz.mutations import COMMANDS, Mutator, sample_messages, text_of
from tests.fuzz.oracle import check_command, check_order

REPOSITORY = Path(__file__).resolve().parent.parent.parent
COMMAND_SHARE = 8
"""One message in so many is a command."""
ATTRIBUTE_ROUND = 40


def by_mutation(seconds: float, seed: int) -> int:
    """0 when every message came out as one of the declared outcomes; 1, with the message, at the first that did not."""
    orders, commands = Mutator(seed), Mutator(seed, list(COMMANDS))
    outcomes: Counter[str] = Counter()
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        for number in range(400):
            is_command = number % COMMAND_SHARE == 0
            data = (commands if is_command else orders).message()
            check: Callable[[bytes], str] = check_command if is_command else check_order
            try:
                outcome = check(data)
            except BaseException as exc:
                if isinstance(exc, KeyboardInterrupt):
                    raise
                print(f"seed {seed}: {type(exc).__name__}: {exc}\nmessage: {data!r}", flush=True)
                return 1
            outcomes[f"command: {outcome}" if is_command else outcome] += 1
    took, total = time.monotonic() - began, sum(outcomes.values())
    told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
    print(f"mutations, seed {seed}: {total} messages in {took:.0f} s ({total / took:.0f}/s): {told}")
    return 0


def by_attributes(seconds: float, seed: int) -> int:
    """0 when hostile attributes beside good and bad bodies changed nothing."""
    outcomes: Counter[str] = Counter()
    began, rounds = time.monotonic(), 0
    while time.monotonic() - began < seconds:
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            try:
                outcomes += asyncio.run(check_attributes(Path(folder), seed + rounds, ATTRIBUTE_ROUND))
            except Exception as exc:  # noqa: BLE001  whatever it is, it is told with its seed
                print(f"attributes, seed {seed + rounds}: {type(exc).__name__}: {exc}", flush=True)
                return 1
        rounds += 1
    told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
    print(f"attributes, seeds {seed} to {seed + rounds - 1}: {outcomes.total()} messages in {seconds:.0f} s: {told}")
    return 0


def by_coverage(seconds: float, seed: int) -> int:
    """Runs atheris in a process of its own, which it never leaves alive; 0 unless it found something."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        for number, message in enumerate([*sample_messages(), *COMMANDS]):
            Path(folder, f"sample-{number}").write_text(text_of(message), encoding="utf-8")
        command = [sys.executable, "-m", "tests.fuzz", "--inside-atheris", folder]
        command += [f"-max_total_time={int(seconds)}", f"-seed={seed}", "-max_len=3000", "-print_final_stats=1"]
        done = subprocess.run(
            command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
    lines = done.stdout.splitlines()
    if done.returncode:
        print("\n".join(lines[-40:]))
        return 1
    stats = dict(line.removeprefix("stat::").split(":", 1) for line in lines if line.startswith("stat::"))
    executed = int(stats.get("number_of_executed_units", "0"))
    print(f"atheris, seed {seed}: {executed} messages in {seconds:.0f} s ({executed / max(seconds, 1):.0f}/s)")
    return 0


def inside_atheris(arguments: Sequence[str]) -> None:
    import atheris

    for name in ("execution_service.core.messages.fields", "execution_service.core.messages.inbound"):
        module = sys.modules[name]
        for thing in vars(module).values():
            _instrument(atheris, module.__name__, thing)

    def one(data: bytes) -> None:
        check_order(data)
        check_command(data)

    atheris.Setup([sys.argv[0], *arguments], one)
    atheris.Fuzz()


def _instrument(atheris: object, module: str, thing: object) -> None:
    if getattr(thing, "__module__", None) != module:
        return
    if isinstance(thing, type):
        for part in vars(thing).values():
            if hasattr(part, "__code__"):
                atheris.instrument_func(part)  # type: ignore[attr-defined]
    elif hasattr(thing, "__code__"):
        atheris.instrument_func(thing)  # type: ignore[attr-defined]


def main() -> int:
    if "--inside-atheris" in sys.argv[1:2]:
        inside_atheris(sys.argv[2:])
        return 0
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=float(os.environ.get("FUZZ_SECONDS") or 60))
    parser.add_argument("--seed", type=int, default=int(time.time()), help="default: the time; it is printed")
    options = parser.parse_args()
    has_atheris = importlib.util.find_spec("atheris") is not None
    beside = options.seconds / 6
    share = (options.seconds - beside) / (2 if has_atheris else 1)
    status = max(by_mutation(share, options.seed), by_attributes(beside, options.seed))
    if has_atheris:
        return max(status, by_coverage(share, options.seed))
    print("atheris is not installed here (it is for Linux on x86-64): seeded mutations only")
    return status


if __name__ == "__main__":
    sys.exit(main())
