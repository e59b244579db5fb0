"""The authors' released selection, run from a checkout that the user gives; nothing of it is in this repository.

`select_tokens_with_masks` is taken out of `with_k-means/longva/longva/model/llava_arch.py` with what it calls and run on the CPU as it stands. Only
`torch.randperm` is replaced, so that its k-means starts from given tokens.
"""

import ast
import math
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Dict, List, Optional, Sequence

import numpy as np


def load(checkout):
    """The function as a plain one of (self, …)."""
    import torch
    from torch.nn import functional as F

    path = Path(checkout) / "with_k-means/longva/longva/model/llava_arch.py"
    source = path.read_text()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and node.name == "select_tokens_with_masks":
            text = textwrap.dedent(ast.get_source_segment(source, node, padded=True))
            names = {"torch": torch, "F": F, "math": math, "np": np, "Dict": Dict, "List": List, "Optional": Optional, "Sequence": Sequence, "rank0_print": print}
            exec(compile(text, str(path), "exec"), names)
            return names[node.name]
    raise SystemExit(f"{path}: wanted a function select_tokens_with_masks, found none")


def select(function, scores, rows, starts, budget, clusters, iterations, tile):
    """One view, tokens tile by tile: (embeds [n,d], meta [{pos, score}]) as the function gives them."""
    import torch

    host = SimpleNamespace(config=SimpleNamespace(kmeans_num_clusters=clusters, kmeans_max_iters=iterations, kmeans_coord_scale=0.05, kmeans_feat_scale=1.0), multiscale_token_mlp=lambda rows: rows)
    tiles = len(rows) // (tile * tile)
    attention = torch.from_numpy(scores).reshape(tiles, tile, tile)
    embeds = torch.from_numpy(rows).reshape(tiles, tile * tile, -1)
    original = torch.randperm
    torch.randperm = lambda n, **_: torch.cat([torch.from_numpy(starts.astype(np.int64)), torch.zeros(n - len(starts), dtype=torch.int64)])
    try:
        begun = time.perf_counter()
        out = function(host, {1: attention}, {1: embeds}, {}, [budget], [1], add_scale_residual=False)
        return out, time.perf_counter() - begun
    finally:
        torch.randperm = original


def run(tensors, starts, checkout, budgets, clusters, iterations):
    import os

    import torch

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    function, seconds = load(checkout), 0.0
    for number, budget in enumerate(budgets, 1):
        rows = tensors[f"view{number}.features"].astype(np.float32)
        side = round(len(rows) ** 0.5)
        tile = 24 if side % 24 == 0 else side
        with torch.no_grad():
            _, taken = select(function, tensors[f"view{number}.importance"], rows, starts[f"view{number}.init"], budget, clusters, iterations, tile)
        seconds += taken
    return {"seconds": seconds}
