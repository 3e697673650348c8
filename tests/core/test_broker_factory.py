"""The factory's promises: names, errors, nothing loaded before it is asked for; and the mock broker's settings."""

from __future__ import annotations

import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from brokers import factory
from brokers.errors import BrokerLibraryMissing, UnknownBroker
from brokers.factory import BrokerFactory

ROOT = Path(__file__).parents[2]


def config(tmp_path: Path, **more: object) -> dict[str, object]:
    return {"broker": "mock", "account_id": "A1", "path": tmp_path / "book.db", **more}


@pytest.mark.parametrize("name", ["mock", "Mock", "MOCK", " mock "])
def test_a_broker_is_made_by_its_name_in_any_case(tmp_path: Path, name: str) -> None:
    assert BrokerFactory.create_broker(config(tmp_path, broker=name)).name == "MOCK"


@pytest.mark.parametrize(
    "name", ["", "nonesuch", "errors", "factory", "../mock", "mock.create", "os", None, 7, "mock\n\nx"]
)
def test_an_unknown_name_is_refused_and_the_known_ones_are_listed(tmp_path: Path, name: object) -> None:
    with pytest.raises(UnknownBroker, match="mock"):
        BrokerFactory.create_broker(config(tmp_path, broker=name))


def test_every_supported_name_has_an_adapter_in_a_package_beside_the_factory() -> None:
    assert "mock" in BrokerFactory.supported()
    for module in factory.KNOWN.values():
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file()


def test_a_missing_library_is_told_with_the_extra_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lacking.py").write_text("import a_library_that_nobody_has\n")
    monkeypatch.setattr("brokers.__path__", [*__import__("brokers").__path__, str(tmp_path)])
    monkeypatch.setattr(factory, "KNOWN", {**factory.KNOWN, "lacking": "brokers.lacking"})
    with pytest.raises(BrokerLibraryMissing, match=r"pip install 'execution-service\[lacking\]'"):
        BrokerFactory.create_broker({"broker": "lacking"})


def test_adapters_are_loaded_ahead_and_one_that_cannot_be_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lacking.py").write_text("import a_library_that_nobody_has\n")
    (tmp_path / "broken.py").write_text("raise RuntimeError('no event loop')\n")
    (tmp_path / "present.py").write_text("")
    monkeypatch.setattr("brokers.__path__", [*__import__("brokers").__path__, str(tmp_path)])
    monkeypatch.setattr(
        factory, "KNOWN", {**factory.KNOWN, **{name: f"brokers.{name}" for name in ("broken", "lacking", "present")}}
    )
    BrokerFactory.load({"broken", "lacking", "nonesuch", "present"})
    assert "brokers.present" in sys.modules
    monkeypatch.delitem(sys.modules, "brokers.present")


def test_no_adapter_is_loaded_before_it_is_asked_for() -> None:
    program = (
        "import sys, brokers.factory; print([each for each in sys.modules"
        " if each.startswith('brokers.') and each.split('.')[1] not in ('factory', 'base', 'errors')])"
    )
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_all_that_is_wrong_with_the_mocks_settings_is_told_at_once() -> None:
    with pytest.raises(ValueError, match="mock account's settings") as caught:
        BrokerFactory.create_broker(
            {
                "broker": "mock",
                "fill_delay_seconds": -1,
                "rejection_rate": "1.5",
                "partial_fill_rate": "often",
                "slippage_bps": float("nan"),
                "commission_per_order": True,
                "seed": "1.5",
                "currency": "usd",
            }
        )
    message = str(caught.value)
    for key in (
        "account_id",
        "path",
        "fill_delay_seconds",
        "rejection_rate",
        "partial_fill_rate",
        "slippage_bps",
        "commission_per_order",
        "seed",
        "currency",
    ):
        assert key in message


def test_settings_may_be_texts_numbers_or_none(tmp_path: Path) -> None:
    broker = BrokerFactory.create_broker(
        config(
            tmp_path,
            fill_delay_seconds="0.5",
            rejection_rate=0,
            slippage_bps=Decimal("2.5"),
            commission_per_order=0.35,
            seed=None,
            currency="INR",
        )
    )
    assert broker.capabilities.commission_currency == "INR"
    assert broker.capabilities.refuses_repeated_client_id


def test_adapters_can_be_loaded_after_an_event_loop_has_ended() -> None:
    program = (
        "import asyncio; from brokers.factory import BrokerFactory; asyncio.run(asyncio.sleep(0));"
        "print([name for name in BrokerFactory.supported() if BrokerFactory.configuration_of(name) is None])"
    )
    said = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert said.stdout == "[]\n"
