"""The operator's page in a real browser, before the real service with the mock broker: what a person sees and does."""

from __future__ import annotations

import contextlib
import re
import signal
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, Route, expect

from brokers.base import AssetClass, Instrument, OrderRef
from brokers.paper.exchange import PaperExchange
from brokers.paper.model import Action, Fault, Operation
from execution_service.core.orders.request import Identity, Purpose
from tests.external.browser import TOKEN, address, chromium, needs_chromium, violations, visit
from tests.external.service_process import Service
from tests.waits import wait_until

pytestmark = needs_chromium

ACCOUNT = "DU000001"
STOPPED = "XLF"
"""A symbol for which trading is stopped from the start, so that the test of arming waits for the rest of the 60 s only."""
HOSTILE = "<img src=x onerror=alert(1)>"
AUTHORISED = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """As people run it; nothing fills by itself."""
    folder = tmp_path_factory.mktemp("page")
    limits = folder / "risk.toml"
    # The loss has the account's money read, of which other tests order more than there is.
    written = '[strategies."Oil"]\nmax_consecutive_rejections = 2\n[strategies."Bonds"]\nmax_daily_loss = 1000\n'
    written += "[defaults]\ncheck_buying_power = false\n"
    limits.write_text(written, encoding="utf-8")
    settings = {"API_TOKEN": TOKEN, "API_OWN_PROCESS": "true", "MOCK_FILL_DELAY_SECONDS": "36000"}
    with Service(folder, RISK_FILE=str(limits), **settings) as service:
        service.start()
        call(service, "POST", "kill", json={"scope": f"symbol:{STOPPED}", "reason": "for the test of arming"})
        yield service


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


def call(service: Service, method: str, path: str, **kwargs: Any) -> Any:
    answer = httpx.request(method, f"{address(service)}/api/execution/{path}", headers=AUTHORISED, **kwargs)
    assert answer.is_success, answer.text
    return answer.json()


def place(service: Service, name: str, symbol: str, **changes: Any) -> None:
    body = {
        "symbol": symbol,
        "side": "buy",
        "quantity": 10,
        "price": 100,
        "account_id": ACCOUNT,
        "strategy_name": "Trend",
    }
    call(service, "POST", "order", json={**body, "signal_id": name, **changes})


def fill(service: Service, name: str, price: str) -> None:
    """The venue executes it whole."""
    identity = Identity(signal_id=name, leg_index=0, purpose=Purpose.ENTRY)
    with book_of(service) as book:
        book.fill_order(OrderRef(client_order_id=identity.client_order_id(1)), None, Decimal(price))


def book_of(service: Service) -> contextlib.closing[PaperExchange]:
    """The venue's own book, for whoever plays the venue."""
    return contextlib.closing(PaperExchange(service.data_dir / "mock_broker.db", account_id=ACCOUNT))


def fill_when_working(service: Service, name: str, price: str) -> None:
    wait_until(lambda: call(service, "GET", f"orders/{name}")["orders"][0]["status"] == "SUBMITTED", "it works")
    fill(service, name, price)


def switch(service: Service, symbol: str) -> dict[str, Any]:
    """The kill switch of a symbol, as the list has it, which is kept for a moment; empty: it is not there."""
    found = call(service, "GET", "kill")["switches"]
    return next((each for each in found if each["scope"] == f"symbol:{symbol}"), {})


def row(page: Page, symbol: str, section: str = "orders") -> Any:
    return page.locator(f"#{section} tbody tr").filter(has_text=symbol)


def test_the_service_says_where_its_page_is(service: Service) -> None:
    assert f"page     {address(service)}/\n" in service.console()


