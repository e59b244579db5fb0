"""Opens a qualification's report.html in Chromium: no error or request, and the verdict stands in the first screen; junit.xml parses, and a limit set too
tight is exit code 4."""

import argparse
import json
import subprocess
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from playwright.sync_api import sync_playwright


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = [args.binary, "--profile", "sim", "--quiet", "qualify", "-n", "20", "--ingests", "4", "--fresh", "20", "--out", folder]
        tight = subprocess.run([*command, "--limit-question-ms", "0.001"], capture_output=True, text=True)
        assert tight.returncode == 4, (tight.returncode, tight.stderr)
        document = json.loads((Path(folder) / "qualification.json").read_text())
        cases = ElementTree.parse(Path(folder) / "junit.xml").getroot().findall(".//testcase")
        failed = [case.get("name") for case in cases if case.find("failure") is not None]
        assert len(cases) == len(document["verdicts"]) and "question, 99th percentile" in failed, failed
        page_errors, requests = [], []
        with sync_playwright() as browsers:
            browser = browsers.chromium.launch(executable_path=args.chromium, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"])
            for width, height in [(1280, 800), (390, 844)]:
                page = browser.new_page(viewport={"width": width, "height": height})
                page.on("pageerror", lambda error: page_errors.append(str(error)))
                page.on("console", lambda message: page_errors.append(message.text) if message.type in ("error", "warning") else None)
                page.on("request", lambda request: requests.append(request.url))
                page.goto(f"file://{folder}/report.html")
                verdict = page.get_by_text("Not met: ", exact=False).first
                box = verdict.bounding_box()
                assert box and box["y"] + box["height"] <= height and box["x"] + box["width"] <= width, (width, box)
                assert page.get_by_text("Failed").first.is_visible()
                assert page.locator("svg").count() > 4
            browser.close()
        assert not page_errors, page_errors
        assert all(url.startswith("file://") and url.endswith("report.html") for url in requests), requests
    print(f"the verdict is in the first screen of 1280 x 800 and 390 x 844; {len(cases)} cases in junit.xml")


if __name__ == "__main__":
    main()
