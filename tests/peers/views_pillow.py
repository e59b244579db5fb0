"""`views --raw` against Pillow's antialiased bicubic: within 2 of 255 at the 99.9th percentile, for each view of frames of several shapes."""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import load_file

ROOT = Path(__file__).resolve().parent.parent.parent
VIEWS = [672, 1344, 2688, 4032]
TILE = 336
MEAN, STD = np.array([0.4815, 0.4578, 0.4082]), np.array([0.2686, 0.2613, 0.2758])
ALLOWED = 2


# Six aspect ratios, some of them stretched and some reduced, in every form that the decoder treats on its own.
DRAWN = [
    ("wide.png", (5000, 700), "RGB", {}),
    ("tall.png", (301, 4801), "RGB", {}),
    ("small.png", (50, 40), "RGB", {}),
    ("grey.png", (1500, 1400), "L", {}),
    ("alpha.png", (900, 1000), "RGBA", {}),
    ("420.jpg", (6001, 3999), "RGB", {"subsampling": 2}),
    ("422.jpg", (4033, 4033), "RGB", {"subsampling": 1}),
    ("444.jpg", (1003, 3001), "RGB", {"subsampling": 0}),
    ("grey.jpg", (9001, 300), "L", {}),
    ("progressive.jpg", (2003, 1501), "RGB", {"subsampling": 2, "progressive": True}),
    ("tiny.jpg", (90, 301), "RGB", {"subsampling": 2}),
    # Three times the largest view when reduced to half: the inverse DCT reduces it, where chroma isn't subsampled.
    ("large.jpg", (24199, 1203), "RGB", {"subsampling": 2}),
    ("reduced-grey.jpg", (24199, 1203), "L", {}),
    ("reduced-444.jpg", (1501, 24192), "RGB", {"subsampling": 0}),
]


def frames(folder):
    """The committed samples, and drawn pictures: coarse noise made smooth, with hard-edged boxes in it."""
    rng = np.random.default_rng(5)
    yield ROOT / "samples/drawn.jpg"
    yield ROOT / "samples/real.jpg"
    for name, (w, h), mode, how in DRAWN:
        channels = len(Image.new(mode, (1, 1)).getbands())
        coarse = Image.fromarray(rng.integers(0, 256, (h // 9 + 2, w // 9 + 2, channels), dtype=np.uint8).squeeze(), mode)
        picture = coarse.resize((w, h), Image.BILINEAR)
        for _ in range(40):
            x, y = int(rng.integers(0, w)), int(rng.integers(0, h))
            picture.paste(tuple(map(int, rng.integers(0, 256, channels))) if channels > 1 else int(rng.integers(0, 256)), (x, y, x + w // 20 + 1, y + h // 20 + 1))
        path = folder / name
        picture.save(path, **({"quality": 90} if name.endswith("jpg") else {}), **how)
        yield path


def pillow(picture, side):
    """The letterboxed view, as its specification says: longer side = side, shorter rounded half up, centred, padded with the mean."""
    w, h = picture.size
    scaled = lambda length: max(1, (2 * side * length + max(w, h)) // (2 * max(w, h)))
    size = scaled(w), scaled(h)
    canvas = Image.new("RGB", (side, side), tuple(int(v * 255 + 0.5) for v in MEAN))
    canvas.paste(picture.resize(size, Image.BICUBIC), ((side - size[0]) // 2, (side - size[1]) // 2))
    return np.asarray(canvas, np.int16)


def check(path, binary, folder):
    out = folder / "views.safetensors"
    subprocess.run([binary, "views", str(path), "--raw", str(out)], check=True, cwd=ROOT)
    tensors = load_file(out)
    Image.MAX_IMAGE_PIXELS = None
    picture = Image.open(path).convert("RGB")
    longer = max(picture.size)
    present = [side for at, side in enumerate(VIEWS) if at == 0 or VIEWS[at - 1] < longer]
    names = {name for name in tensors if name.startswith("view")}
    assert names == {f"view{VIEWS.index(side) + 1}" for side in present}, f"{path.name}: views {sorted(names)}"
    good = True
    for side in present:
        number = VIEWS.index(side) + 1
        view = tensors[f"view{number}"]
        gap = np.abs(view.astype(np.int16) - pillow(picture, side))
        worst = np.percentile(gap, 99.9)
        print(f"{path.name}, {side} px: 99.9th percentile {worst:.0f}, largest {gap.max()}")
        good &= bool(worst <= ALLOWED)
        # A tile is the view's square, normalised; those that are all padding aren't there.
        normal = ((view / 255 - MEAN) / STD).transpose(2, 0, 1)
        tiles = tensors[f"tiles{number}"]
        squares = normal.reshape(3, side // TILE, TILE, side // TILE, TILE).transpose(1, 3, 0, 2, 4).reshape(-1, 3, TILE, TILE)
        w, h = picture.size
        first = lambda length: (side - max(1, round(side * length / longer))) // 2 // TILE
        rows, columns = range(first(h), side // TILE - first(h)), range(first(w), side // TILE - first(w))
        wanted = squares[[y * (side // TILE) + x for y in rows for x in columns]]
        assert tiles.shape == wanted.shape, f"{path.name}, {side} px: tiles {tiles.shape}, wanted {wanted.shape}"
        good &= bool(np.abs(tiles - wanted).max() < 1e-4)
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcomes = [check(path, args.binary.resolve(), Path(folder)) for path in frames(Path(folder))]
    sys.exit(0 if all(outcomes) else 1)


if __name__ == "__main__":
    main()