def test_a_person_logs_in_with_a_token_and_out_again(service: Service, browser: Browser) -> None:
    with visit(browser, service, token=None, expected=("401",)) as page:
        dialog = page.get_by_role("dialog", name="Log in")
        dialog.get_by_label("Token").fill("exec_wrong")
        dialog.get_by_role("button", name="Log in").click()
        expect(dialog).to_contain_text("the token is unknown, expired or revoked")
        assert violations(page) == []
        dialog.get_by_label("Token").fill(TOKEN)
        page.keyboard.press("Enter")
        expect(dialog).to_be_hidden()
        expect(page.locator("#mode")).to_have_text("PAPER")
        expect(page.locator("#components")).to_contain_text("Store: OK")
        expect(page.locator("#who")).to_have_text("API_TOKEN, admin")
        assert page.evaluate("document.cookie") == "", "no script may read the session"
        page.get_by_role("button", name="Log out").click()
        expect(dialog).to_be_visible()
        page.reload()
        dialog.get_by_label("Token").fill(TOKEN)
        page.keyboard.press("Enter")
        expect(page.locator("#freshness")).to_contain_text("Updated")
        page.context.clear_cookies()  # as when the token is revoked
        expect(page.get_by_role("dialog", name="Log in")).to_be_visible()


def test_what_happens_is_shown_without_a_reload_and_hostile_text_is_text(service: Service, browser: Browser) -> None:
    with visit(browser, service) as page:
        expect(page.locator("#freshness")).to_contain_text("Updated")
        place(service, "live-1", "SPY", price=235.15, strategy_name=HOSTILE)
        expect(row(page, "SPY")).to_contain_text("submitted")
        expect(row(page, "SPY")).to_contain_text(HOSTILE)
        expect(page.locator("#accounts")).to_contain_text("DU000001, mock, PAPER connected", use_inner_text=True)
        fill(service, "live-1", "235.25")
        expect(row(page, "SPY", "positions")).to_contain_text("LONG 10")
        expect(row(page, "SPY")).to_have_count(0)
        assert page.locator("img").count() == 0
        assert page.locator("script").count() == 1


def test_the_browser_itself_turns_no_text_into_markup(service: Service, browser: Browser) -> None:
    with visit(browser, service, expected=("TrustedHTML", "Content Security Policy")) as page:
        expect(page.locator("#freshness")).to_contain_text("Updated")
        tried = (
            """() => { try { document.body.innerHTML = "<p>"; return "done"; } catch (error) { return error.name; } }"""
        )
        assert page.evaluate(tried) == "TypeError"
        page.evaluate(
            "document.head.append(Object.assign(document.createElement('style'), {textContent: 'body {color: red}'}))"
        )
        assert page.evaluate("document.styleSheets.length") == 1


def test_amounts_are_shown_as_the_decimals_that_they_are(service: Service, browser: Browser) -> None:
    with visit(browser, service) as page:
        shown = page.evaluate(
            """async () => {
                const { cut, figure, percent, profit, sum } = await import("/page/format.js");
                return [
                    figure("9007199254740993.10"), figure("-1234567.5"), figure(null), figure("abc"),
                    cut("0.00001234567891"), cut("1234.123456"), cut("1234.1234"), cut("0.1234567"),
                    percent("99.99"), percent("1234.5678"),
                    profit("12.50", "USD"), profit("-0.30", null), profit("0.00", "EUR"), profit(null, "USD"),
                    sum(["0.10", "0.20", "-9007199254740993.31"]), sum(["1.00", null]),
                ];
            }"""
        )
    assert shown == [
        *("9,007,199,254,740,993.10", "−1,234,567.5", "–", "abc"),
        *("0.0000123456…", "1,234.1234…", "1,234.1234", "0.123456…"),
        *("99.9 %", "1,234.5 %"),
        *("+12.50 USD", "−0.30", "0.00 EUR", "not known"),
        *("-9007199254740993.01", None),
    ]


