"""`views --raw` against Pillow's antialiased bicubic: within 2 of 255 at the 99.9th percentile, for each view of frames of several shapes."""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image, ImageOps
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
    ("cmyk.jpg", (1201, 799), "CMYK", {}),
    ("lossless.webp", (700, 1801), "RGB", {"lossless": True}),
    ("alpha.webp", (701, 301), "RGBA", {"lossless": True}),
    ("none.tif", (3001, 1999), "RGB", {}),
    ("lzw.tif", (1501, 2999), "RGB", {"compression": "tiff_lzw"}),
    ("deflate.tif", (2501, 999), "L", {"compression": "tiff_adobe_deflate"}),
    ("packbits.tif", (801, 799), "RGB", {"compression": "packbits"}),
    ("alpha.tif", (801, 799), "RGBA", {"compression": "tiff_lzw"}),
    ("turned.tif", (801, 1799), "RGB", {"tiffinfo": {274: 6}}),
]
# By tifffile: name, size, samples, type, how it is written.
TIFFS = [
    ("single-strip.tif", (5001, 3001), 3, np.uint8, {"photometric": "rgb"}),
    ("tiled.tif", (2001, 1301), 3, np.uint8, {"photometric": "rgb", "tile": (256, 256)}),
    ("tiled-deflate.tif", (1301, 2001), 3, np.uint8, {"photometric": "rgb", "tile": (128, 272), "compression": "zlib", "predictor": True}),
    ("big.tif", (1001, 901), 3, np.uint8, {"photometric": "rgb", "bigtiff": True, "rowsperstrip": 7}),
    ("planar.tif", (1001, 901), 3, np.uint8, {"photometric": "rgb", "planarconfig": "separate"}),
    ("planar-tiled.tif", (1001, 901), 3, np.uint16, {"photometric": "rgb", "planarconfig": "separate", "tile": (64, 64), "compression": "zlib"}),
    ("16-bits.tif", (1001, 701), 3, np.uint16, {"photometric": "rgb"}),
    ("16-bits-big-endian.tif", (701, 1001), 3, np.uint16, {"photometric": "rgb", "byteorder": ">"}),
    ("16-bits-deflate.tif", (701, 1001), 1, np.uint16, {"photometric": "minisblack", "compression": "zlib", "byteorder": ">"}),
    ("six-bands.tif", (801, 601), 6, np.uint8, {"photometric": "minisblack", "planarconfig": "contig"}),
    ("six-bands-deflate.tif", (801, 601), 6, np.uint16, {"photometric": "minisblack", "planarconfig": "contig", "compression": "zlib", "tile": (96, 96)}),
    ("jpeg.tif", (1600, 1200), 3, np.uint8, {"pillow": "jpeg"}),
]


def frames(folder):
    """Path and RGB pixels: the committed samples, and drawn pictures: coarse noise made smooth, with hard-edged boxes in it."""
    rng = np.random.default_rng(5)
    for name in ["drawn", "real"]:
        path = ROOT / f"samples/{name}.jpg"
        yield path, np.asarray(Image.open(path).convert("RGB"))
    for name, (w, h), mode, how in DRAWN:
        channels = len(Image.new(mode, (1, 1)).getbands())
        coarse = Image.fromarray(rng.integers(0, 256, (h // 9 + 2, w // 9 + 2, channels), dtype=np.uint8).squeeze(), mode)
        picture = coarse.resize((w, h), Image.BILINEAR)
        for _ in range(40):
            x, y = int(rng.integers(0, w)), int(rng.integers(0, h))
            picture.paste(tuple(map(int, rng.integers(0, 256, channels))) if channels > 1 else int(rng.integers(0, 256)), (x, y, x + w // 20 + 1, y + h // 20 + 1))
        path = folder / name
        picture.save(path, **({"quality": 90} if name.endswith("jpg") else {}), **how)
        yield path, np.asarray(Image.open(path).convert("RGB"))
    for name, (w, h), samples, kind, how in TIFFS:
        coarse = Image.fromarray(rng.integers(0, 256, (h // 9 + 2, w // 9 + 2, 3), dtype=np.uint8)).resize((w, h), Image.BILINEAR)
        seen = np.asarray(coarse) if samples > 1 else np.asarray(coarse)[..., :1].repeat(3, -1)
        path = folder / name
        if "pillow" in how:
            coarse.save(path, compression=how["pillow"], quality=90)
            seen = np.asarray(Image.open(path).convert("RGB"))
        else:
            # Bands beyond the third are noise; so are the lower halves of 16 bits.
            pixels = np.concatenate([seen, rng.integers(0, 256, (h, w, 3), dtype=np.uint8)], -1)[..., :samples].astype(kind)
            pixels = pixels << 8 | rng.integers(0, 256, pixels.shape, dtype=kind) if kind == np.uint16 else pixels
            pixels = pixels.transpose(2, 0, 1) if how.get("planarconfig") == "separate" else pixels.squeeze()
            tifffile.imwrite(path, pixels, **how)
        yield path, seen


def pillow(picture, side):
    """The letterboxed view, as its specification says: longer side = side, shorter rounded half up, centred, padded with the mean."""
    w, h = picture.size
    scaled = lambda length: max(1, (2 * side * length + max(w, h)) // (2 * max(w, h)))
    size = scaled(w), scaled(h)
    canvas = Image.new("RGB", (side, side), tuple(int(v * 255 + 0.5) for v in MEAN))
    canvas.paste(picture.resize(size, Image.BICUBIC), ((side - size[0]) // 2, (side - size[1]) // 2))
    return np.asarray(canvas, np.int16)


def check(path, pixels, binary, folder):
    out = folder / "views.safetensors"
    subprocess.run([binary, "views", str(path), "--raw", str(out)], check=True, cwd=ROOT)
    tensors = load_file(out)
    picture = Image.fromarray(pixels)
    if path.name == "turned.tif":
        # As Pillow's own `exif_transpose` reads tag 274; some of its versions apply it on opening.
        picture = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
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
        length = lambda own: max(1, (2 * side * own + longer) // (2 * longer))
        covered = lambda own: range((side - length(own)) // 2 // TILE, -(-((side - length(own)) // 2 + length(own)) // TILE))
        rows, columns = covered(h), covered(w)
        wanted = squares[[y * (side // TILE) + x for y in rows for x in columns]]
        assert tiles.shape == wanted.shape, f"{path.name}, {side} px: tiles {tiles.shape}, wanted {wanted.shape}"
        good &= bool(np.abs(tiles - wanted).max() < 1e-4)
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    args = parser.parse_args()
    Image.MAX_IMAGE_PIXELS = None
    with tempfile.TemporaryDirectory() as folder:
        outcomes = [check(path, pixels, args.binary.resolve(), Path(folder)) for path, pixels in frames(Path(folder))]
    sys.exit(0 if all(outcomes) else 1)


if __name__ == "__main__":
    main()
