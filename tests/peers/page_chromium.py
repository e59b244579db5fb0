"""The daemon's page in Chromium: ask, stream, zoom to an evidence box, layers, reload in the middle of an answer, history, keyboard, touch targets, contrast,
the token; at 1280 and 800 px, without a request to elsewhere."""

import argparse
import os
import tempfile
import time
from pathlib import Path

from lib.daemon import ROOT, Daemon
from playwright.sync_api import sync_playwright

QUESTION = "how many yellow planes are there?"
TOUCH = 44
# Targets that are too small, of those that can be pressed.
SMALL = """() => [...document.querySelectorAll('button, select, textarea, input:not([type=checkbox]):not(.hidden-input), label:has(input)')]
  .filter((node) => node.checkVisibility()).map((node) => [node.textContent.trim() || node.id, node.getBoundingClientRect()])
  .filter(([, box]) => box.width > 0 && (box.height < 43.5 || box.width < 43.5)).map(([name, box]) => `${name} ${box.width.toFixed(0)} x ${box.height.toFixed(0)}`)"""
# Texts whose contrast with the ground below them is less than WCAG's AAA wants.
PALE = """() => {
  const part = (value) => { const c = value / 255; return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
  const luminance = ([r, g, b]) => 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  const numbers = (text) => (text.match(/[\\d.]+/g) ?? []).map(Number);
  const ground = (node) => { for (; node; node = node.parentElement) { const c = numbers(getComputedStyle(node).backgroundColor); if (c.length === 3 || c[3] > 0.9) return c; } return [255, 255, 255]; };
  const found = [];
  for (const node of document.querySelectorAll('body *')) {
    if (!node.checkVisibility() || node.closest('svg, .sr, .skip, option, dialog:not([open])') || ![...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim())) continue;
    const style = getComputedStyle(node);
    const [a, b] = [luminance(numbers(style.color)), luminance(ground(node))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const large = parseFloat(style.fontSize) >= 24 || (parseFloat(style.fontSize) >= 18.66 && style.fontWeight >= 700);
    if (contrast < (large ? 4.5 : 7)) found.push(`${node.textContent.trim().slice(0, 40)}: ${contrast.toFixed(1)}`);
  }
  return found;
}"""
SUM = """() => { const canvas = document.getElementById('canvas'); const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  let sum = 0; for (let at = 0; at < data.length; at += 4) sum = (sum * 31 + data[at] + data[at + 1] * 3 + data[at + 2] * 7) % 4294967291; return sum; }"""


class Page:
    def __init__(self, browser, address, width, height, **options):
        self.page = browser.new_page(viewport={"width": width, "height": height}, **options)
        self.wrong, self.requests = [], []
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("console", lambda message: self.wrong.append(message.text) if message.type in ("error", "warning") and "getImageData" not in message.text else None)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.address = address
        self.page.goto(f"{address}/")

    def until(self, script, what, seconds=120):
        # The page's policy forbids evaluation of text, which is how the driver would wait.
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.page.evaluate(script):
                return
            time.sleep(0.05)
        raise AssertionError(f"no {what} within {seconds} s")

    def settled(self):
        self.until("!!globalThis.uhrViewer?.pack && uhrViewer.coming.size === 0 && uhrViewer.wanted.length === 0 && !uhrViewer.queued", "settled viewer")
        time.sleep(0.4)
        self.until("uhrViewer.coming.size === 0 && uhrViewer.wanted.length === 0 && !uhrViewer.queued", "settled viewer")

    def answered(self):
        self.until("!!document.querySelector('#receipt svg')", "answer")

    def ask(self):
        self.page.fill("#question", QUESTION)
        self.page.press("#question", "Enter")

    def shot(self, folder, name, **options):
        self.page.mouse.move(5, 60)
        self.page.screenshot(path=str(folder / f"{name}.png"), **options)

    def check(self):
        assert not self.wrong, self.wrong
        away = [url for url in self.requests if not url.startswith((self.address, "blob:"))]
        assert not away, away
        assert self.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "wider than the screen"
        small, pale = self.page.evaluate(SMALL), self.page.evaluate(PALE)
        assert not small, small
        assert not pale, pale