def test_the_story_of_an_order_is_a_time_line_and_the_focus_comes_back(service: Service, browser: Browser) -> None:
    place(service, "story-1", "MSFT", price=400, order_type="LIMIT", limit_price=401.02)
    with visit(browser, service) as page:
        name = row(page, "MSFT").get_by_role("button", name=re.compile("^BUY 10 MSFT"))
        story = page.get_by_role("dialog", name="Order")
        name.focus()
        page.keyboard.press("Enter")
        expect(story).to_be_visible()
        page.keyboard.press("Escape")
        expect(name).to_be_focused()
        name.evaluate("(button) => { button.click(); document.querySelector('dialog').close(); button.click(); }")
        line = story.get_by_role("list", name="What happened")
        expect(line).to_contain_text("Placing order: BUY 10 MSFT")
        expect(line).to_contain_text("Order submitted")
        fill(service, "story-1", "401.02")
        expect(line).to_contain_text("Order filled: 10 @ $401.02")
        expect(story).to_contain_text("+25.5000 basis points against 400")
        page.keyboard.press("Escape")
        expect(story).to_be_hidden()
        expect(page.locator("#main"), "its row is gone").to_be_focused()


def test_an_order_is_cancelled_and_all_of_a_symbol_at_once(service: Service, browser: Browser) -> None:
    for number in range(3):
        place(service, f"cancel-{number}", "QQQ", price=350 + number)
    with visit(browser, service) as page:
        page.locator("#orders").get_by_label("Symbol").fill("qqq")
        page.keyboard.press("Enter")
        expect(row(page, "QQQ")).to_have_count(3)
        page.get_by_role("button", name=re.compile("^Cancel BUY 10 QQQ, limit at 351")).click()
        dialog = page.get_by_role("dialog", name=re.compile("^Cancel BUY 10 QQQ, limit at 351"))
        dialog.get_by_role("button", name="Cancel the order").click()
        expect(dialog.get_by_role("status")).to_be_visible()
        page.keyboard.press("Escape")
        expect(row(page, "QQQ")).to_have_count(2)
        page.get_by_role("button", name="Cancel all…").click()
        page.get_by_role("button", name="Cancel them all").click()
        expect(page.get_by_role("dialog")).to_contain_text("2 cancels were asked for.")
        page.get_by_role("dialog").get_by_role("button", name="Close").click()
        expect(row(page, "QQQ")).to_have_count(0)
    statuses = {order["status"] for order in call(service, "GET", "orders?symbol=QQQ")["orders"]}
    assert statuses == {"CANCELLED"}


def test_trading_is_stopped_by_two_presses_and_the_counts_are_told(service: Service, browser: Browser) -> None:
    place(service, "kill-1", "IWM", price=198, strategy_name="Carry")
    with visit(browser, service) as page:
        expect(row(page, "IWM")).to_contain_text("submitted")
        page.get_by_role("button", name="Stop trading…").click()
        dialog = page.get_by_role("dialog", name="Stop trading")
        dialog.get_by_label("What is stopped").select_option("strategy")
        dialog.get_by_label("Its name").fill("Carry")
        dialog.get_by_label("Cancel the entries that are at work").check()
        dialog.get_by_role("button", name="Stop trading").click()
        expect(dialog).to_contain_text("Stopped: strategy Carry, reduce only")
        expect(dialog).to_contain_text("1 cancel is confirmed")
        dialog.get_by_role("button", name="Close").click()
        expect(page.get_by_role("region", name="Trading is stopped")).to_contain_text("strategy Carry, reduce only")
        expect(row(page, "IWM")).to_have_count(0)
        place(service, "kill-2", "IWM", price=198, strategy_name="Carry")
        expect(page.locator("#attention")).to_contain_text("BUY 10 IWM, limit at 198: ")


