"""The real Telegram notifier, through python-telegram-bot, against the simulated Bot API on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import html
import http.client
import io
import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
import traceback
import urllib.error
import urllib.request
import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from notifications.base import NoNotifier, NotificationFailed, Notifier
from notifications.telegram import CUT_MARK, LONGEST_TEXT, TelegramNotifier, cut_html, plain_text
from simulators.telegram import Fault, FaultKind, SimulatedTelegram, read_html

CANARY = "987654321:AAcanary-TOKEN_that_must_not_be_seen"
ROOT = Path(__file__).resolve().parents[2]


class HandMovedClock:
    """Time that moves only when somebody sleeps or the test says so; remembers every sleep."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.sleeps: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


@pytest.fixture
def server() -> Iterator[SimulatedTelegram]:
    with SimulatedTelegram(token=CANARY, chat_ids=[42, -100777, -5, -1005]) as running:
        yield running


@pytest.fixture
def clock() -> HandMovedClock:
    return HandMovedClock()


@pytest.fixture
async def notifier(server: SimulatedTelegram, clock: HandMovedClock) -> AsyncIterator[TelegramNotifier]:
    made = make(server, clock)
    await made.start()
    yield made
    await made.close()


def make(
    server: SimulatedTelegram,
    clock: HandMovedClock,
    *,
    chat_id: int | str = 42,
    token: str = CANARY,
    timeout: float = 10,
) -> TelegramNotifier:
    return TelegramNotifier(token, chat_id, server.base_url, timeout_seconds=timeout, clock=clock, sleep=clock.sleep)


async def failure_of(notifier: TelegramNotifier, text: str = "x") -> NotificationFailed:
    with pytest.raises(NotificationFailed) as caught:
        await notifier.send(text)
    return caught.value


# What is sent


async def test_a_message_arrives_as_its_reader_should_see_it(
    notifier: TelegramNotifier, server: SimulatedTelegram
) -> None:
    await notifier.send("✅ <b>Order Filled</b>\n\nStrategy: S&amp;P &lt;1-Day&gt;\nOrder: BUY 100 SPY @ $235.15")
    (message,) = server.messages
    assert message.text == "✅ Order Filled\n\nStrategy: S&P <1-Day>\nOrder: BUY 100 SPY @ $235.15"
    assert message.chat_id == "42"
    assert message.parse_mode == "HTML"
    assert not message.link_preview


async def test_a_chat_id_from_the_environment_and_a_base_url_ending_in_bot_are_understood(
    server: SimulatedTelegram, clock: HandMovedClock
) -> None:
    notifier = TelegramNotifier(f" {CANARY}\n", " 42 ", f"{server.base_url}/bot/", clock=clock, sleep=clock.sleep)
    await notifier.send("hello")
    await notifier.close()
    assert [message.chat_id for message in server.messages] == ["42"]


async def test_start_needs_no_network_and_send_starts_what_was_not_started(clock: HandMovedClock) -> None:
    with SimulatedTelegram(token=CANARY) as gone:
        notifier = make(gone, clock)
    await notifier.start()
    failure = await failure_of(notifier)
    assert not failure.permanent
    assert "could not be reached" in str(failure)
    await notifier.close()


async def test_a_lone_surrogate_does_not_make_a_message_fail_for_ever(
    notifier: TelegramNotifier, server: SimulatedTelegram
) -> None:
    await notifier.send("reason: \ud83d broken")
    assert server.messages[0].text == "reason: ? broken"


async def test_nothing_can_be_sent_after_close_and_closing_twice_is_allowed(
    notifier: TelegramNotifier, server: SimulatedTelegram
) -> None:
    await notifier.send("last")
    await notifier.close()
    await notifier.close()
    assert "closed" in str(await failure_of(notifier))
    assert len(server.messages) == 1


async def test_a_cancelled_send_is_cancelled_and_the_next_one_works(
    notifier: TelegramNotifier, server: SimulatedTelegram
) -> None:
    server.add_fault(Fault(kind=FaultKind.NEVER_ANSWERS))
    submission = asyncio.create_task(notifier.send("never"))
    await asyncio.to_thread(server.wait_for_calls, "sendMessage", 1)
    submission.cancel()
    with pytest.raises(asyncio.CancelledError):
        await submission
    await notifier.send("next")
    assert [message.text for message in server.messages] == ["next"]


