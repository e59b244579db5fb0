"""What the encode budget costs in accuracy: the questions of evaluate.py on its first frames, with all tiles and with fewer (`ask --encode-tiles`).

Prints a table: accuracy, and the median milliseconds of encoding and regions at ingest and for a later question. The standard error of a share of 250
questions is at most 3.2 points; the same questions are asked in every row.
"""

import argparse
import json
import statistics
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

import evaluate
from evaluate import backgrounds, scenes


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", default="target/release/uhr-edge")
    parser.add_argument("--cache", type=Path, required=True, help="folder for the packages that backgrounds come from")
    parser.add_argument("--frames", type=int, default=25)
    parser.add_argument("--tiles", default="228,124,84,52,20")
    args = parser.parse_args()
    sources = backgrounds.load(args.cache, "test")
    found = {tiles: [] for tiles in args.tiles.split(",")}
    times = {tiles: ([], []) for tiles in found}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(args.frames):
            seed = evaluate.FIRST_SEED + number
            scene = scenes.make_scene(seed, sources)
            asked = scenes.questions(scene.width, scene.height, scene.things, seed, evaluate.QUESTIONS)
            frame = Path(folder) / "frame.jpg"
            Image.fromarray(scenes.render(scene, (0, 0, scene.width, scene.height), scene.width, scene.height, seed)).save(frame, quality=90)
            for tiles in found:
                command = [args.binary, "--json", "--quiet", "ask", str(frame), "--encode-tiles", tiles]
                for question in asked:
                    command += ["-q", question["question"]]
                lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
                for at, (question, line) in enumerate(zip(asked, lines)):
                    answer = json.loads(line)
                    found[tiles].append(answer["text"].strip() == question["answer"])
                    stages = answer["receipt"]["stages_ms"]
                    times[tiles][at > 0].append(stages["encode"] + stages["regions"])
    print("| tiles at most | questions | answered right | encode and regions, first question, ms | a later question, ms |")
    print("|---|---|---|---|---|")
    for tiles, hits in found.items():
        first, later = (statistics.median(ms) for ms in times[tiles])
        print(f"| {tiles} | {len(hits)} | {sum(hits) / len(hits):.3f} | {first:.0f} | {later:.0f} |", flush=True)


if __name__ == "__main__":
    main()