def test_what_may_have_been_done_is_called_not_known_and_pressed_again_it_is_the_same(
    service: Service, browser: Browser
) -> None:
    keys: list[str | None] = []

    def lose_first(route: Route) -> None:
        keys.append(route.request.headers.get("idempotency-key"))
        if len(keys) == 1:
            answer = route.fetch()  # it arrives, and the answer is lost
            assert answer.ok
            route.fulfill(json={"detail": "the service does not answer", "reasons": []}, status=503)
        else:
            route.continue_()

    with visit(browser, service, expected=("503",)) as page:
        page.route(
            "**/api/execution/kill",
            lambda route: lose_first(route) if route.request.method == "POST" else route.continue_(),
        )
        page.get_by_role("button", name="Stop trading…").click()
        dialog = page.get_by_role("dialog", name="Stop trading")
        dialog.get_by_label("What is stopped").select_option("symbol")
        dialog.get_by_label("Its name").fill("xle")
        dialog.get_by_role("button", name="Stop trading").click()
        expect(dialog).to_contain_text("Not known. The service does not answer.")
        dialog.get_by_role("button", name="Stop trading").click()
        expect(dialog).to_contain_text("Stopped: symbol XLE, reduce only")
    assert len(set(keys)) == 1
    found = wait_until(lambda: switch(service, "XLE"), "the list has the switch")
    assert (found["version"], len(found["history"])) == (1, 1), "it was engaged once"


def test_an_order_that_a_limit_refused_is_allowed_once(service: Service, browser: Browser) -> None:
    place(service, "big-1", "DIA", quantity=20000)
    with visit(browser, service) as page:
        item = page.locator("#attention li").filter(has_text="BUY 20,000 DIA")
        expect(item).to_contain_text("the limit is 1000000 (built in)")
        item.get_by_role("button", name="Allow once…").click()
        dialog = page.get_by_role("dialog", name="Let an order past its limits")
        dialog.get_by_label("Your name").fill("Ada")
        dialog.get_by_label("Reason").fill("the size is meant")
        dialog.get_by_role("button", name="Allow it for 5 min").click()
        expect(dialog).to_contain_text("Allowed: it may be sent again under a new name.")
    place(service, "big-2", "DIA", quantity=20000)
    wait_until(lambda: call(service, "GET", "orders/big-2")["orders"][0]["status"] == "SUBMITTED", "it has passed")


def test_a_message_that_could_not_be_taken_is_looked_at_and_replayed(service: Service, browser: Browser) -> None:
    with service.pubsub() as pubsub:
        pubsub.publish([{"symbol": HOSTILE}])
    with visit(browser, service, expected=("409",)) as page:
        item = page.locator("#attention .kind").filter(has_text="could not be taken for orders").locator("li")
        item.get_by_role("button", name="Look…").click()
        dialog = page.get_by_role("dialog", name="A message that could not be taken for an order")
        expect(dialog.locator("pre")).to_contain_text(HOSTILE)
        dialog.get_by_role("button", name="Close").click()
        item.get_by_role("button", name="Replay…").click()
        dialog = page.get_by_role("dialog", name="Replay this message?")
        dialog.get_by_role("button", name="Replay").click()
        expect(dialog).to_contain_text("dead letter again")


def test_books_that_differ_are_compared_again(service: Service, browser: Browser) -> None:
    place(service, "gold-1", "GLD", price=180)
    fill_when_working(service, "gold-1", "180")
    gold = Instrument(symbol="GLD", asset_class=AssetClass.STOCK)
    with book_of(service) as book:
        book.move_position(gold, Decimal(-7))
    call(service, "POST", "reconcile", json={"account_id": ACCOUNT}, timeout=60)
    with visit(browser, service) as page:
        item = page.locator("#attention li").filter(has_text="GLD")
        item.get_by_role("button", name="Compare again").click()
        dialog = page.get_by_role("dialog", name=f"Compare the books of account {ACCOUNT}?")
        with book_of(service) as book:
            book.move_position(gold, Decimal(7))
        dialog.get_by_role("button", name="Compare").click()
        expect(dialog).to_contain_text("The books agree.")
        dialog.get_by_role("button", name="Close", exact=True).click()
        expect(item).to_have_count(0)


