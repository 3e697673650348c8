"""The report of a simulation in a real browser, without scripts: nothing is loaded, and it can be read, in light and in dark."""

from __future__ import annotations

import contextlib
from pathlib import Path

from simulation.__main__ import main
from tests.external.browser import chromium, needs_chromium, violations
from tests.simulated.test_batch import files


@needs_chromium
def test_the_report_loads_nothing_says_nothing_wrong_and_can_be_read_in_light_and_dark(tmp_path: Path) -> None:
    assert main([*files(tmp_path), "--format", "csv"]) == 0
    page_file = (tmp_path / "out" / "report.html").as_uri()
    with chromium() as browser:
        for scheme in ("light", "dark"):
            # Axe is a script, which the page's own policy would stop.
            context = browser.new_context(color_scheme=scheme, bypass_csp=True, viewport={"width": 1040, "height": 900})
            with contextlib.closing(context):
                page, asked, said = context.new_page(), [], []
                page.on("request", lambda request, asked=asked: asked.append(request.url))
                page.on("console", lambda message, said=said: said.append(message.text))
                page.goto(page_file)
                assert asked == [page_file]
                assert violations(page) == []
                boxes = page.locator("svg").evaluate_all("all => all.map(each => each.getBoundingClientRect().width)")
                assert len(boxes) >= 5
                assert min(boxes) > 800
                assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (
                    "no part is beside the window"
                )
                assert said == []
