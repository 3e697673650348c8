"""The real service, commanded by Telegram from outside: a kill, what it stops, and what a stranger gets."""

from __future__ import annotations

from pathlib import Path

import httpx

from simulators.telegram import SimulatedTelegram
from tests.external.service_process import Service
from tests.waits import wait_until

USER, STRANGER, GROUP = 7, 666, -5


def test_a_kill_by_telegram_stops_the_next_order_and_a_stranger_stops_nothing(tmp_path: Path) -> None:
    with SimulatedTelegram() as telegram:
        settings = {
            "TELEGRAM_ENABLED": "true",
            "TELEGRAM_BOT_TOKEN": telegram.token,
            "TELEGRAM_CHAT_ID": str(GROUP),
            "TELEGRAM_ALLOWED_USERS": f"{USER},8",
            "TELEGRAM_API_BASE_URL": telegram.base_url,
        }
        with Service(tmp_path / "service", **settings) as service:
            service.start()
            base = str(service.endpoints()["api"])

            def say(text: str, says: str, user: int = USER) -> None:
                telegram.write(text, user_id=user, chat_id=GROUP)
                wait_until(lambda: any(says in each.text for each in telegram.messages), f"{text} is answered")

            def placed(name: str) -> str:
                body = {"symbol": "AAPL", "side": "buy", "quantity": 1, "price": 10}
                httpx.post(f"{base}/api/execution/order", json=body, headers={"Idempotency-Key": name})

                def ended() -> str:
                    (order,) = httpx.get(f"{base}/api/execution/orders/{name}").json()["orders"]
                    return str(order["status"]) if order["finished_at"] or order["filled_at"] else ""

                return str(wait_until(ended, f"{name} has ended"))

            say("/kill all", "Stranger At The Bot", user=STRANGER)
            assert placed("one") == "FILLED"
            say("/kill all odd", "KILLED all")
            assert placed("two") == "REJECTED"
            say("/resume all looked at it", "Not armed yet")
            say("/status", "ENGAGED")
            status, seconds = service.stop()
            assert (status, seconds < 10) == (0, True)
            assert telegram.token not in service.log() + service.console()