def test_what_a_person_knows_of_an_order_in_doubt_arrives_and_a_refusal_is_shown(
    service: Service, browser: Browser
) -> None:
    """The mock broker leaves none in doubt: the page is told of one that works, of which nothing is to be decided."""
    place(service, "doubt-1", "SLV", price=20)
    wait_until(lambda: call(service, "GET", "orders/doubt-1")["orders"][0]["status"] == "SUBMITTED", "it works")
    (order,) = call(service, "GET", "orders/doubt-1")["orders"]

    told = call(service, "GET", "attention") | {"in_doubt": [order]}
    with visit(browser, service, expected=("409",)) as page:
        page.route("**/api/execution/attention", lambda route: route.fulfill(json=told))
        page.locator("#attention li").filter(has_text="SLV").get_by_role("button", name="Resolve…").click()
        dialog = page.get_by_role("dialog", name="What became of BUY 10 SLV, limit at 20?")
        dialog.get_by_label("Your name").fill("Ada")
        dialog.get_by_label("How you know").fill("the broker's own screen")
        dialog.get_by_role("button", name="Record it").click()
        expect(dialog).to_contain_text("is SUBMITTED")


def test_what_a_broken_limit_has_switched_off_is_enabled_by_a_person(service: Service, browser: Browser) -> None:
    with book_of(service) as book:
        book.add_fault(Fault(operation=Operation.PLACE, action=Action.REJECT, symbol="USO", times=2))
    for name in ("off-1", "off-2", "off-3"):
        place(service, name, "USO", price=70, strategy_name="Oil")
        wait_until(lambda name=name: call(service, "GET", f"orders/{name}")["orders"][0]["status"] == "REJECTED", name)
    with visit(browser, service) as page:
        item = page.locator("#attention .kind").filter(has_text="Off until a person enables it").locator("li")
        expect(item).to_contain_text("strategy Oil")
        item.get_by_role("button", name="Enable…").click()
        dialog = page.get_by_role("dialog", name=re.compile("^Enable "))
        dialog.get_by_label("Your name").fill("Ada")
        dialog.get_by_label("Reason").fill("the broker has said why")
        dialog.get_by_role("button", name="Let it trade again").click()
        expect(dialog).to_contain_text("1 limit lets orders pass again.")
        dialog.get_by_role("button", name="Close", exact=True).click()
        expect(item).to_have_count(0)
    place(service, "off-4", "USO", price=70, strategy_name="Oil")
    wait_until(lambda: call(service, "GET", "orders/off-4")["orders"][0]["status"] == "SUBMITTED", "it trades again")


def test_losses_are_measured_anew_in_two_steps_by_a_person(service: Service, browser: Browser) -> None:
    place(service, "anew-1", "TLT", price=90, strategy_name="Bonds")
    fill_when_working(service, "anew-1", "90")
    told = "the loss is measured"
    wait_until(lambda: "max_daily_loss" in {u["limit_type"] for u in call(service, "GET", "limits")["limits"]}, told)
    with visit(browser, service) as page:
        page.get_by_role("button", name="Measure losses anew…").click()
        dialog = page.get_by_role("dialog", name="Measure losses anew")
        dialog.get_by_label("What is measured anew").select_option("strategy")
        dialog.get_by_label("Your name").fill("Ada")
        dialog.get_by_label("Reason").fill("400 paid out")
        dialog.get_by_role("button", name="Go on").click()
        expect(dialog).to_contain_text("Name what is to be measured anew.")
        dialog.get_by_label("Its name").fill("Bonds")
        dialog.get_by_role("button", name="Go on").click()
        expect(dialog).to_contain_text("Step 2 of 2. Daily loss and drawdown of strategy Bonds")
        assert violations(page) == []
        dialog.get_by_role("button", name="Back").click()
        expect(dialog).to_contain_text("Step 1 of 2.")
        dialog.get_by_role("button", name="Go on").click()
        dialog.get_by_role("button", name="Measure anew").click()
        expect(dialog).to_contain_text("Measured anew in 1 account.")
        dialog.get_by_role("button", name="Close", exact=True).click()
        expect(dialog).to_have_count(0)


