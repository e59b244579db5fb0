"""A 150 MP TIFF, in strips and tiled, on the daemon's page: how long its tiles take to prepare, how long a tile of the viewer takes at 1:1, and memory."""

import argparse
import random
import tempfile
import time
from pathlib import Path

import numpy
import tifffile
from lib.daemon import Daemon
from page_chromium import Page
from playwright.sync_api import sync_playwright

WIDTH, HEIGHT = 14_204, 10_652
MOST_MS = 500


def frame(path, **how):
    """Fields and noise, made band by band."""
    if path.exists():
        return path
    rng = numpy.random.default_rng(7)
    coarse = rng.integers(40, 200, size=(HEIGHT // 64 + 1, WIDTH // 64 + 1, 3), dtype=numpy.uint8)
    picture = numpy.empty((HEIGHT, WIDTH, 3), numpy.uint8)
    for top in range(0, HEIGHT, 64):
        rows = min(64, HEIGHT - top)
        band = numpy.repeat(coarse[top // 64][None], 64, axis=1)[:, :WIDTH]
        picture[top : top + rows] = band + rng.integers(0, 24, size=(rows, WIDTH, 1), dtype=numpy.uint8)
    tifffile.imwrite(path, picture, photometric="rgb", **how)
    return path


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    args = parser.parse_args()
    args.cache.mkdir(parents=True, exist_ok=True)
    frames = {
        "strips": frame(args.cache / "large-strips.tif", rowsperstrip=16),
        "tiled": frame(args.cache / "large-tiled.tif", tile=(256, 256), compression="zlib", compressionargs={"level": 1}),
    }
    with tempfile.TemporaryDirectory() as folder, Daemon(args.binary.resolve(), folder) as daemon, sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=args.chromium, args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"])
        for name, path in frames.items():
            id = daemon.put(path)
            own = Page(browser, daemon.address, 1280, 800)
            own.settled()
            zoom = daemon.get(f"/api/frames/{id}/zoom")
            assert (zoom["state"], zoom["w"], zoom["h"]) == ("ready", WIDTH, HEIGHT), zoom
            own.page.evaluate("uhrViewer.loads.length = 0")
            random.seed(3)
            for _ in range(60):
                x, y = random.uniform(0, WIDTH), random.uniform(0, HEIGHT)
                own.page.evaluate(f"uhrViewer.go({{ x: {x}, y: {y}, scale: 1 / uhrViewer.ratio }}, true)")
                time.sleep(0.02)
                own.until("uhrViewer.coming.size === 0 && uhrViewer.wanted.length === 0 && !uhrViewer.queued", "tiles")
            loads = sorted(own.page.evaluate("uhrViewer.loads"))
            own.check()
            memory = daemon.get("/api/status")["memory"]
            p95 = loads[len(loads) * 95 // 100]
            assert len(loads) > 200 and p95 <= MOST_MS, (len(loads), p95)
            assert memory["peak_bytes"] <= 1.1 * memory["planned_bytes"], memory
            print(
                f"{name}: {WIDTH} x {HEIGHT}, {path.stat().st_size / 2**20:.0f} MiB; prepared in {zoom['prepared_ms'] / 1e3:.1f} s; {len(loads)} tiles at 1:1, "
                f"median {loads[len(loads) // 2]:.0f} ms, p95 {p95:.0f} ms, most {loads[-1]:.0f} ms; peak {memory['peak_bytes'] / 2**20:.0f} of {memory['planned_bytes'] / 2**20:.0f} MiB planned"
            )
        browser.close()


if __name__ == "__main__":
    main()
