"""Makes samples/drawn.jpg with its five questions, and samples/real.jpg."""

import argparse
import json
from pathlib import Path

from PIL import Image

import backgrounds
import scenes

SEED = 20_260_405


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    backgrounds.load(args.cache, "real")[0].save(args.out / "real.jpg", quality=90)
    sources = backgrounds.load(args.cache, "sample")
    for seed in range(SEED, SEED + 1000):
        scene = scenes.make_scene(seed, sources)
        asked = {q["family"]: q for q in scenes.questions(scene.width, scene.height, scene.things, seed, 10)}
        if len(asked) == len(scenes.FAMILIES) and asked["presence"]["answer"] == "yes" and asked["count"]["answer"] in ("two", "three"):
            break
    scene.background = sources[0]
    pixels = scenes.render(scene, (0, 0, scene.width, scene.height), scene.width, scene.height, seed)
    Image.fromarray(pixels).save(args.out / "drawn.jpg", quality=85)
    wanted = [{key: asked[family][key] for key in ("family", "question", "answer")} for family in scenes.FAMILIES]
    (args.out / "drawn.json").write_text(json.dumps(wanted, indent=1) + "\n")
    print(scene.width, scene.height, seed, wanted)


if __name__ == "__main__":
    main()