def wide(browser, daemon, shots):
    own = Page(browser, daemon.address, 1280, 800)
    page = own.page
    own.settled()
    own.ask()
    own.until("document.getElementById('progress').textContent.endsWith('…') || !!document.querySelector('#receipt svg')", "progress")
    own.answered()
    own.settled()
    answer = page.inner_text("#text")
    assert answer and "Answered in" in page.inner_text("#progress"), answer
    own.shot(shots, "page-1280")
    own.check()
    # A row of the evidence leads to its box.
    box = daemon.get(f"/api/answers/{page.evaluate('new URLSearchParams(location.hash.slice(1)).get(`question`)')}")["receipt"]["evidence"][0]
    page.click("#evidence button >> nth=0")
    own.until(f"Math.abs(uhrViewer.at.x - {box['x'] + box['w'] / 2}) < 2 && Math.abs(uhrViewer.at.y - {box['y'] + box['h'] / 2}) < 2", "the box", 60)
    shown = page.evaluate(f"Math.max({box['w']} * uhrViewer.at.scale / uhrViewer.width, {box['h']} * uhrViewer.at.scale / uhrViewer.height)")
    assert 0.2 < shown < 0.5, shown
    own.settled()
    own.shot(shots, "page-1280-evidence")
    # Every layer can be seen, and hidden again.
    page.evaluate("uhrViewer.fit(true)")
    own.settled()
    for name in ["672", "1344", "2688", "4032", "Merged", "Importance", "Evidence"]:
        before = page.evaluate(SUM)
        page.locator("#layer-list label", has_text=name).click()
        own.settled()
        during = page.evaluate(SUM)
        page.locator("#layer-list label", has_text=name).click()
        own.settled()
        assert during != before == page.evaluate(SUM), name
    for name in ["Merged", "Importance"]:
        page.locator("#layer-list label", has_text=name).click()
    own.settled()
    own.shot(shots, "page-1280-layers")
    # By keys alone.
    page.focus("#canvas")
    scale = page.evaluate("uhrViewer.at.scale")
    page.keyboard.press("+")
    own.until(f"uhrViewer.at.scale > {scale} * 1.4", "zoom by key", 60)
    x = page.evaluate("uhrViewer.at.x")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("uhrViewer.at.x") > x
    page.keyboard.press("1")
    own.until("Math.abs(uhrViewer.at.scale * devicePixelRatio - 1) < 1e-6", "1:1 by key", 60)
    page.keyboard.press("0")
    reached = set()
    page.evaluate("document.activeElement.blur()")
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))
        ring = page.evaluate("(() => { const node = document.activeElement; const label = node.closest('label') ?? node; return [node, label].some((one) => getComputedStyle(one).outlineStyle !== 'none') || node === document.body; })()")
        assert ring, page.evaluate("document.activeElement.outerHTML.slice(0, 90)")
    for wanted in ["canvas", "question", "budget", "deadline", "Ask", "tab-answer", "Fit"]:
        assert wanted in reached, (wanted, reached)
    # The history finds it.
    page.click("#tab-history")
    page.fill("#search", "yellow")
    own.until("document.querySelectorAll('#history-list li').length === 1", "one question", 60)
    page.fill("#search", "purple")
    own.until("document.querySelectorAll('#history-list li').length === 0", "no question", 60)
    page.fill("#search", "")
    own.until("document.querySelectorAll('#history-list li').length === 1", "one question", 60)
    own.shot(shots, "page-1280-history")
    page.click("#history-list button")
    own.answered()
    # Reloaded in the middle of an answer, it goes on.
    own.ask()
    own.until("document.getElementById('progress').textContent.endsWith('…')", "work", 60)
    asked = page.evaluate("location.hash")
    page.reload()
    own.until("document.getElementById('asked').textContent !== ''", "the question after the reload", 60)
    early = page.evaluate("document.getElementById('progress').textContent")
    own.answered()
    assert page.inner_text("#text") == answer and page.evaluate("location.hash") == asked
    own.check()
    return answer, early


def narrow(browser, daemon, shots):
    own = Page(browser, daemon.address, 800, 1180, has_touch=True, reduced_motion="reduce")
    page = own.page
    own.settled()
    page.click("#tab-history")
    page.click("#history-list button >> nth=0")
    own.answered()
    own.settled()
    own.check()
    own.shot(shots, "page-800")
    page.click("#evidence button >> nth=0")
    # No motion: it is there with the next picture.
    time.sleep(0.1)
    assert page.evaluate("uhrViewer.at.scale > uhrViewer.whole * 1.5")
    own.settled()
    own.shot(shots, "page-800-evidence", full_page=True)
    own.check()


def token(browser, binary, folder):
    word = Path(folder) / "token"
    word.write_text("a-long-and-secret-word\n")
    os.chmod(word, 0o600)
    inner = Path(folder) / "second"
    inner.mkdir()
    with Daemon(binary, inner, "--token", word) as daemon:
        own = Page(browser, daemon.address, 1280, 800)
        own.until("document.getElementById('token').open", "the dialog", 60)
        own.page.fill("#token-text", "a-long-and-wrong-word")
        own.page.keyboard.press("Enter")
        own.until("document.getElementById('token').open && !document.getElementById('token-note').hidden", "the dialog again", 60)
        own.page.fill("#token-text", "a-long-and-secret-word")
        own.page.keyboard.press("Enter")
        own.until("document.getElementById('model').textContent !== ''", "the status", 60)
        own.page.reload()
        own.until("document.getElementById('model').textContent !== ''", "the status after a reload", 60)
        assert not own.page.evaluate("document.getElementById('token').open")
        # A refusal for want of the token is what the browser calls an error.
        assert all("401" in line for line in own.wrong), own.wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", type=Path, required=True)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("--shots", type=Path, help="a folder for screenshots")
    args = parser.parse_args()
    binary = args.binary.resolve()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=args.chromium, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"])
        shots = args.shots or Path(folder)
        shots.mkdir(parents=True, exist_ok=True)
        first = Path(folder) / "first"
        first.mkdir()
        with Daemon(binary, first) as daemon:
            daemon.put(ROOT / "samples/drawn.jpg")
            answer, early = wide(browser, daemon, shots)
            narrow(browser, daemon, shots)
        token(browser, binary, folder)
        browser.close()
    print(f"asked, answered {answer!r}, zoomed to its evidence, seven layers, reloaded at {early!r}; 1280 and 800 px, keys, targets of {TOUCH} px, contrast 7, the token")


if __name__ == "__main__":
    main()
