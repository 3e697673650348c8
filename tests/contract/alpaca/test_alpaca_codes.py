"""What Alpaca's error answers mean to an order: its status and a few texts, never its code."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from brokers.alpaca.codes import STATUSES, Meaning, Refusal


def refusal(status: int, message: str = "", code: int | None = 40010001, **more: object) -> Refusal:
    fields = ({} if code is None else {"code": code}) | {"message": message} | more
    return Refusal.of(status, json.dumps(fields))


@pytest.mark.parametrize("code", [42210000, 40310000, None])
@pytest.mark.parametrize("status", [422, 400])
def test_a_repeated_id_had_arrived_whatever_the_code(status: int, code: int | None) -> None:
    assert refusal(status, "client_order_id must be unique", code).meaning is Meaning.EXISTS


@pytest.mark.parametrize(("status", "meaning"), [(status, meaning) for status, (meaning, _) in STATUSES.items()])
def test_a_status_means_what_the_table_says(status: int, meaning: Meaning) -> None:
    assert refusal(status, "some text").meaning is meaning


@pytest.mark.parametrize("status", [200, 301, 302, 409, 418, 499, 520])
def test_a_status_that_is_not_listed_says_nothing(status: int) -> None:
    assert refusal(status, "client_order_id must be unique").meaning is Meaning.UNKNOWN


@pytest.mark.parametrize("body", ["<html>Forbidden</html>", "", "[]", "null", "[" * 100_000, '"forbidden."'])
@pytest.mark.parametrize("status", [400, 403, 404, 422])
def test_a_page_of_somebody_in_between_proves_nothing(status: int, body: str) -> None:
    assert Refusal.of(status, body).meaning is Meaning.UNKNOWN
    assert not Refusal.of(status, body).is_absence


def test_forbidden_without_a_code_is_about_the_keys_and_with_one_about_the_order() -> None:
    assert refusal(403, "forbidden.", None).meaning is Meaning.KEYS
    assert refusal(403, "insufficient buying power", 40310000).meaning is Meaning.REFUSED
    assert refusal(401, "request is not authorized", 40110000).meaning is Meaning.KEYS


def test_too_many_calls_is_not_taken_with_any_body() -> None:
    assert Refusal.of(429, '{"message": "too many requests."}').meaning is Meaning.NOT_TAKEN
    assert Refusal.of(429, "<html>").meaning is Meaning.NOT_TAKEN


def test_absence_is_alpacas_own_word() -> None:
    assert refusal(404, "order not found", 40410000).is_absence
    assert not Refusal.of(404, '{"detail": "Not Found"}').is_absence


def test_locked_shares_tell_how_many_and_by_which_orders() -> None:
    words = "insufficient qty available for order (requested: 10, available: 3)"
    locked = refusal(403, words, 40310000, held_for_orders="7", related_orders=["o1", "o2"])
    assert (locked.locked, locked.related_orders) == (Decimal(7), ("o1", "o2"))
    assert refusal(403, words, 40310000).locked is None
    assert refusal(403, words, 40310000, held_for_orders="many").locked is None
    assert refusal(403, "insufficient buying power", held_for_orders="7").locked is None


@pytest.mark.parametrize(("status", "code"), [(422, 42210000), (403, 40310000)])
def test_a_wash_trade_is_known_by_its_words(status: int, code: int) -> None:
    assert refusal(status, "potential wash trade detected. use complex orders", code).is_wash_trade
    assert not refusal(500, "potential wash trade detected", code).is_wash_trade


def test_the_words_are_alpacas_or_the_beginning_of_the_page() -> None:
    assert refusal(422, "qty is required").words == "qty is required"
    assert Refusal.of(504, "<html>\n  Gateway   time-out</html>").words == "HTTP 504: <html> Gateway time-out</html>"
    assert len(Refusal.of(504, "x" * 10_000).words) < 300
