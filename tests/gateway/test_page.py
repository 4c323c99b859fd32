"""The gateway's page in a real browser: labels, entities, spans, likeness, mistakes, the keyboard, light and dark."""

import asyncio
import contextlib
import shutil
import threading
from collections.abc import Iterator

import decoders as cases
import pytest
from aiohttp import web
from scripted import SAID, Scripted
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait
from test_gateway import FOLDER, HOSTS, KEY, Plain

from secformer_jax.errors import UserError
from secformer_jax.gateway.server import Gateway
from secformer_jax.models.checkpoint import load
from secformer_jax.models.decoders.chat import read_tokens

SECONDS = 30
SENTENCE = "John lives in Berlin 😀 & works at <Acme>."


@pytest.fixture(scope="module")
def browser():
    chromium, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("no Chromium with its driver: Debian's packages chromium and chromium-driver have them")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=900,1000"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    found = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield found
    found.quit()


@pytest.fixture(autouse=True)
def fresh_log(browser):
    """What an earlier page complained of is not this one's."""
    browser.get("about:blank")
    browser.get_log("browser")


@contextlib.contextmanager
def served(asking, key: str = "", chatting=None) -> Iterator[str]:
    """The address of a gateway that runs in a thread of its own."""
    loop, ready, address = asyncio.new_event_loop(), threading.Event(), []

    async def start() -> web.AppRunner:
        runner = web.AppRunner(Gateway(asking, chatting, "mine", HOSTS, key).application())
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        address.append(f"http://127.0.0.1:{runner.addresses[0][1]}/")
        return runner

    def work() -> None:
        runner = loop.run_until_complete(start())
        ready.set()
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())

    thread = threading.Thread(target=work)
    thread.start()
    assert ready.wait(SECONDS)
    try:
        yield address[0]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()


def model(name: str) -> Plain:
    return Plain(load(FOLDER / name))


def element(browser, name: str):
    return browser.find_element(By.ID, name)


def until(browser, holds) -> None:
    WebDriverWait(browser, SECONDS).until(lambda _: holds())


def open_page(browser, url: str) -> None:
    browser.get(url)
    until(browser, lambda: element(browser, "ask").is_enabled())


def ask(browser, text: str, pair: str | None = None) -> str:
    """Type, press Ctrl+Enter, and read the answer."""
    for name, typed in (("text", text), ("pair", pair)):
        if typed is not None:
            # The driver types no character beyond the first plane.
            browser.execute_script("arguments[0].value = arguments[1]", element(browser, name), typed)
    browser.execute_script("document.getElementById('answer').replaceChildren()")
    element(browser, "text").send_keys(Keys.CONTROL, Keys.ENTER)
    until(browser, lambda: element(browser, "answer").text or element(browser, "error").is_displayed())
    return element(browser, "answer").text


def complaints(browser) -> list[str]:
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] != "INFO"]


def test_a_label(browser):
    with served(model("text-classification")) as url:
        open_page(browser, url)
        answer = ask(browser, "a fine film")
        assert "%" in answer and not element(browser, "error").is_displayed()
        figures = browser.find_elements(By.CSS_SELECTOR, "#seen canvas")
        assert len(figures) == 2 and "MB and" in element(browser, "cost").text
        assert complaints(browser) == []


def test_nothing_comes_from_elsewhere(browser):
    with served(model("text-classification")) as url:
        open_page(browser, url)
        names = browser.execute_script("return performance.getEntriesByType('resource').map((each) => each.name)")
        assert len(names) >= 3 and all(name.startswith(url) for name in names)
        # A page that was changed on its way could not send a text elsewhere either.
        script = "return fetch('http://127.0.0.2:1/').then(() => 'sent', (error) => 'refused')"
        assert browser.execute_script(script) == "refused"
        assert any("Content Security Policy" in line for line in complaints(browser))


def test_entities_are_marked_at_their_characters(browser):
    asking = model("token-classification")
    with served(asking) as url:
        open_page(browser, url)
        ask(browser, SENTENCE)
        marks = browser.find_elements(By.CSS_SELECTOR, "#answer mark")
        assert marks and all(mark.find_element(By.TAG_NAME, "span").text for mark in marks)
        # Without its labels the answer is the text.
        script = "document.querySelectorAll('#answer mark span').forEach((label) => label.remove())"
        browser.execute_script(script)
        assert element(browser, "answer").get_attribute("textContent") == SENTENCE
        assert complaints(browser) == []


def test_a_question_needs_a_context(browser):
    with served(model("question-answering")) as url:
        open_page(browser, url)
        assert element(browser, "second").is_displayed()
        assert element(browser, "pair-label").text == "Context"
        element(browser, "text").send_keys("Who?", Keys.CONTROL, Keys.ENTER)
        assert browser.execute_script("return document.getElementById('pair').matches(':invalid')")
        assert "%" in ask(browser, "Who lives there?", "John lives in Berlin.")


