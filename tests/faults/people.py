"""The people behind the service as the tests play them: what they read by Telegram, and what they decide about a doubt; no judgement of orders."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.request import urlopen

from tests.external.scripts_run import execctl
from tests.external.service_process import Server, free_port
from tests.faults.stage import Play, Signal

CALL_SECONDS = 10.0
DECIDE_SECONDS = 90.0
"""Two starts of Python on a busy machine, and what the service does first when it has just been started."""
IN_DOUBT = "Order In Doubt"


def telegram_server(folder: Path) -> Server:
    port = free_port()
    command = [sys.executable, "-m", "simulators.telegram", "--port", str(port)]
    return Server("the simulated Telegram", command, port, folder / "telegram.log")


def telegram_settings(port: int) -> dict[str, str]:
    """What a service is told so that its messages go to that port."""
    return {
        "TELEGRAM_ENABLED": "true",
        "TELEGRAM_BOT_TOKEN": "1:simulated",
        "TELEGRAM_CHAT_ID": "7",
        "TELEGRAM_API_BASE_URL": f"http://127.0.0.1:{port}",
    }


class Phone:
    """What has arrived by Telegram; asked of the simulator itself, past any proxy. One that was started again has forgotten."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/_messages"

    def messages(self) -> Sequence[str]:
        """All texts, oldest first, as their reader sees them."""
        with urlopen(self._url, timeout=CALL_SECONDS) as answer:
            return [str(message["text"]) for message in json.load(answer)["messages"]]

    def tells_of_doubt(self, signal: Signal) -> bool:
        return any(IN_DOUBT in text and signal.signal_id in text for text in self.messages())


class Person:
    """Decides about the orders of one play that are in doubt and that the broker does not show: once each, and only what they were told of: by a
    confirmation, and where they have a phone, by that too."""

    def __init__(self, play: Play, phone: Phone | None = None) -> None:
        self._play = play
        self._phone = phone
        self.decided: dict[str, Signal] = {}
        """By client order id."""
        self.wrong: list[str] = []

    def doubted(self) -> list[Signal]:
        """What waits for a decision. An order that the broker shows does not: its doubt has to end by itself."""
        return [signal for signal in self._play.signals if self._is_doubted(signal)]

    def decide(self, signal: Signal) -> None:
        """That it was not placed, if people were told of the doubt. Nothing where they were not yet: then it is asked again."""
        if signal.client_order_id in self.decided or not self._is_told(signal):
            return
        record = self._play.record(signal)
        assert record is not None
        service = self._play.stage.service
        arguments = ("--as", "not-placed", "--by", "the test", "--note", "not in the order book")
        # The service is started by the tests' own program here, so its notice is not taken for a service's.
        store = {"MONGODB_URI": self._play.stage.store_uri}
        said = execctl(service, "resolve", str(record["_id"]), *arguments, within=DECIDE_SECONDS, **store)
        if service.exit_status() is not None:
            return  # it died meanwhile: the decision may not have arrived, and is taken again in the next life
        if said.status != 0:
            self.wrong.append(f"the decision was not taken: {said.out}{said.err}")
        self.decided[signal.client_order_id] = signal

    def _is_told(self, signal: Signal) -> bool:
        is_published = any(
            each.body["status"] == "IN_DOUBT" and each.body["client_order_id"] == signal.client_order_id
            for each in self._play.stage.told({signal.signal_id})
        )
        return is_published and (self._phone is None or self._phone.tells_of_doubt(signal))

    def _is_doubted(self, signal: Signal) -> bool:
        record = self._play.record(signal)
        return record is not None and record["status"] == "IN_DOUBT" and not self._play.is_shown(signal)
