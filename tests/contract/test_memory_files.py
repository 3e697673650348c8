"""A MemoryService's folder: what a reader of its files meets, and what becomes of a folder that cannot be written."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from execution_service.core.messages.events_out import OutEvent
from execution_service.core.messages.memory_entries import REMEMBERED
from execution_service.runtime.connectivity import Connectivity
from execution_service.runtime.threads import InPlace
from execution_service.transport.memory_files import FolderUnusable, MemoryFiles
from execution_service.transport.ports import PublishFailed
from tests.fakes import BY_HAND, RESTING, world_of
from tests.fakes.clock import HandClock


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def files_of(folder: Path) -> MemoryFiles:
    return MemoryFiles(folder, threads=InPlace(), connectivity=Connectivity("The folder", HandClock()))


def event(number: int = 1, event_type: str = "execution.result", **body: object) -> OutEvent:
    return OutEvent(
        event_type=event_type,
        event_id=f"exec_abc-{number}:{event_type}",
        signal_id="sig",
        number=number,
        timestamp="2025-03-03T15:00:00.000",
        body={"status": "FILLED", "timestamp": 1741014000, "time": "2025-03-03T15:00:00.000+00:00"} | body,
    )


def entries(folder: Path) -> list[dict[str, Any]]:
    """As a MemoryService reads them: what is in `new`, by name."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted((folder / "new").iterdir())]


async def test_an_event_is_one_whole_file_however_often_it_is_told(tmp_path: Path) -> None:
    files = files_of(tmp_path)
    files.prepare()
    for _ in range(3):
        await files.publish_events([event(1), event(2, status="REJECTED"), event(3, status="CANCELLED")])
    found = entries(tmp_path)
    assert [entry["entry_type"] for entry in found] == ["Trade", "Error", "OrderStatus"]
    assert set(found[0]) == {"entry_id", "entry_type", "timestamp", "source_service", "payload", "metadata"}
    assert found[0]["timestamp"] == "2025-03-03T15:00:00.000+00:00"
    assert found[0]["metadata"] == {"event_type": "execution.result", "signal_id": "sig", "event_number": 1}
    assert not list((tmp_path / "tmp").iterdir()), "nothing is left aside"


async def test_no_name_of_an_entry_leads_out_of_the_folder(tmp_path: Path) -> None:
    odd = OutEvent(
        event_type="execution.result",
        event_id="../../../etc/x\x00\n:y",
        signal_id="../..",
        number=1,
        timestamp="t",
        body={"timestamp": "t", "status": "FILLED"},
    )
    await files_of(tmp_path / "memory").publish_events([odd])
    assert names_in(tmp_path) == ["memory"]
    assert len(entries(tmp_path / "memory")) == 1


async def test_a_folder_that_was_removed_is_made_again_and_one_that_cannot_be_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "memory"
    files = files_of(folder)
    files.prepare()
    shutil.rmtree(folder)
    await files.publish_events([event()])
    assert len(entries(folder)) == 1
    shutil.rmtree(folder)
    folder.write_text("a file stands in its place")
    with pytest.raises(PublishFailed):
        await files.publish_events([event()])
    with pytest.raises(FolderUnusable, match="MEMORY_DIR"):
        files.prepare()


async def test_a_death_before_the_renaming_leaves_nothing_that_a_reader_meets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = files_of(tmp_path)
    files.prepare()

    def die(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", die)
    with pytest.raises(PublishFailed, match="No space"):
        await files.publish_events([event()])
    assert entries(tmp_path) == []
    monkeypatch.undo()
    await files.publish_events([event()])
    assert len(entries(tmp_path)) == 1


async def test_a_whole_trade_is_remembered_and_a_folder_that_fails_delays_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "memory"
    folder.write_text("a file stands in its place")
    async with world_of(tmp_path, events_out=files_of(folder), market=BY_HAND, rules=RESTING) as world:
        world.send("sig", quantity=100)
        await world.run(1)
        world.fill("sig", 40)
        world.fill("sig", 60)
        world.send("bad", quantity=-1)
        await world.run(5)
        assert len(world.publisher.of("sig")) == 2, "confirmations wait for nobody"
        folder.unlink()
        await world.run(300)
        types = [entry["entry_type"] for entry in entries(folder) if entry["metadata"]["event_type"] in REMEMBERED]
        assert sorted(types) == ["Error", "OrderStatus", "PortfolioUpdate", "PortfolioUpdate", "Trade", "Trade"]
        before = len(entries(folder))
        await world.restart()
        await world.run(10)
        assert len(entries(folder)) == before
        assert not world.unsettled()
