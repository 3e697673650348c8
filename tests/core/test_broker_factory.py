"""The factory's promises: names, errors, nothing loaded before it is asked for; and the mock broker's settings."""

from __future__ import annotations

import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest

import brokers
from brokers import registry
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


def test_every_supported_name_has_an_adapter_in_the_package_of_its_manifest() -> None:
    assert list(registry.manifests()) == ["alpaca", "binance", "ibkr", "mock", "simulated", "zerodha"]
    for name, manifest in registry.manifests().items():
        assert manifest.name == name
        assert (ROOT / f"{manifest.adapter.replace('.', '/')}.py").is_file()


def add_broker(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, adapter: str) -> None:
    """A broker in a folder `brokers` that is not this distribution's."""
    package = folder / "brokers" / name
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "adapter.py").write_text(adapter)
    (package / "manifest.py").write_text(
        "from brokers.manifest import Manifest\n"
        f"MANIFEST = Manifest(name='{name}', title='{name}', adapter='brokers.{name}.adapter', extra='{name}')\n"
    )
    if str(folder / "brokers") not in brokers.__path__:
        monkeypatch.setattr("brokers.__path__", [*brokers.__path__, str(folder / "brokers")])
    for module in (f"brokers.{name}", f"brokers.{name}.manifest", f"brokers.{name}.adapter"):
        monkeypatch.delitem(sys.modules, module, raising=False)


def test_a_missing_library_is_told_with_the_extra_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_broker(tmp_path, monkeypatch, "lacking", "import a_library_that_nobody_has\n")
    with pytest.raises(BrokerLibraryMissing, match=r"pip install 'execution-service\[lacking\]'"):
        BrokerFactory.create_broker({"broker": "lacking"})


def test_adapters_are_loaded_ahead_and_one_that_cannot_be_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_broker(tmp_path, monkeypatch, "lacking", "import a_library_that_nobody_has\n")
    add_broker(tmp_path, monkeypatch, "broken", "raise RuntimeError('no event loop')\n")
    add_broker(tmp_path, monkeypatch, "present", "")
    BrokerFactory.load({"broken", "lacking", "nonesuch", "present"})
    assert "brokers.present.adapter" in sys.modules


def test_two_brokers_of_one_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add_broker(tmp_path, monkeypatch, "twin", "")
    text = (tmp_path / "brokers" / "twin" / "manifest.py").read_text()
    (tmp_path / "brokers" / "twin" / "manifest.py").write_text(text.replace("name='twin'", "name='mock'"))
    with pytest.raises(ValueError, match="Two brokers are called mock"):
        registry.manifests()


def test_no_adapter_and_no_client_library_is_loaded_by_the_manifests() -> None:
    program = (
        "import sys, brokers.factory, brokers.registry; brokers.registry.manifests(); print([each for each in sys.modules"
        " if each.endswith('.adapter') or each.split('.')[0] in ('ib_insync', 'ib_async', 'eventkit', 'kiteconnect', 'alpaca',"
        " 'aiohttp', 'binance_common', 'requests', 'twisted', 'simulators')])"
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
