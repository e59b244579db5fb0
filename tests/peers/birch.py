"""BIRCH's inertia against scikit-learn's Birch(n_clusters=k) on the same rows of Eq. 13: at most 5 % above.

Features have cluster structure: directions drawn once, spread in patches over the grid, with noise. What is compared is the sum of squared distances
of the tokens from the means of their regions, in f64, from each one's labels.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file
from sklearn.cluster import Birch

LIMIT = 1.05
# Tokens a side, features, true clusters, noise, k, threshold.
CASES = [
    (48, 64, 40, 0.05, 40, 0.1),
    (48, 64, 40, 0.2, 40, 0.1),
    (64, 128, 100, 0.3, 80, 0.1),
    (64, 256, 300, 0.2, 300, 0.1),
    (48, 16, 10, 0.5, 60, 0.1),
    (96, 128, 200, 0.25, 320, 0.1),
    (64, 64, 100, 0.2, 80, 0.3),
    (48, 64, 40, 0.2, 40, 0.5),
]


def features(random, side, dim, clusters, noise):
    """Patches of 4 x 4 tokens share a direction; their lengths differ, which Eq. 13 takes out again."""
    directions = random.standard_normal((clusters, dim))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    patches = random.integers(0, clusters, ((side + 3) // 4, (side + 3) // 4))
    owners = np.kron(patches, np.ones((4, 4), int))[:side, :side].ravel()
    rows = directions[owners] + noise * random.standard_normal((side * side, dim)) / np.sqrt(dim)
    return (rows * random.uniform(0.5, 2.0, (side * side, 1))).astype(np.float32)


def embed(rows, side):
    rows = rows.astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    at = (np.arange(side) + 0.5) / side * 0.05
    return np.concatenate([rows, np.tile(at, side)[:, None], np.repeat(at, side)[:, None]], axis=1)


def inertia(rows, labels):
    total = 0.0
    for label in np.unique(labels):
        members = rows[labels == label]
        total += ((members - members.mean(axis=0)) ** 2).sum()
    return total


def ours(binary, folder, rows, side, k, threshold):
    profile = folder / "birch.toml"
    text = Path("firmware-config/host.toml").read_text()
    profile.write_text(text.replace("seed = 0", f"seed = 0\nbirch-threshold = {threshold}"))
    source, out = folder / "in.safetensors", folder / "out.safetensors"
    scores = np.ones(side * side, np.float32)
    metadata = {"views": str(side * 14), "tile": str(side * 14), "patch": "14"}
    save_file({"view1.features": rows, "importance": scores}, source, metadata)
    command = [binary, "--profile", profile, "compress", source, "--out", out, "--budget", str(side * side)]
    subprocess.run([*command, "--partition", "birch", "--clusters", str(k)], check=True)
    return load_file(out)["view1.labels"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", required=True)
    parser.add_argument("--cache")
    binary = Path(parser.parse_args().binary).resolve()
    worst = 0.0
    for number, (side, dim, clusters, noise, k, threshold) in enumerate(CASES):
        rows = features(np.random.default_rng(number), side, dim, clusters, noise)
        embedded = embed(rows, side)
        with tempfile.TemporaryDirectory() as folder:
            labels = ours(binary, Path(folder), rows, side, k, threshold)
        theirs = Birch(threshold=threshold, branching_factor=50, n_clusters=k).fit_predict(embedded)
        mine, peer = inertia(embedded, labels), inertia(embedded, theirs)
        ratio = mine / peer
        worst = max(worst, ratio)
        counts = f"{len(np.unique(labels))} and {len(np.unique(theirs))} regions"
        print(f"{side}x{side} tokens, d={dim}, noise {noise}, k={k}, T={threshold}: {mine:.3f} against {peer:.3f}, {ratio:.4f}; {counts}")
    print(f"birch: largest ratio {worst:.4f} over {len(CASES)} cases, at most {LIMIT}")
    sys.exit(1 if worst > LIMIT else 0)


if __name__ == "__main__":
    main()
