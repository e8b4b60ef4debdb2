"""The dashboard's page in a real browser: fleet, requests, timeline, colours, a phone, a key."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from answers import ask_one
from fleet_under_test import Engines, Gateway
from images import text_chat, vision_chat
from keyed_gateway import Keys
from processes import wait_until

from browser import browser

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page

MARKUP = '<img src=x onerror="document.title=1">'
SECONDS = 30_000
"""Milliseconds that the page has for anything."""


@pytest.fixture(scope="module")
def shown(engines: Engines) -> Iterator[Gateway]:
    names = [name for name in engines.fleet if not name.startswith("union")]
    with Gateway(engines, names, label="page", workers=2) as gateway:
        yield gateway


@pytest.fixture
def window(tmp_path: Path) -> Iterator[BrowserContext]:
    with browser(tmp_path) as context:
        context.set_default_timeout(SECONDS)
        yield context


def opened(context: BrowserContext, url: str) -> tuple[Page, list[str]]:
    """The dashboard, and what it complains of."""
    page = context.new_page()
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.append(said.text) if said.type == "error" else None)
    page.goto(f"{url}/dashboard")
    return page, complaints


def until(page: Page, condition: str) -> None:
    """Wait for it from outside: the page's own policy lets nobody evaluate text in it."""
    wait_until(lambda: bool(page.evaluate(condition)), condition)


def asked(gateway: Gateway, name: str, **fields: object) -> None:
    """Some requests, the last one of this id."""
    for _ in range(3):
        assert ask_one(gateway.url, text_chat(max_tokens=2)).status == 200
    assert ask_one(gateway.url, vision_chat(5, max_tokens=4, **fields), **{"X-Request-Id": name}).status == 200


def test_from_the_fleet_to_a_request_to_its_legs(shown: Gateway, window: BrowserContext) -> None:
    asked(shown, "clicked-through")
    page, complaints = opened(window, shown.management_url)
    page.wait_for_selector("#state[data-kind=good]")
    assert [lane.get_attribute("data-role") for lane in page.query_selector_all(".lane")] == [
        "queue", "encode", "prefill", "decode",
    ]  # fmt: skip
    tiles = {tile.get_attribute("data-name") for tile in page.query_selector_all(".tile")}
    assert tiles == set(shown.names)

    page.click(".tile[data-name='decode-1']")
    assert "decode-1/0 ready" in page.inner_text("#instance")
    page.click("#instance button")
    assert not page.is_visible("#instance")

    page.fill("#search", "clicked-through")
    row = page.wait_for_selector(".list tbody tr[data-id]")
    assert row is not None
    until(page, "document.querySelectorAll('.list tbody tr').length === 1")
    page.click(".list .open")
    page.wait_for_selector(".gantt")
    legs = [each.inner_text() for each in page.query_selector_all(".gantt .label b")]
    assert [leg for leg in legs if leg in ("encode", "prefill", "decode")] == ["encode", "prefill", "decode"]
    assert page.query_selector(".gantt .handoff") is not None or page.query_selector(".gantt .bar.first") is None

    page.click(".gantt .label[data-leg=decode]")
    why = page.inner_text(".why:visible")
    assert "✓ decode-" in why
    assert "Load, tokens" in why
    assert page.query_selector_all("#charts svg path")
    assert complaints == []


def test_by_keyboard_alone(shown: Gateway, window: BrowserContext) -> None:
    asked(shown, "typed")
    page, complaints = opened(window, shown.management_url)
    page.wait_for_selector(".tile")
    page.focus(".lane[data-role=decode] .tile")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.dataset.name") == "decode-1"
    page.keyboard.press("Enter")
    page.wait_for_selector("#instance h3:has-text('decode-1')")
    page.focus(".list .open")
    page.keyboard.press("Enter")
    page.wait_for_selector("#timeline h3")
    unnamed = page.evaluate(
        "[...document.querySelectorAll('button, input, [role=img]')].filter(one =>"
        " !(one.ariaLabel || one.textContent.trim() || one.labels?.length || one.title)).map(one => one.outerHTML)"
    )
    assert unnamed == []
    assert complaints == []


def test_filters(shown: Gateway, window: BrowserContext) -> None:
    asked(shown, "usual")
    assert ask_one(shown.url, {**text_chat(max_tokens=2), "model": MARKUP}).status == 404
    page, complaints = opened(window, shown.management_url)
    page.wait_for_selector(".list tbody tr[data-id]")
    page.check("#filter input[value=failed]", force=True)
    until(page, "[...document.querySelectorAll('.list .outcome')].every(one => one.dataset.kind !== 'answered')")
    assert page.inner_text(".list tbody tr[data-id] td:nth-child(4)") == MARKUP
    page.click(".list .open")
    page.wait_for_selector("#timeline h3")
    assert MARKUP in page.inner_text("#timeline")
    page.fill("#search", "there is no such thing")
    page.wait_for_selector(".list .nothing")
    assert page.title() == "PyMotor"
    assert page.query_selector("img") is None
    assert complaints == []


