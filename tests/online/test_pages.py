"""The pages in a real browser: signing in, looking, and deciding with mouse and keyboard.

`SCREENSHOTS=docs/images` writes the picture of the queue in docs/online.md anew; that of the overview is of the demo.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from share.kernel.registry import Registry
from tests.online.chromium import BROWSER, Chromium
from tests.online.running import Service, question

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine: apt-get install chromium")

PICTURES = os.environ.get("SCREENSHOTS")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with Chromium(tmp_path_factory.mktemp("chromium")) as running:
        yield running


def sign_in(browser: Chromium, service: Service, role: str) -> None:
    browser.send("Network.clearBrowserCookies")
    browser.goto(f"{service.url}/")
    assert browser.evaluate("location.pathname") == "/login"
    browser.type("input[name=key]", service.keys[role])
    browser.click("main button")
    browser.loaded()


def counts(service: Service) -> dict[str, int]:
    told: dict[str, int] = service.call("GET", "/v1/reviews", key=service.keys["reviewer"]).json["counts"]
    return told


@pytest.fixture
def queued(service: Service, registry: Registry) -> int:
    """Three answers wait for review, and no others; says how many."""
    reviewer = service.keys["reviewer"]
    while waiting := service.call("POST", "/v1/reviews/lease", {"num_items": 20}, key=reviewer).json["reviews"]:
        for item in waiting:
            service.call("POST", f"/v1/reviews/{item['task_id']}/decision", {"approved": True}, key=reviewer)
    before = counts(service)["audit"]
    for number in (11, 12, 13):
        messages, _ = question(registry, number)
        service.client().chat.completions.create(model="pixelis", messages=messages)  # type: ignore[call-overload]
    while counts(service)["audit"] < before + 3:  # they are recorded behind the answers
        service.call("GET", "/health/live")
    return before + 3


def picture(browser: Chromium, name: str) -> None:
    if PICTURES is not None:
        browser.screenshot(Path(PICTURES) / name)


def test_a_wrong_key_is_told_and_lets_nobody_in(browser: Chromium, service: Service) -> None:
    browser.send("Network.clearBrowserCookies")
    browser.goto(f"{service.url}/reviews")
    browser.type("input[name=key]", "pixelis-k0-wrong")
    browser.click("main button")
    browser.loaded()
    assert "not known" in browser.text()
    assert browser.evaluate("document.cookie") == ""


def test_the_overview_shows_how_the_service_does(browser: Chromium, service: Service, queued: int) -> None:
    sign_in(browser, service, "viewer")
    text = browser.text().lower()
    for shown in ("answering", "policy version", "frozen", "accuracy on audited items", "p99", "memory", "audit"):
        assert shown in text
    assert "operate" not in text, "a viewer has no buttons"
    assert browser.evaluate("document.cookie") == "", "no script reads the key"
    assert browser.evaluate("document.querySelectorAll('svg polyline').length") >= 2
    assert browser.complaints == []


def test_an_operator_stops_learning_and_lets_it_go_on(browser: Chromium, service: Service) -> None:
    sign_in(browser, service, "operator")
    browser.click("form[action='/actions/learning_on'] button")
    browser.wait_for("document.querySelector(\"form[action='/actions/learning_off']\") !== null")
    assert service.call("GET", "/health/ready").json["adaptation"] == "on"
    browser.click("form[action='/actions/learning_off'] button")
    browser.wait_for("document.querySelector(\"form[action='/actions/learning_on']\") !== null")
    assert service.call("GET", "/health/ready").json["adaptation"] == "off"


def test_a_reviewer_sees_image_boxes_and_votes_and_decides_with_keys_and_mouse(
    browser: Chromium, service: Service, queued: int
) -> None:
    sign_in(browser, service, "reviewer")
    before = counts(service)
    browser.goto(f"{service.url}/reviews")
    here = "[...document.querySelectorAll('article')].findIndex((each) => each.classList.contains('here'))"
    assert browser.evaluate("document.querySelectorAll('article').length") >= 3
    assert browser.evaluate(here) == 0
    browser.press("j")
    assert browser.evaluate(here) == 1
    browser.press("k")
    assert browser.evaluate(here) == 0
    browser.wait_for("[...document.images].length > 0 && [...document.images].every((each) => each.naturalWidth > 0)")
    assert "ZOOM_IN" in browser.text()
    assert browser.complaints == [], "the security policy keeps nothing of the page out"

    first = browser.evaluate("document.querySelector('article').id")
    browser.press("a")
    browser.wait_for(f"document.getElementById('{first}') === null && document.readyState === 'complete'")
    browser.wait_for("document.querySelector('article.here') !== null")
    picture(browser, "online-reviews.png")

    second = browser.evaluate("document.querySelector('article').id")
    browser.type("article textarea", "are you sure")  # the letters a and r in a note decide nothing
    assert browser.evaluate("document.querySelector('article').id") == second
    browser.click("article .reject")
    browser.wait_for(f"document.getElementById('{second}') === null && document.readyState === 'complete'")

    browser.wait_for("document.querySelector('article.here') !== null")
    third = browser.evaluate("document.querySelector('article').id")
    browser.evaluate("document.activeElement.blur()")
    browser.press("r")
    browser.wait_for(f"document.getElementById('{third}') === null && document.readyState === 'complete'")

    after = counts(service)
    assert after["approved"] == before["approved"] + 1
    assert after["rejected"] == before["rejected"] + 2
    assert after["audit"] == before["audit"] - 3


def test_what_a_policy_or_a_client_wrote_is_text_and_stays_text(browser: Chromium, service: Service) -> None:
    """A question is shown to a reviewer: it must not become part of the page."""
    attack = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\"> What is it?"
    service.client().chat.completions.create(model="pixelis", messages=[{"role": "user", "content": attack}])
    sign_in(browser, service, "reviewer")
    for _ in range(40):  # the newest comes last
        browser.goto(f"{service.url}/reviews")
        if "onerror" in browser.text():
            break
        browser.click("article .approve")
        browser.loaded()
    assert "onerror" in browser.text()
    assert browser.evaluate("document.title") == "Reviews · Pixelis"
    assert browser.evaluate("document.querySelectorAll('img[onerror], article script').length") == 0


def test_signing_out_forgets_the_key(browser: Chromium, service: Service) -> None:
    sign_in(browser, service, "admin")
    browser.click("header form button")
    browser.loaded()
    browser.goto(f"{service.url}/reviews")
    assert browser.evaluate("location.pathname") == "/login"