def test_closing_a_position_needs_its_name_written(service: Service, browser: Browser) -> None:
    place(service, "close-1", "AAPL", price=189)
    fill_when_working(service, "close-1", "189")
    with visit(browser, service) as page:
        row(page, "AAPL", "positions").get_by_role("button").click()
        dialog = page.get_by_role("dialog", name="Close this position")
        expect(dialog).to_contain_text("LONG 10 AAPL, Trend, account DU000001")
        dialog.get_by_label("Your name").fill("Ada")
        dialog.get_by_label("Reason").fill("we leave")
        close = dialog.get_by_role("button", name="Close at the market")
        expect(close).to_be_disabled()
        dialog.get_by_label("Confirm").fill("MSFT")
        expect(close).to_be_disabled()
        dialog.get_by_label("Confirm").fill("AAPL")
        close.click()
        expect(dialog).to_contain_text("1 exit is stored and on the way.")
        dialog.get_by_role("button", name="Close", exact=True).click()
        expect(row(page, "AAPL")).to_contain_text("SELL 10 AAPL")


def test_what_a_role_may_not_do_is_not_offered(service: Service, browser: Browser) -> None:
    place(service, "viewer-1", "TLT", price=90)
    with visit(browser, service) as page:
        as_viewer = {"role": "viewer", "name": "a board", "is_open": False}
        page.route("**/api/execution/session", lambda route: route.fulfill(json=as_viewer))
        page.reload()
        expect(row(page, "TLT")).to_contain_text("submitted")
        for name in ("Stop trading…", "Cancel all…", "Close positions…", re.compile("^Cancel BUY"), re.compile("^Arm")):
            expect(page.get_by_role("button", name=name)).to_have_count(0)


def test_what_is_old_is_marked_and_a_connection_that_is_back_is_said(service: Service, browser: Browser) -> None:
    with visit(browser, service, expected=("Failed to load", "ERR_")) as page:
        expect(page.locator("#freshness")).to_contain_text("Updated")
        service.send(signal.SIGSTOP)
        try:
            expect(page.locator("#freshness")).to_contain_text("STALE")
            expect(page.get_by_role("alert")).to_contain_text("What is shown may be old")
            expect(page.locator("#positions")).to_have_attribute("data-stale", "true")
            assert "STALE" in page.title()
        finally:
            service.send(signal.SIGCONT)
        expect(page.locator("#freshness")).to_contain_text("Updated")
        expect(page.get_by_role("alert")).to_be_hidden()


def test_a_part_that_the_store_does_not_answer_for_is_marked_alone(service: Service, browser: Browser) -> None:
    with visit(browser, service, expected=("503",)) as page:
        expect(page.locator("#limits .as-of")).to_have_text("")
        problem = {"detail": "the store does not answer", "reasons": []}
        page.route("**/api/execution/limits", lambda route: route.fulfill(json=problem, status=503))
        expect(page.locator("#limits")).to_have_attribute("data-stale", "true")
        expect(page.get_by_role("alert")).to_contain_text("Some of what is shown is old: the store does not answer.")
        expect(page.locator("#limits .as-of")).to_contain_text("the store does not answer")
        expect(page.locator("#orders")).to_have_attribute("data-stale", "false")
        expect(page.locator("#standing")).to_contain_text("All is well")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_and_its_dialogs_are_accessible(service: Service, browser: Browser, scheme: str) -> None:
    place(service, f"axe-{scheme}", "GLD", price=170)
    with visit(browser, service, color_scheme=scheme) as page:
        page.route("**/api/execution/attention", lambda route: route.fulfill(json=ATTENTION))
        expect(row(page, "GLD").first).to_contain_text("submitted")
        expect(page.locator("#attention")).to_contain_text("the broker says <b>no</b>")
        expect(page.locator("#attention")).to_contain_text(f"BUY 10 TLT, market: failed, {HOSTILE}")
        expect(page.locator("#attention b, #attention img")).to_have_count(0)
        assert violations(page) == []
        page.get_by_role("button", name="Stop trading…").click()
        assert violations(page) == []
        page.keyboard.press("Escape")
        row(page, "GLD").first.get_by_role("button", name=re.compile("^BUY")).click()
        expect(page.get_by_role("list", name="What happened")).to_be_visible()
        assert violations(page) == []


