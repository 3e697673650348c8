"""The command that turns a login at Zerodha into the day's token file, against the simulated Kite."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from simulators.zerodha import DEFAULT_API_SECRET
from simulators.zerodha.server import SimulatedKite
from tests.external.forked import REPOSITORY
from tests.external.service_process import Service

SCRIPT = REPOSITORY / "scripts" / "kite_login.py"


@pytest.fixture
def kite(tmp_path: Path) -> Iterator[SimulatedKite]:
    with SimulatedKite(tmp_path / "kite.db") as server:
        yield server


def log_in(folder: Path, kite: SimulatedKite, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    settings = {
        "USE_MOCK_BROKER": "false",
        "MONGODB_URI": "mongodb://127.0.0.1:1/",
        "KITE_API_KEY": kite.api_key,
        "KITE_API_SECRET": DEFAULT_API_SECRET,
        "KITE_ACCESS_TOKEN_FILE": str(folder / "token"),
        "KITE_ROOT_URL": kite.root_url,
    }
    environment = Service(folder, **(settings | more)).environment()
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        env={name: value for name, value in environment.items() if value},
        cwd=folder,
        input="https://app.example/?action=login&status=success&request_token=" + kite.log_in() + "\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_login_leaves_the_days_token_in_its_file_for_its_owner_only(tmp_path: Path, kite: SimulatedKite) -> None:
    done = log_in(tmp_path, kite)
    assert done.returncode == 0, done.stderr
    token = tmp_path / "token"
    assert token.read_text().strip() == kite.access_token
    assert token.stat().st_mode & 0o077 == 0
    assert kite.access_token not in done.stdout + done.stderr
    assert "login" in done.stderr


def test_a_request_token_is_good_once(tmp_path: Path, kite: SimulatedKite) -> None:
    request_token = kite.log_in()
    assert log_in(tmp_path, kite, "--request-token", request_token).returncode == 0
    before = os.stat(tmp_path / "token").st_mtime_ns
    again = log_in(tmp_path, kite, "--request-token", request_token)
    assert (again.returncode, "invalid or has expired" in again.stderr) == (1, True)
    assert os.stat(tmp_path / "token").st_mtime_ns == before


def test_what_is_missing_is_named(tmp_path: Path, kite: SimulatedKite) -> None:
    for lacking, told in (
        ({"KITE_API_SECRET": ""}, "api_secret"),
        ({"KITE_ACCESS_TOKEN_FILE": ""}, "access_token_file is missing"),
        ({"KITE_ACCESS_TOKEN_FILE": "", "KITE_ACCESS_TOKEN": "of-today"}, "access_token_file"),
    ):
        done = log_in(tmp_path, kite, **lacking)
        assert (done.returncode, told in done.stderr) == (2, True)
    assert log_in(tmp_path, kite, "--account", "Nobody").returncode == 2
