"""Every program of the repository started by its path with a Python that has none of the libraries."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PROGRAMS = [
    "execution_service/execution_main.py",
    "scripts/execctl.py",
    "scripts/kite_login.py",
    "scripts/mvp_demo_start.py",
    "scripts/mvp_demo_status.py",
    "scripts/send_test_signal.py",
    "tests/signals_testing/send_test_signal.py",
]
COMMANDS = ["execctl", "execution-service", "kite-login", "mvp-demo-start", "mvp-demo-status", "send-test-signal"]


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_finds_the_python_that_has_its_libraries(program: str) -> None:
    bare = [
        sys.executable,
        "-S",
    ]  # -S: without site-packages, so without any library; not handed on to the Python that it finds
    lacking = subprocess.run([*bare, "-c", "import pymongo"], capture_output=True, text=True)
    assert lacking.returncode != 0
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    found = subprocess.run(
        [*bare, str(ROOT / program), "--help"], capture_output=True, text=True, env=environment, cwd=ROOT.parent
    )
    assert found.returncode == 0, found.stderr
    assert "usage:" in found.stdout


def test_every_command_for_people_is_installed() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]
    assert sorted(declared) == COMMANDS
    for target in declared.values():
        module, _, function = target.partition(":")
        assert callable(getattr(import_module(module), function))


def test_what_imports_the_service_keeps_its_own_way_to_stop() -> None:
    program = (
        "import signal; before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)];"
        "import execution_service.execution_main;"
        "print([signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before)"
    )
    said = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert said.stdout == "True\n"


def test_no_garbage_is_collected_while_the_service_is_loaded() -> None:
    program = (
        "import atexit, gc, runpy, sys; sys.argv = ['execution_service/execution_main.py', '--help'];"
        "atexit.register(lambda: print(gc.isenabled())); runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    said = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert said.stdout.splitlines()[-1] == "False"


def test_garbage_is_collected_once_the_service_is_loaded() -> None:
    program = (
        "import gc; from execution_service import execution_main as entry; gc.disable(); entry._loaded(entry.SERVICE);"
        "print(gc.isenabled(), gc.get_freeze_count() > 0)"
    )
    said = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert said.stdout == "True True\n"
