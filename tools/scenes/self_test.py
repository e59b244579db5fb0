"""Makes the picture of uhr-nano's self-test: 700 x 700 px of a scene without any real background, with a yellow truck in it."""

import argparse
from pathlib import Path

from PIL import Image

import scenes

SEED = 399
SIDE = 700


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    scene = scenes.make_scene(SEED, [])
    truck = scene.things[0]
    left, top = (min(max(0, int(at) - SIDE // 2), most - SIDE) for at, most in ((truck.x, scene.width), (truck.y, scene.height)))
    pixels = scenes.render(scene, (left, top, left + SIDE, top + SIDE), SIDE, SIDE, SEED)
    Image.fromarray(pixels).save(args.out, quality=80)


if __name__ == "__main__":
    main()