async def test_both_notifiers_keep_the_protocol(server: SimulatedTelegram, clock: HandMovedClock) -> None:
    on: Notifier = make(server, clock)
    off: Notifier = NoNotifier()
    assert (on.enabled, off.enabled) == (True, False)
    for notifier in (on, off):
        await notifier.start()
        await notifier.send("x")
        await notifier.close()
    assert len(server.messages) == 1


# What can go wrong


async def test_a_pause_that_telegram_asks_for_is_passed_on_and_kept(
    notifier: TelegramNotifier, server: SimulatedTelegram, clock: HandMovedClock
) -> None:
    server.add_fault(Fault(kind=FaultKind.TOO_MANY_REQUESTS, seconds=17))
    with warnings.catch_warnings(record=True) as warned:
        failure = await failure_of(notifier)
    assert (failure.retry_after_seconds, failure.permanent) == (17.0, False)
    assert warned == []

    clock.now += 7
    early = await failure_of(notifier)
    assert early.retry_after_seconds == pytest.approx(10.0)
    assert server.calls("sendMessage") == 1

    clock.now += 10
    await notifier.send("after the pause")
    assert [message.text for message in server.messages] == ["after the pause"]


@pytest.mark.parametrize("setting", ["true", "false"])
async def test_a_pause_is_understood_as_number_and_as_timedelta(
    setting: str, notifier: TelegramNotifier, server: SimulatedTelegram, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PTB_TIMEDELTA", setting)
    server.add_fault(Fault(kind=FaultKind.TOO_MANY_REQUESTS, seconds=3))
    assert (await failure_of(notifier)).retry_after_seconds == 3.0


@pytest.mark.parametrize(
    ("fault", "permanent", "says"),
    [
        (Fault(kind=FaultKind.CHAT_NOT_FOUND), True, "TELEGRAM_CHAT_ID"),
        (Fault(kind=FaultKind.UNAUTHORIZED), True, "TELEGRAM_BOT_TOKEN"),
        (Fault(kind=FaultKind.FORBIDDEN), True, "blocked by the user"),
        (Fault(kind=FaultKind.SERVER_ERROR, status=500), False, "(500)"),
        (Fault(kind=FaultKind.SERVER_ERROR, status=502), False, "(502)"),
        (Fault(kind=FaultKind.NONSENSE), False, "Invalid server response"),
        (Fault(kind=FaultKind.DROP), False, "disconnected"),
    ],
    ids=lambda value: value.kind.value if isinstance(value, Fault) else None,
)
async def test_each_failure_says_whether_trying_again_can_help(
    fault: Fault, permanent: bool, says: str, notifier: TelegramNotifier, server: SimulatedTelegram
) -> None:
    server.add_fault(fault)
    failure = await failure_of(notifier)
    assert failure.permanent is permanent
    assert failure.retry_after_seconds is None
    assert says in str(failure)
    assert server.messages == ()
    await notifier.send("again")
    assert [message.text for message in server.messages] == ["again"]


async def test_a_lost_answer_is_a_failure_although_the_message_arrived(
    notifier: TelegramNotifier, server: SimulatedTelegram
) -> None:
    server.add_fault(Fault(kind=FaultKind.ACCEPT_THEN_DROP))
    failure = await failure_of(notifier, "twice rather than never")
    assert not failure.permanent
    await notifier.send("twice rather than never")
    assert [message.text for message in server.messages] == ["twice rather than never"] * 2


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "fault",
    [Fault(kind=FaultKind.NEVER_ANSWERS), Fault(kind=FaultKind.SLOW, seconds=30), Fault(kind=FaultKind.TRICKLES)],
    ids=["never", "slow", "trickles"],
)
async def test_a_silent_telegram_holds_a_send_no_longer_than_allowed(
    fault: Fault, server: SimulatedTelegram, clock: HandMovedClock
) -> None:
    notifier = make(server, clock, timeout=0.15)
    server.add_fault(fault)
    began = time.monotonic()
    failure = await failure_of(notifier)
    assert time.monotonic() - began < 5
    assert not failure.permanent
    assert "may have arrived" in str(failure)
    await notifier.close()


