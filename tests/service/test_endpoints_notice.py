"""The notice that a running service leaves in its data folder for scripts."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from execution_service.app.notice import write_endpoints

SETTINGS: Any = SimpleNamespace(
    mongodb_uri="mongodb://elsewhere", mongodb_database="db", google_cloud_project="project"
)
WORLD: Any = SimpleNamespace(mongodb_uri="mongodb://elsewhere", pubsub_host="127.0.0.1:1")


def test_a_service_that_shares_the_folder_may_write_its_own_at_the_same_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "endpoints.json"

    ours = os.getpid()
    service: Any = SimpleNamespace(account_states=dict, part_states=dict, safety_state=lambda: None)
    moved = Path.replace

    def replace(source: Path, target: Path) -> Path:
        if os.getpid() == ours:
            # Just before ours is moved into its place, another process writes all of its own.
            monkeypatch.setattr(os, "getpid", lambda: ours + 1)
            write_endpoints(path, SETTINGS, WORLD, service)
            monkeypatch.setattr(os, "getpid", lambda: ours)
        return moved(source, target)

    monkeypatch.setattr(Path, "replace", replace)
    write_endpoints(path, SETTINGS, WORLD, service)
    assert json.loads(path.read_text())["pid"] == ours
    assert [each.name for each in tmp_path.iterdir()] == ["endpoints.json"]