def test_on_a_phone_nothing_is_wider_than_the_screen(service: Service, browser: Browser) -> None:
    place(
        service, "phone-1", "SPXW240119C00400000LONGSYMBOL", price=5, strategy_name="A strategy with a long name " * 4
    )
    phone = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True, "device_scale_factor": 2}
    with visit(browser, service, **phone) as page:
        expect(row(page, "SPXW")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        stop = page.get_by_role("button", name="Stop trading…")
        expect(stop).to_be_in_viewport()
        stop.tap()
        dialog = page.get_by_role("dialog")
        expect(dialog.get_by_role("button", name="Stop trading")).to_be_in_viewport()
        box = dialog.bounding_box()
        assert box is not None
        assert (box["x"] >= 0, box["x"] + box["width"] <= 360) == (True, True)


def test_trading_goes_on_again_in_two_steps_after_a_minute(service: Service, browser: Browser) -> None:
    with visit(browser, service) as page:
        banner = page.get_by_role("region", name="Trading is stopped")
        banner.get_by_role("button", name=f"Arm symbol {STOPPED}").click()
        dialog = page.get_by_role("dialog", name=f"Arm symbol {STOPPED}")
        dialog.get_by_label("Your name").fill("Ada")
        dialog.get_by_label("Reason").fill("the model is mended")
        dialog.get_by_role("button", name="Begin to arm").click()
        expect(dialog).to_contain_text("Step 2 of 2.")
        page.keyboard.press("Escape")
        expect(banner).to_contain_text("Ada is about to arm it")
        banner.get_by_role("button", name=f"Arm symbol {STOPPED}").click()
        dialog.get_by_role("button", name="Arm: let it trade").click(timeout=75_000)
        expect(dialog).to_contain_text("Armed.")
        dialog.get_by_role("button", name="Close").click()
        expect(banner.get_by_text(STOPPED)).to_have_count(0)
    wait_until(lambda: not switch(service, STOPPED)["is_engaged"], "the list has it as armed")
    assert switch(service, STOPPED)["history"][-1]["by"] == "Ada"


ORDER_IN_DOUBT = {
    "order_id": "ord_1", "signal_id": "sig", "leg_index": 0, "purpose": "ENTRY", "status": "IN_DOUBT", "account_id": ACCOUNT,
    "strategy": "Trend", "symbol": "SPY", "side": "BUY", "order_type": "MARKET", "quantity": "10", "limit_price": None,
    "stop_price": None, "filled_quantity": "0", "average_price": None, "reason": None, "received_at": "2026-11-30T09:00:00Z",
    "finished_at": None, "version": 3,
}  # fmt: skip
ATTENTION = {
    "in_doubt": [ORDER_IN_DOUBT],
    "unprotected": [ORDER_IN_DOUBT | {"symbol": "TLT", "protection": {"state": "FAILED", "reason": HOSTILE, "quantity": "0"}}],
    "discrepancies": [
        {"discrepancy_id": "d1", "account_id": ACCOUNT, "kind": "POSITION", "words": "the broker says <b>no</b>", "order_id": None,
         "signal_id": None, "opened_at": "2026-11-30T09:00:00Z"}
    ],
    "dead_letters": [
        {"message_id": "m1", "reason": HOSTILE, "received_at": "2026-11-30T09:00:00Z", "publish_time": None, "text": HOSTILE}
    ],
    "refused": [],
    "commands_waiting": [{"command_id": "c1", "kind": "CANCEL", "received_at": "2026-11-30T09:00:00Z"}],
    "parts_not_running": [{"part": "pull", "reason": HOSTILE}],
    "components": {},
    "counts": {},
}  # fmt: skip
"""Of everything one."""