async def test_an_answer_without_a_description_is_still_a_success(
    notifier: TelegramNotifier, server: SimulatedTelegram
) -> None:
    server.add_fault(Fault(kind=FaultKind.BARE_ANSWER))
    await notifier.send("accepted")
    assert len(server.messages) == 1


async def test_an_empty_text_is_refused_for_good(notifier: TelegramNotifier) -> None:
    failure = await failure_of(notifier, "")
    assert failure.permanent
    assert "empty" in str(failure)


@pytest.mark.parametrize("token", ["", "two words", "a/b", "1:é"])
async def test_a_token_that_cannot_be_one_is_refused_without_a_call(
    token: str, server: SimulatedTelegram, clock: HandMovedClock
) -> None:
    notifier = make(server, clock, token=token)
    failure = await failure_of(notifier)
    assert failure.permanent
    assert "TELEGRAM_BOT_TOKEN" in str(failure)
    assert server.calls("sendMessage") == 0
    await notifier.close()


async def test_a_group_that_became_a_supergroup_is_followed(server: SimulatedTelegram, clock: HandMovedClock) -> None:
    notifier = make(server, clock, chat_id=-5)
    server.add_fault(Fault(kind=FaultKind.CHAT_MOVED))
    await notifier.send("first")
    await notifier.send("second")
    await notifier.close()
    assert [(message.chat_id, message.text) for message in server.messages] == [("-1005", "first"), ("-1005", "second")]


# Broken HTML and long texts


async def test_html_that_telegram_cannot_read_is_sent_once_more_as_plain_text(
    notifier: TelegramNotifier, server: SimulatedTelegram
) -> None:
    await notifier.send("❌ <b>Order Rejected</b>\nReason: <unknown> &amp; x < 3")
    (message,) = server.messages
    assert message.parse_mode is None
    assert message.text == "❌ Order Rejected\nReason: <unknown> & x < 3"
    assert server.calls("sendMessage") == 2


async def test_a_long_text_with_broken_html_is_cut_as_plain_text(
    notifier: TelegramNotifier, server: SimulatedTelegram
) -> None:
    await notifier.send("<x>" + "😀&amp;" * 3000)
    (message,) = server.messages
    assert message.parse_mode is None
    assert message.text.startswith("<x>😀&😀&")
    assert message.text.endswith(CUT_MARK)
    assert LONGEST_TEXT - 2 <= utf16_length(message.text) <= LONGEST_TEXT


async def test_a_long_message_is_cut_without_breaking_tags_or_entities(
    notifier: TelegramNotifier, server: SimulatedTelegram
) -> None:
    await notifier.send("<b>Dead letters</b>\n<i>" + "<code>A&amp;B</code> &lt;x&gt; " * 500 + "</i>")
    (message,) = server.messages
    assert message.parse_mode == "HTML"
    assert server.calls("sendMessage") == 1
    assert message.text.startswith("Dead letters\nA&B <x> A&B <x> ")
    assert message.text.endswith(CUT_MARK)
    assert LONGEST_TEXT - 40 < len(message.source) <= LONGEST_TEXT


def utf16_length(text: str) -> int:
    return len(text.encode("utf-16-le")) // 2