def test_likeness_of_two_texts(browser, minilm):
    with served(Plain(minilm)) as url:
        open_page(browser, url)
        assert ask(browser, "a cat sleeps", "a cat is asleep").endswith("cosine of the two")
        near = float(element(browser, "answer").text.split()[0])
        assert ask(browser, "a cat sleeps", "").startswith("a vector of 384") and 0.7 < near < 1


def test_a_mistake_is_said_where_the_reader_is(browser):
    asking = model("text-classification")
    with served(asking) as url:
        open_page(browser, url)
        assert "%" in ask(browser, "another text")
        asking.fails = UserError("S0 can't be reached")
        ask(browser, "a text")
        assert "S0 can't be reached" in element(browser, "error").text
        assert not element(browser, "found").is_displayed()
        asking.fails = None
        assert "%" in ask(browser, "a text") and not element(browser, "error").is_displayed()


def test_a_key_is_asked_for(browser):
    with served(model("text-classification"), KEY) as url:
        browser.get(url)
        until(browser, lambda: element(browser, "keys").is_displayed())
        element(browser, "key").send_keys(KEY)
        until(browser, lambda: element(browser, "ask").is_enabled())
        assert "%" in ask(browser, "a text")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_light_and_dark(browser, scheme, tmp_path):
    feature = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", feature)
    with served(model("token-classification")) as url:
        open_page(browser, url)
        ask(browser, SENTENCE)
        assert browser.save_screenshot(str(tmp_path / f"{scheme}.png"))
        base = "rgb(255, 255, 255)" if scheme == "light" else "rgb(18, 18, 18)"
        for name, front, back in browser.execute_script(COLORS, base):
            assert contrast(front, back) >= 4.5, (name, front, back)


COLORS = """
const pen = new OffscreenCanvas(1, 1).getContext("2d", {willReadFrequently: true});
const painted = (colors) => {
  for (const color of colors) { pen.fillStyle = color; pen.fillRect(0, 0, 1, 1); }
  return [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3);
};
return [...document.querySelectorAll("h1, label, button, mark, mark span, small, #cost, figcaption")]
  .filter((one) => one.offsetParent).map((one) => {
    const behind = [];
    for (let back = one; back; back = back.parentElement) behind.unshift(getComputedStyle(back).backgroundColor);
    const colors = [arguments[0], ...behind];
    return [one.tagName, painted([...colors, getComputedStyle(one).color]), painted(colors)];
  });
"""
"""Of every text that is shown: its tag, its colour and the one behind it, as they are painted."""


def contrast(*colors: list[int]) -> float:
    """WCAG 2.2: (lighter + 0.05) / (darker + 0.05) of relative luminances."""

    def luminance(color: list[int]) -> float:
        linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in (part / 255 for part in color)]
        return sum(weight * x for weight, x in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted(map(luminance, colors))
    return (high + 0.05) / (low + 0.05)


def test_the_docs_page(browser):
    with served(model("text-classification")) as url:
        browser.get(f"{url}docs")
        until(browser, lambda: "/v1/classify" in browser.find_element(By.TAG_NAME, "body").text)
        assert complaints(browser) == []


def test_a_conversation(browser, tmp_path):
    """Answers stand under their questions, what was said goes along, and can be left."""
    scripted = Scripted(read_tokens(cases.write_tokenizer(tmp_path)))
    with served(scripted, chatting=scripted) as url:
        open_page(browser, url)
        for count, text in enumerate(("What is it?", "Is it?"), 1):
            browser.execute_script("arguments[0].value = arguments[1]", element(browser, "text"), text)
            element(browser, "ask").click()
            until(browser, lambda count=count: element(browser, "answer").text.count(SAID) == count)
            until(browser, lambda: element(browser, "ask").is_enabled())
        assert [asked.turns for asked in scripted.asked] == [("What is it?",), ("What is it?", SAID, "Is it?")]
        assert element(browser, "answer").text.split("\n")[0] == "What is it?"
        assert len(browser.find_elements(By.CSS_SELECTOR, "#seen canvas")) == 2
        element(browser, "anew").click()
        assert element(browser, "answer").text == "" and not element(browser, "found").is_displayed()
        scripted.fails_after = 2
        element(browser, "text").send_keys("Why?", Keys.CONTROL, Keys.ENTER)
        until(browser, lambda: element(browser, "error").is_displayed())
        assert "S1 is gone" in element(browser, "error").text and scripted.asked[-1].turns == ("Why?",)
        assert complaints(browser) == []
