"""The played person decides only what people were told of, and what may be in doubt at all."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from brokers.manifest import Fact
from brokers.registry import manifests
from tests.external.service_process import Confirmation
from tests.external.venues import BROKERS
from tests.faults.judgement import Placed
from tests.faults.people import IN_DOUBT, Person, Phone
from tests.faults.replicas import undecided
from tests.faults.stage import Lane, Play, Signal

ORDER = Signal({"signal_id": "s1"}, Placed.ONCE_OR_DOUBTED, "tag1", "ord_1")
CONFIRMED = Confirmation({"signal_id": "s1"}, {"status": "IN_DOUBT", "client_order_id": "tag1"})


class SilentPhone(Phone):
    texts: tuple[str, ...] = ()

    def messages(self) -> tuple[str, ...]:
        return self.texts


class Asked(Exception):
    """The person went as far as to look the order up in order to decide."""


def play_of(order: Signal, *, told: list[Confirmation], at_broker: bool = False) -> Any:
    looks = iter([{"status": "IN_DOUBT"}])

    def record(_: Signal) -> dict[str, str]:
        try:
            return next(looks)
        except StopIteration:
            raise Asked from None

    return SimpleNamespace(
        signals=[order],
        record=record,
        is_shown=lambda _: at_broker,
        stage=SimpleNamespace(told=lambda _: told),
    )


def has_decided(person: Person) -> bool:
    try:
        undecided([person], may_decide=True)
    except Asked:
        return True
    return False


def test_nothing_is_decided_that_was_not_told() -> None:
    assert not has_decided(Person(play_of(ORDER, told=[])))
    assert has_decided(Person(play_of(ORDER, told=[CONFIRMED])))


def test_where_people_have_a_phone_it_has_to_have_rung() -> None:
    phone = SilentPhone(0)
    assert not has_decided(Person(play_of(ORDER, told=[CONFIRMED]), phone))
    phone.texts = (f"{IN_DOUBT}\n\nSignal: another",)
    assert not has_decided(Person(play_of(ORDER, told=[CONFIRMED]), phone))
    phone.texts = (f"{IN_DOUBT}\n\nSignal: s1",)
    assert has_decided(Person(play_of(ORDER, told=[CONFIRMED]), phone))


def test_a_doubt_that_must_not_be_is_left_for_the_judgement() -> None:
    certain = Signal({"signal_id": "s1"}, Placed.ONCE, "tag1", "ord_1")
    person = Person(play_of(certain, told=[CONFIRMED]))
    assert undecided([person], may_decide=True) == ["s1: its doubt was not settled, or people were not told of it"]


def test_an_order_that_the_broker_shows_is_not_decided_about() -> None:
    assert undecided([Person(play_of(ORDER, told=[CONFIRMED], at_broker=True))], may_decide=True) == []


def test_an_order_that_was_refused_at_once_is_shown_only_by_a_broker_that_lists_it() -> None:
    refused = {"client_order_id": "tag1", "status": "REJECTED", "fills": []}
    hiding = {name for name, manifest in manifests().items() if Fact.REFUSALS_UNLISTED in manifest.facts}
    assert hiding
    for broker in BROKERS:
        assert _play_at(broker, refused).is_shown(ORDER) is (broker not in hiding)
        assert _play_at(broker, refused | {"fills": [{"busted": False}]}).is_shown(ORDER)
        assert _play_at(broker, refused | {"status": "CANCELLED"}).is_shown(ORDER)


def _play_at(broker: str, *orders: dict[str, Any]) -> Play:
    venue: Any = SimpleNamespace(orders=lambda: orders)
    stage: Any = SimpleNamespace(broker=broker)
    return Play(stage, Lane("an account", venue), "people")