def test_dark_and_light_by_the_system_and_by_choice(shown: Gateway, tmp_path: Path) -> None:
    with browser(tmp_path, scheme="dark") as context:
        page, complaints = opened(context, shown.management_url)
        page.wait_for_selector(".tile")
        ground = "getComputedStyle(document.body).backgroundColor"
        dark = page.evaluate(ground)
        page.check("#theme input[value=light]", force=True)
        light = page.evaluate(ground)
        assert dark != light
        page.reload()
        page.wait_for_selector(".tile")
        assert page.evaluate(ground) == light
        page.check("#theme input[value=auto]", force=True)
        assert page.evaluate(ground) == dark
        page.emulate_media(color_scheme="light")
        until(page, f"{ground} === '{light}'")
        assert complaints == []


def axis(page: Page, title: str) -> list[str]:
    """The figures beside a chart, from top to bottom."""
    chart = page.locator(f"figure.chart:has(h3:text-is('{title}')) svg")
    return chart.locator("text[text-anchor=end]").all_text_contents()[:3][::-1]


def test_the_figures_beside_a_chart_differ_from_each_other(engines: Engines, window: BrowserContext) -> None:
    """Also where nothing has happened yet."""
    with Gateway(engines, ["union-0"], label="page-idle", workers=1) as gateway:
        page, complaints = opened(window, gateway.management_url)
        page.wait_for_selector("#charts figure svg text")
        until(page, "document.querySelectorAll('#charts text.nothing').length === 1")
        assert axis(page, "Requests") == ["1", "0.5", "0"]
        assert axis(page, "Legs in flight and queue") == ["2", "1", "0"]
        assert axis(page, "Time to first token") == ["", "", ""]
        words = page.locator("figure.chart:has(h3:text-is('Time to first token')) text.nothing").text_content()
        assert words == "nothing measured yet"
        asked(gateway, "the first")
        until(page, "document.querySelectorAll('#charts text.nothing').length === 0")
        for title in ("Requests", "Time to first token", "Tokens written", "Legs in flight and queue"):
            figures = axis(page, title)
            assert len(set(figures)) == 3, (title, figures)
            assert figures[-1] == "0"
        assert complaints == []


@pytest.mark.parametrize("width", [360, 768, 1920])
def test_nothing_is_wider_than_the_window(shown: Gateway, tmp_path: Path, width: int) -> None:
    asked(shown, f"wide-{width}")
    with browser(tmp_path, width=width) as context:
        page, complaints = opened(context, shown.management_url)
        page.wait_for_selector(".list .open")
        page.click(".list .open")
        page.wait_for_selector("#timeline h3")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert complaints == []


def test_from_elsewhere_it_asks_for_a_key(engines: Engines, tmp_path: Path) -> None:
    keys = Keys(tmp_path / "keys.json")
    secret = keys.create("read", "--scope", "read")
    config = {"api_key_config": {"enable_api_key": True, "keys_file": str(keys.file)}}
    with (
        Gateway(engines, ["union-0"], config=config, label="page-keys") as gateway,
        browser(tmp_path / "profile") as context,
    ):
        # As a proxy in front says of whoever comes from elsewhere.
        context.set_extra_http_headers({"X-Forwarded-For": "192.0.2.7"})
        seen: list[str] = []
        context.on("request", lambda request: seen.append(request.url))
        page, _ = opened(context, gateway.management_url)
        page.wait_for_selector("#ask[open]")
        page.fill("#ask-key", "sk-wrong")
        page.click("#ask button[type=submit]")
        page.wait_for_selector("#ask-why:has-text('not known')")
        page.fill("#ask-key", secret)
        page.click("#ask button[type=submit]")
        page.wait_for_selector(".tile[data-name='union-0']")
        page.wait_for_selector("#state[data-kind=good]")
        page.reload()
        page.wait_for_selector(".tile[data-name='union-0']")
        assert not page.is_visible("#ask")
        assert context.cookies() == []
        assert not [url for url in seen if secret in url]
        assert page.evaluate("Object.values(localStorage)") == []
        page.click("#key")
        page.click("#ask-forget")
        page.wait_for_selector("#state[data-kind=bad]")
        assert page.evaluate("Object.values(sessionStorage)") == []


def test_a_coordinator_that_is_gone_is_told_in_words(engines: Engines, window: BrowserContext) -> None:
    with Gateway(engines, ["union-0"], label="page-gone") as gateway:
        page, _ = opened(window, gateway.management_url)
        page.wait_for_selector("#state[data-kind=good]")
        gateway.close()
    page.wait_for_selector("#notice:has-text('does not answer')")
    assert page.is_visible(".tile[data-name='union-0']")