PIECES = st.recursive(
    st.text(st.sampled_from("ab <>&\"'é😀₹\n"), max_size=12).map(html.escape),
    lambda inner: st.builds(
        lambda tag, parts: f"<{tag}>{''.join(parts)}</{tag.split()[0]}>",
        st.sampled_from(["b", "i", "code", 'a href="http://x.test/?a=1&amp;b=2"']),
        st.lists(inner, max_size=4),
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(st.lists(PIECES, max_size=6).map("".join), st.integers(min_value=10, max_value=120))
def test_a_cut_text_is_readable_html_within_the_limit_and_begins_as_the_whole_does(text: str, limit: int) -> None:
    cut = cut_html(text, limit)
    if utf16_length(text) <= limit:
        assert cut == text
        return
    assert utf16_length(cut) <= limit
    seen = read_html(cut)
    assert seen.endswith(CUT_MARK)
    assert read_html(text).startswith(seen.removesuffix(CUT_MARK))


def test_a_text_of_exactly_the_limit_is_not_cut() -> None:
    assert cut_html("x" * LONGEST_TEXT) == "x" * LONGEST_TEXT
    assert cut_html("x" * (LONGEST_TEXT + 1)) == "x" * (LONGEST_TEXT - len(CUT_MARK)) + CUT_MARK
    assert utf16_length(cut_html("😀" * 2049)) <= LONGEST_TEXT


def test_plain_text_keeps_what_is_not_telegrams_markup() -> None:
    assert plain_text('<a href="http://x">A</a> <b>1</b> &lt; 2 <br> <bold> a<b') == "A 1 < 2 <br> <bold> a<b"


# Rate limits


async def test_messages_to_one_chat_leave_a_second_apart(
    notifier: TelegramNotifier, server: SimulatedTelegram, clock: HandMovedClock
) -> None:
    for number in range(4):
        await notifier.send(str(number))
    clock.now += 0.25
    await notifier.send("soon after")
    clock.now += 60
    await notifier.send("much later")
    assert clock.sleeps == pytest.approx([1.0, 1.0, 1.0, 0.75])
    assert len(server.messages) == 6


async def test_a_group_gets_twenty_messages_a_minute_and_then_a_time_to_come_back(
    server: SimulatedTelegram, clock: HandMovedClock
) -> None:
    notifier = make(server, clock, chat_id=-100777)
    for number in range(20):
        await notifier.send(str(number))
    failure = await failure_of(notifier)
    assert not failure.permanent
    assert failure.retry_after_seconds == pytest.approx(41.0)
    assert len(server.messages) == 20

    clock.now += failure.retry_after_seconds or 0
    await notifier.send("20")
    assert [message.text for message in server.messages] == [str(number) for number in range(21)]
    await notifier.close()


async def test_senders_at_the_same_time_share_the_limit(
    notifier: TelegramNotifier, server: SimulatedTelegram, clock: HandMovedClock
) -> None:
    outcomes = await asyncio.gather(*(notifier.send(str(n)) for n in range(6)), return_exceptions=True)
    refused = [outcome for outcome in outcomes if outcome is not None]
    assert all(isinstance(outcome, NotificationFailed) and outcome.retry_after_seconds for outcome in refused)
    assert len(server.messages) == 6 - len(refused)
    assert sum(clock.sleeps) >= len(server.messages) - 1


# The operator's check


@pytest.mark.parametrize(("chat_id", "kind"), [(42, "private"), (-5, "group"), (-100777, "supergroup")])
async def test_check_names_bot_and_chat_and_sends_nothing(
    chat_id: int, kind: str, server: SimulatedTelegram, clock: HandMovedClock
) -> None:
    notifier = make(server, clock, chat_id=chat_id)
    sentence = await notifier.check()
    await notifier.close()
    assert "@simulated_bot" in sentence
    assert f"({kind}, {chat_id})" in sentence
    assert server.messages == ()


@pytest.mark.parametrize("method", ["getMe", "getChat"])
async def test_check_accepts_a_server_that_tells_less_than_the_library_insists_on(
    method: str, notifier: TelegramNotifier, server: SimulatedTelegram
) -> None:
    server.add_fault(Fault(kind=FaultKind.BARE_ANSWER, method=method))
    assert "42" in await notifier.check()


async def test_check_tells_a_wrong_token_from_a_wrong_chat(server: SimulatedTelegram, clock: HandMovedClock) -> None:
    wrong_token = make(server, clock, token="1:wrong")
    wrong_chat = make(server, clock, chat_id=43)
    with pytest.raises(NotificationFailed, match="TELEGRAM_BOT_TOKEN") as token_failure:
        await wrong_token.check()
    with pytest.raises(NotificationFailed, match="TELEGRAM_CHAT_ID") as chat_failure:
        await wrong_chat.check()
    assert token_failure.value.permanent
    assert chat_failure.value.permanent
    await wrong_token.close()
    await wrong_chat.close()


# The token


def everything_an_exception_tells(error: BaseException) -> str:
    """Its traceback with chained exceptions, those that `from None` hides included, and every frame's variables."""
    told = ["".join(traceback.format_exception(error))]
    waiting: list[BaseException] = [error]
    while waiting:
        one = waiting.pop()
        told += [str(one), repr(one), repr(one.args), repr(vars(one))]
        for frame, _ in traceback.walk_tb(one.__traceback__):
            if frame.f_code.co_filename != __file__:
                told.append(repr(frame.f_locals))
        waiting += [linked for linked in (one.__cause__, one.__context__) if linked is not None]
    return "\n".join(told)


@contextlib.contextmanager
def every_log_record() -> Iterator[io.StringIO]:
    """All that any logger says at DEBUG, as a formatter would write it, with tracebacks."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(logging.Formatter("%(name)s %(levelname)s %(message)s"))
    root = logging.getLogger()
    names = [
        name for name in logging.root.manager.loggerDict if name.split(".")[0] in {"httpx", "httpcore", "telegram"}
    ]
    loggers = [root, *(logging.getLogger(name) for name in names)]
    before = [logger.level for logger in loggers]
    root.addHandler(handler)
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
    try:
        yield written
    finally:
        root.removeHandler(handler)
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


async def test_the_token_is_never_seen(
    server: SimulatedTelegram, clock: HandMovedClock, capfd: pytest.CaptureFixture[str]
) -> None:
    async def fail(method: str, *, token: str = CANARY, timeout: float = 10) -> str:
        notifier = make(server, clock, token=token, timeout=timeout)
        try:
            await (notifier.send("<b>x</b>") if method == "sendMessage" else notifier.check())
        except NotificationFailed as exc:
            return everything_an_exception_tells(exc)
        finally:
            await notifier.close()
        return "no failure"

    notifier = make(server, clock)
    told: list[str] = [repr(notifier), str(notifier)]
    with every_log_record() as at_start:
        await notifier.start()
    # `start` silences the libraries; here somebody turns them all on again.
    with every_log_record() as logged_while_working:
        await notifier.send("works")
        told.append(await notifier.check())
        error = OSError(f"http://127.0.0.1/bot{CANARY}/sendMessage")
        logging.getLogger("httpx").error("failed", exc_info=error)
        await notifier.close()
    with every_log_record() as logged_while_failing:
        for kind in FaultKind:
            silent = kind in {FaultKind.NEVER_ANSWERS, FaultKind.SLOW, FaultKind.TRICKLES}
            for method in ("sendMessage", "getMe"):
                server.add_fault(Fault(kind=kind, method=method, seconds=2))
                told.append(await fail(method, timeout=0.1 if silent else 10))
                server.clear_faults()
        told.append(await fail("getMe", token=CANARY + "x"))
        server.stop()
        told.append(await fail("sendMessage"))
    printed = capfd.readouterr()
    seen = {
        "exceptions": "\n".join(told),
        "log at start": at_start.getvalue(),
        "log while working": logged_while_working.getvalue(),
        "log while failing": logged_while_failing.getvalue(),
        "console": printed.out + printed.err,
    }
    assert "bot<token>/sendMessage" in seen["log while working"], "the test listens where the libraries speak"
    assert sum("NotificationFailed" in one for one in told) >= 20
    for place, text in seen.items():
        assert CANARY.partition(":")[2] not in text, place


async def test_the_libraries_are_silent_once_started(
    notifier: TelegramNotifier, server: SimulatedTelegram, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.add_fault(Fault(kind=FaultKind.SERVER_ERROR, status=502))
    await failure_of(notifier)
    await notifier.send("fine")
    assert [record.name for record in caplog.records if re.match("httpx|httpcore|telegram", record.name)] == []


# The simulator itself


def ask(server: SimulatedTelegram, path: str, body: object = None, method: str | None = None) -> tuple[int, dict]:
    request = urllib.request.Request(
        server.base_url + path,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
        method=method,
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=5) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, json.load(exc)


def test_messages_and_faults_are_reached_over_http(server: SimulatedTelegram) -> None:
    method = f"/bot{CANARY}/sendMessage"
    assert ask(server, "/_faults", {"kind": "too_many_requests", "seconds": 4, "times": 2})[0] == 200
    assert ask(server, "/_faults")[1]["faults"][0]["times"] == 2
    status, answer = ask(server, method, {"chat_id": 42, "text": "x"})
    assert (status, answer["parameters"]) == (429, {"retry_after": 4})
    ask(server, "/_faults", method="DELETE")
    status, answer = ask(server, method, {"chat_id": 42, "text": "<i>x</i>", "parse_mode": "HTML"})
    assert (status, answer["ok"], answer["result"]["text"]) == (200, True, "x")
    (message,) = ask(server, "/_messages")[1]["messages"]
    assert (message["text"], message["source"], message["chat_id"]) == ("x", "<i>x</i>", "42")
    ask(server, "/_messages", method="DELETE")
    assert server.messages == ()


@pytest.mark.parametrize(
    "fault", [{}, [], {"kind": "nope"}, {"kind": "drop", "often": 1}, {"kind": "drop", "times": 0}, "drop"]
)
def test_a_fault_that_is_none_is_refused(fault: object, server: SimulatedTelegram) -> None:
    status, _ = ask(server, "/_faults", fault)
    assert status == (200 if fault == [] else 400)
    assert server.faults == ()


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"text": "x"}, "chat_id is empty"),
        ({"chat_id": 1, "text": "x"}, "chat not found"),
        ({"chat_id": 42, "text": " \n"}, "message text is empty"),
        ({"chat_id": 42, "text": "x" * 4097}, "message is too long"),
        ({"chat_id": 42, "text": "<b>x", "parse_mode": "HTML"}, "can't parse entities: Can't find end tag"),
        ({"chat_id": 42, "text": "é<foo>", "parse_mode": "HTML"}, 'Unsupported start tag "foo" at byte offset 2'),
        ({"chat_id": 42, "text": "<b><i>x</b></i>", "parse_mode": "HTML"}, 'expected "</i>", found "</b>"'),
    ],
)
def test_the_simulator_refuses_what_telegram_refuses(fields: dict, says: str, server: SimulatedTelegram) -> None:
    status, answer = ask(server, f"/bot{CANARY}/sendMessage", fields)
    assert (status, answer["ok"]) == (400, False)
    assert says in answer["description"]
    assert server.messages == ()


def test_a_stranger_to_the_simulator_is_told_as_telegram_tells(server: SimulatedTelegram) -> None:
    assert ask(server, "/bot1:other/getMe")[0] == 401
    assert ask(server, f"/bot{CANARY}/setWebhook")[0] == 404
    with SimulatedTelegram() as any_token:
        assert ask(any_token, f"/bot{any_token.token}/getMe")[1]["result"]["is_bot"] is True
        assert ask(any_token, "/botmalformed/getMe")[0] == 404


def test_the_simulator_serves_loopback_only(server: SimulatedTelegram) -> None:
    with pytest.raises(ValueError, match="loopback"):
        SimulatedTelegram(host="0.0.0.0")
    connection = http.client.HTTPConnection(server.base_url.removeprefix("http://"), timeout=5)
    with contextlib.closing(connection):
        connection.request("GET", "/_messages", headers={"Host": "evil.test"})
        assert connection.getresponse().status == 403


def test_the_command_prints_messages_for_people_and_ends_at_sigterm() -> None:
    command = [sys.executable, "-m", "simulators.telegram", "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=os.environ) as process:
        assert process.stdout is not None
        try:
            head = process.stdout.readline()
            found = re.search(r"http://127\.0\.0\.1:(\d+)", head)
            assert found, head
            connection = http.client.HTTPConnection("127.0.0.1", int(found[1]), timeout=5)
            with contextlib.closing(connection):
                connection.request(
                    "POST",
                    "/bot1:a/sendMessage",
                    body="chat_id=7&parse_mode=HTML&text=%E2%9C%85+%3Cb%3EOrder+Filled%3C%2Fb%3E",
                    headers={"Content-Type": "application/x-www-form-urlencoded"},
                )
                assert connection.getresponse().status == 200
            process.send_signal(signal.SIGTERM)
            assert "✅ Order Filled\n" in process.stdout.read()
            assert process.wait(timeout=10) == 0
        finally:
            process.kill()
