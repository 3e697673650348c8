"""The system's Chromium, for tests of the operator's page. No tests here."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, expect, sync_playwright

from tests.external.service_process import Service

CHROMIUM = next((path for name in ("chromium", "chromium-browser") if (path := shutil.which(name))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium of the system: apt-get install chromium")
TOKEN = "an-admins-token-for-the-page"
PATIENCE_MS = 20_000


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """A browser with a profile of its own, without a window."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        with contextlib.closing(browser):
            yield browser


def address(service: Service) -> str:
    return str(service.endpoints()["api"])


@contextlib.contextmanager
def visit(
    browser: Browser, service: Service, *, token: str | None = TOKEN, expected: tuple[str, ...] = (), **settings: Any
) -> Iterator[Page]:
    """The page as whoever holds the token sees it; None: nobody has logged in. Fails if the console tells of any error whose text has none of
    the `expected` words in it."""
    context: BrowserContext = browser.new_context(**{"viewport": {"width": 1440, "height": 900}} | settings)
    context.set_default_timeout(PATIENCE_MS)
    expect.set_options(timeout=PATIENCE_MS)
    said: list[str] = []

    def note(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            said.append(message.text)

    with contextlib.closing(context):
        if token is not None:
            answer = context.request.post(f"{address(service)}/api/execution/session", data={"token": token})
            assert answer.ok, answer.text()
        page = context.new_page()
        page.on("console", note)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(f"{address(service)}/")
        yield page
        unexpected = [text for text in said if not any(word in text for word in expected)]
        assert unexpected == [], "the browser's console"


def violations(page: Page) -> list[Mapping[str, Any]]:
    """What axe finds against WCAG 2.2 AA and its own best practices."""
    found = Axe().run(page).response["violations"]
    return [
        {"rule": each["id"], "impact": each["impact"], "nodes": [node["html"][:200] for node in each["nodes"][:5]]}
        for each in found
    ]
