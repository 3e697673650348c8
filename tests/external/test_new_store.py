"""The folder of the embedded store: what a kill leaves of one that is being made is set aside, and never one that has been made."""

from __future__ import annotations

from pathlib import Path

import pytest

from execution_service.app.embedded import STORE_FOLDER, NewTables
from execution_service.app.guardian import SET_ASIDE_AT_MOST, UNFINISHED, make_ready
from execution_service.app.settings.loading import load_settings
from scripts.locate import NotFound, opened_store
from tests.external.service_process import Service


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / STORE_FOLDER


def names(folder: Path) -> set[str]:
    return {each.name for each in folder.iterdir()}


def test_what_was_broken_off_is_set_aside_over_and_over_until_one_is_complete(folder: Path, tmp_path: Path) -> None:
    make_ready(folder)
    for n in (1, 2):
        assert names(folder) == {UNFINISHED}
        (folder / "half.wt").touch()
        make_ready(folder)
        assert names(folder.with_name(f"{STORE_FOLDER}.unfinished-{n}")) == {UNFINISHED, "half.wt"}
    assert names(folder) == {UNFINISHED}
    (folder / "whole.wt").touch()
    NewTables(tmp_path).note_complete()
    make_ready(folder)
    assert names(folder) == {"whole.wt"}


def test_a_start_that_fails_over_and_over_does_not_fill_the_disk(folder: Path, tmp_path: Path) -> None:
    for _ in range(SET_ASIDE_AT_MOST + 3):
        make_ready(folder)
        (folder / "half.wt").touch()
    assert len(names(tmp_path)) == SET_ASIDE_AT_MOST + 1
    make_ready(folder)
    assert names(folder) == {UNFINISHED}


async def test_a_script_stores_nothing_in_a_folder_that_the_next_start_sets_aside(folder: Path, tmp_path: Path) -> None:
    make_ready(folder)
    with pytest.raises(NotFound, match="Nothing has been stored"):
        async with opened_store(load_settings({"DATA_DIR": str(tmp_path)}, root=tmp_path)):
            pytest.fail("a kill switch that is stored there is gone with the next start")


def test_a_folder_of_before_the_mark_was_made_is_left_as_it_is(folder: Path, tmp_path: Path) -> None:
    folder.mkdir()
    (folder / "orders.wt").touch()
    make_ready(folder)
    NewTables(tmp_path).note_complete()
    assert names(folder) == {"orders.wt"}


def test_a_death_before_the_folder_has_its_name_leaves_nothing_in_the_way(folder: Path) -> None:
    begun = folder.with_name(f"{STORE_FOLDER}.new")
    begun.mkdir()
    (begun / "anything").touch()
    make_ready(folder)
    assert (names(folder), begun.exists()) == ({UNFINISHED}, False)


def test_a_service_starts_on_a_store_whose_making_was_broken_off(tmp_path: Path) -> None:
    folder = tmp_path / "data" / STORE_FOLDER
    with Service(tmp_path) as service:
        service.start()
        assert UNFINISHED not in names(folder)
        service.kill()
        # As a kill was seen to leave it: the table is known, and its file was never written.
        (folder / "secantus_indexes.wt").write_bytes(b"")
        (folder / UNFINISHED).touch()
        service.start()
        assert UNFINISHED not in names(folder)
        assert (folder / "secantus_indexes.wt").stat().st_size
