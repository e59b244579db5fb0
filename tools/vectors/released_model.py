"""A model of the authors' architecture with drawn weights, run by their released code on the CPU, and its package run by uhr-edge from the same k-means starts.

Their code is run from a checkout that the user gives (commit e40a792 of Yunkaidang/UHR-BAT made the committed files); the numbers, the picture and the package are committed,
their code isn't. By hand, with the versions that their pyproject.toml pins, beside tools/export's:

    pip install torch==2.5.1 transformers==4.43.4 tokenizers==0.19.1 accelerate==0.34.2 einops==0.6.1 pillow==11.0.0 -r tools/export/requirements.txt
    python tools/vectors/released_model.py --released PATH/TO/UHR-BAT --binary target/release/uhr-edge

What is replaced in their code, and no more: `torch.randperm`, so that k-means starts from the tokens that uhr-edge draws from its seed; the tower's type, f32 for their f16; the side of a
tile, an argument that they leave at 336.
Weights and picture are drawn anew until no comparison that decides (nearest centre, token against its region's mean, order of regions and tokens, best token of the answer)
is closer than `LEAST`: an engine's rounding must not decide what is compared.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "tools/export"))
import drawn
import export

VIEWS, BUDGETS, CLUSTERS, ITERATIONS, NEW, UHR_SEED = [112, 224], [20, 70], 12, 10, 64, 0
# Square: their code pads before it resizes, uhr-edge resizes and pads, so that rows beside the padding differ.
FRAME = (224, 224)
QUESTION = "how many ships are there?"
PROMPT_WORDS = ["system", "You", "are", "a", "helpful", "assistant.", "user", "assistant", *QUESTION.split()]
MEAN, STD = [0.48, 0.46, 0.408], [0.27, 0.26, 0.28]
SIZES = drawn.Sizes(
    image=56, vision_hidden=32, vision_layers=3, vision_heads=4, vision_ffn=64, layers=3, heads=4, kv_heads=2, head_dim=16, ffn=128, vocab=256, context=512,
)  # fmt: skip
LEAST = {"centres": 5e-4, "regions": 4e-3, "mean": 4e-3, "order": 4e-3, "answer": 5e-3}
DRAWS = 4000


class ChaCha8:
    """rand_chacha's ChaCha8Rng from `seed_from_u64`: the words of D. J. Bernstein's ChaCha with 8 rounds, the seed spread by PCG32."""

    def __init__(self, state):
        key = []
        for _ in range(8):
            state = (state * 0x5851F42D4C957F2D + 0xA17654E46FBE17F3) & (1 << 64) - 1
            mixed, turn = ((state >> 18 ^ state) >> 27) & 0xFFFFFFFF, state >> 59
            key.append((mixed >> turn | mixed << (32 - turn) % 32) & 0xFFFFFFFF)
        self.key, self.block, self.words = key, 0, []

    def refill(self):
        start = [0x61707865, 0x3320646E, 0x79622D32, 0x6B206574, *self.key, self.block & 0xFFFFFFFF, self.block >> 32, 0, 0]
        x = list(start)

        def quarter(a, b, c, d):
            for one, two, three, turn in [(a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)]:
                x[one] = x[one] + x[two] & 0xFFFFFFFF
                mixed = x[three] ^ x[one]
                x[three] = (mixed << turn | mixed >> 32 - turn) & 0xFFFFFFFF

        for _ in range(4):
            for n in range(4):
                quarter(n, n + 4, n + 8, n + 12)
            for n in range(4):
                quarter(n, 4 + (n + 1) % 4, 8 + (n + 2) % 4, 12 + (n + 3) % 4)
        self.words += [a + b & 0xFFFFFFFF for a, b in zip(x, start)]
        self.block += 1

    def u64(self):
        while len(self.words) < 2:
            self.refill()
        low, high = self.words[:2]
        del self.words[:2]
        return high << 32 | low


def starts(tokens, wanted):
    """The tokens that uhr-edge's k-means starts from under `released` with seed `UHR_SEED`."""
    random, order = ChaCha8(UHR_SEED), list(range(tokens))
    for place in range(wanted):
        other = place + (random.u64() * (tokens - place) >> 64)
        order[place], order[other] = order[other], order[place]
    return order[:wanted]


def draw_frame(path, rng):
    """Patches of a few colours, each with a slope of its own, so that tokens fall into groups."""
    width, height = FRAME
    colours = rng.integers(20, 236, (7, 3))
    rough = rng.integers(0, 7, (height // 14, width // 14))
    pixels = np.repeat(np.repeat(colours[rough], 14, 0), 14, 1).astype(np.float64)
    ys, xs = np.mgrid[0:height, 0:width]
    slopes = rng.normal(0, 0.08, (2, 3))
    pixels += ys[..., None] * slopes[0] + xs[..., None] * slopes[1] + rng.normal(0, 2, pixels.shape)
    Image.fromarray(pixels.clip(0, 255).round().astype(np.uint8)).save(path)


def draw_checkpoint(folder, seed):
    """A checkpoint whose values are all f16's, so that f16 files hold the very same model."""
    drawn.MEAN, drawn.STD = MEAN, STD
    plain, half = drawn.Tensors.__call__, lambda self, name, shape: plain(self, name, shape).astype(np.float16).astype(np.float32)

    def louder(self, name, shape):
        """Attention that looks somewhere, and answers that are sure and don't end."""
        factor = 1.5 if "q_proj.weight" in name or "k_proj.weight" in name else 4 if "lm_head" in name else 1
        values = (half(self, name, shape) * factor).astype(np.float16).astype(np.float32)
        if "lm_head" in name:
            values[:3] = 0
        return values

    drawn.Tensors.__call__ = louder
    try:
        # A table a view, of the view's own grid, which is fitted to a tile's; a good part of a row's own size, so that it decides something.
        table = lambda side: 8 * drawn.Tensors(seed)(f"residual.{side}", [1, (side // SIZES.patch) ** 2, SIZES.hidden])
        tensors = drawn.save(folder, SIZES, seed, {f"model.scale_pos_residuals.{side}": table(side) for side in VIEWS})
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"enable_scale_pos_residual": True}))
        return tensors
    finally:
        drawn.Tensors.__call__ = plain


def words(folder):
    """The prompt's words among the tokenizer's, in place of its last ones."""
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocab = tokenizer["model"]["vocab"]
    for n, word in enumerate(dict.fromkeys(PROMPT_WORDS)):
        del vocab[f"w{SIZES.vocab - 4 - n}"]
        vocab[word] = SIZES.vocab - 1 - n
    path.write_text(json.dumps(tokenizer))
    return path


class Theirs:
    """The authors' code, from `checkout`."""

    def __init__(self, checkout):
        sys.path.insert(0, str(Path(checkout) / "with_k-means/longva"))
        from longva import conversation, mm_utils
        from longva.constants import IMAGE_TOKEN_INDEX
        from longva.model.language_model import llava_qwen
        from transformers import PreTrainedTokenizerFast

        self.longva = SimpleNamespace(conversation=conversation, mm_utils=mm_utils, image=IMAGE_TOKEN_INDEX, qwen=llava_qwen)
        self.tokenizer_type = PreTrainedTokenizerFast

    def model(self, folder, tensors):
        qwen = self.longva.qwen
        config = qwen.LlavaQwenConfig(**json.loads((folder / "config.json").read_text()))
        config.multiscale_target_sizes, config.multiscale_base_attention_size = VIEWS, VIEWS[0]
        config.kmeans_num_clusters, config.kmeans_max_iters = CLUSTERS, ITERATIONS
        config.pad_token_id, config.bos_token_id, config.eos_token_id = 2, 2, 1
        config._attn_implementation = "eager"
        made = qwen.LlavaQwenForCausalLM(config).eval().float()
        made.get_vision_tower().vision_tower.float()
        for side in VIEWS:
            made.get_model().scale_pos_residuals[str(side)] = torch.nn.Parameter(torch.zeros(1, (side // SIZES.patch) ** 2, SIZES.hidden))
        missing = made.load_state_dict({name: torch.from_numpy(values) for name, values in tensors.items()}).missing_keys
        left = [name for name in missing if "vision_tower" not in name and "multiscale_token_mlp" not in name]
        assert not left, f"their model wants {left}"
        made.encode_multiscale_tiles = partial(made.encode_multiscale_tiles, tile_size=SIZES.image)
        return made

    def prompt(self, tokenizer):
        conv = self.longva.conversation.conv_templates["qwen_1_5"].copy()
        conv.append_message(conv.roles[0], ("<image>\n" + QUESTION, ["frame"]))
        conv.append_message(conv.roles[1], None)
        return self.longva.mm_utils.tokenizer_image_token(conv.get_prompt(), tokenizer, self.longva.image, return_tensors="pt").unsqueeze(0)

    def run(self, folder, tensors, frame, tokenizer_file):
        """What they select and say, and how close any of it was."""
        model, tokenizer = self.model(folder, tensors), self.tokenizer_type(tokenizer_file=str(tokenizer_file))
        seen, gaps = {}, Gaps()
        attention, select = model.compute_multiscale_image_attention, model.select_tokens_with_masks

        def looked(*args, **named):
            seen["importance"] = attention(*args, **named)
            return seen["importance"]

        def selected(scores, embeds, *args, **named):
            residual = lambda view, rows: model._get_scale_pos_residual(view, SIZES.image // SIZES.patch, rows.device, rows.dtype)
            seen["scores"], seen["embeds"] = scores, {view: rows + residual(view, rows) for view, rows in embeds.items()}
            with Watch(gaps):
                seen["selection"] = select(scores, embeds, *args, **named)
            gaps.selection(scores)
            return seen["selection"]

        model.compute_multiscale_image_attention, model.select_tokens_with_masks = looked, selected
        processor = model.get_vision_tower().image_processor
        tiles = self.longva.mm_utils.split_image_to_multiscale_tiles(Image.open(frame).convert("RGB"), processor, target_sizes=VIEWS, tile_size=SIZES.image)
        ids = self.prompt(tokenizer)
        out = model.generate(
            inputs=ids, attention_mask=torch.ones_like(ids), images=None, modalities=["image"], multiscale_pixels=[tiles], multiscale_masks=[{}], multiscale_topk=BUDGETS,
            do_sample=False, num_beams=1, max_new_tokens=NEW, use_cache=True, return_dict_in_generate=True, output_logits=True, pad_token_id=2, eos_token_id=1,
        )  # fmt: skip
        logits = torch.stack(out.logits)[:, 0]
        answer = logits.argmax(-1).tolist()
        if len(answer) < NEW or 1 in answer:
            raise TooClose(f"an answer of {len(answer)} tokens")
        best = logits.topk(2).values
        gaps.add("answer", float(((best[:, 0] - best[:, 1]) / logits.std(-1)).min()))
        return SimpleNamespace(seen=seen, ids=ids[0].tolist(), answer=answer, text=tokenizer.decode(answer), gaps=gaps)


class TooClose(Exception):
    """A draw in which rounding might decide."""


class Gaps:
    """The least relative distance of each kind of comparison, held against what engines may differ by."""

    def __init__(self):
        self.least, self.labels = {}, {}

    def add(self, kind, gap):
        self.least[kind] = min(gap, self.least.get(kind, np.inf))
        if gap < LEAST[kind]:
            raise TooClose(f"{kind}: {gap:.1e}")

    def neighbours(self, kind, values):
        """Of `values` in order, over the larger of two."""
        values = np.sort(np.asarray(values, np.float64))
        if len(values) > 1:
            self.add(kind, float((np.diff(values) / values[1:]).min()))

    def selection(self, scores_by_view):
        """Regions by their means, tokens against their region's mean, kept tokens among themselves: as far as the budget reaches."""
        for scores, budget in zip(scores_by_view.values(), BUDGETS):
            scores = scores.reshape(-1).double().numpy()
            labels = self.labels[len(scores)]
            regions = sorted((scores[labels == label] for label in np.unique(labels)), key=lambda region: -region.mean())
            reached, used = 0, 0
            while used < budget and reached < len(regions):
                region = regions[reached]
                if len(region) > 1:
                    self.add("mean", float((np.abs(region - region.mean()) / region.mean()).min()))
                kept = region[region > region.mean()]
                self.neighbours("order", kept)
                used, reached = used + len(kept) + 1, reached + 1
            self.neighbours("regions", [region.mean() for region in regions[: reached + 1]])


class Watch:
    """k-means from uhr-edge's starts, its distances looked at."""

    def __init__(self, gaps):
        self.gaps = gaps

    def __enter__(self):
        self.permutation, self.distances = torch.randperm, torch.cdist
        torch.randperm = lambda n, **_: torch.tensor(starts(n, min(CLUSTERS, n)) + [0] * max(n - CLUSTERS, 0))

        def distances(features, centres, **named):
            out = self.distances(features, centres, **named)
            exact = self.distances(features.double(), centres.double())
            best = exact.topk(2, largest=False).values
            self.gaps.labels[len(features)] = exact.argmin(1).numpy()
            self.gaps.add("centres", float(((best[:, 1] - best[:, 0]) / best[:, 1]).min()))
            return out

        torch.cdist = distances

    def __exit__(self, *_):
        torch.randperm, torch.cdist = self.permutation, self.distances


def draw(theirs, work):
    """The first draw without a close comparison: its folder, frame and what their code made of it."""
    for seed in range(DRAWS):
        folder = work / str(seed)
        tensors = draw_checkpoint(folder, seed)
        tokenizer, frame = words(folder), folder / "frame.png"
        draw_frame(frame, np.random.default_rng(seed))
        try:
            return seed, folder, frame, theirs.run(folder, tensors, frame, tokenizer)
        except TooClose as close:
            print(f"draw {seed}: {close}", flush=True)
            shutil.rmtree(folder)
    raise SystemExit(f"wanted a draw without close comparisons, found none among {DRAWS}")


def tokens_of(made):
    """Selected tokens a view, in order: {pos, merged}; places are tile by tile."""
    return [[{"pos": token["pos"], "merged": bool(token.get("aggregated"))} for token in view["tokens"]] for view in made.seen["selection"]["selected_indices"][0]]


def compress(binary, work, made):
    """The selection by `uhr-edge compress` from their own rows, scores and starts, as [`tokens_of`] has it."""
    tensors, init = {}, {}
    for number, view in enumerate(VIEWS, 1):
        rows = made.seen["embeds"][view].reshape(-1, SIZES.hidden).detach().float().numpy()
        tensors[f"view{number}.features"] = np.ascontiguousarray(rows)
        tensors[f"view{number}.importance"] = np.ascontiguousarray(made.seen["scores"][view].reshape(-1).float().numpy())
        init[f"view{number}.init"] = np.array(starts(len(rows), CLUSTERS), np.int32)
    save_file(tensors, work / "in", {"views": ",".join(map(str, VIEWS)), "tile": str(SIZES.image), "patch": str(SIZES.patch)})
    save_file(init, work / "init")
    command = [binary, "compress", str(work / "in"), "--out", str(work / "out"), "--init", str(work / "init"), "--policy", "released", "--budget", ",".join(map(str, BUDGETS))]
    subprocess.run([*command, "--clusters", str(CLUSTERS), "--iters", str(ITERATIONS)], check=True)
    found, out = load_file(work / "out"), []
    for number in range(1, len(VIEWS) + 1):
        offsets, sources = found[f"view{number}.sources_offsets"], found[f"view{number}.sources"]
        merged = found[f"view{number}.merged"]
        out.append([{"pos": sources[a:b].tolist(), "merged": bool(m)} for a, b, m in zip(offsets, offsets[1:], merged)])
    return out


def ask(binary, work, package, frame):
    """The answer's document, under the host's profile with room for the longer answer."""
    profile = work / "host.toml"
    profile.write_text((ROOT / "firmware-config/host.toml").read_text().replace("max-new-tokens = 32", f"max-new-tokens = {NEW}"))
    command = [binary, "--profile", str(profile), "--model", str(package), "--json", "ask", str(frame), QUESTION, "--policy", "released", "--budget", ",".join(map(str, BUDGETS))]
    command += ["--clusters", str(CLUSTERS), "--seed", str(UHR_SEED), "--max-new", str(NEW)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--released", required=True)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--out", type=Path, default=ROOT / "tests/vectors/released_model")
    args = parser.parse_args()
    torch.set_num_threads(1)
    theirs = Theirs(args.released)
    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        with torch.no_grad():
            seed, folder, frame, made = draw(theirs, work)
        shutil.rmtree(args.out, ignore_errors=True)
        package = args.out / "package"
        settings = ["--name", "drawn-uhr-bat", "--licence", "Apache-2.0", "--views", ",".join(map(str, VIEWS)), "--policy", "released", "--weights", "f16", "--without-tensorrt"]
        export.export(export.parse([str(folder), "--out", str(package), *settings]))
        shutil.copyfile(frame, args.out / "frame.png")
        wanted = tokens_of(made)
        golden = {
            "question": QUESTION, "budgets": BUDGETS, "clusters": CLUSTERS, "seed": UHR_SEED, "max_new": NEW, "views": wanted, "answer": made.answer, "text": made.text,
            "importance": [round(value, 9) for value in made.seen["importance"]["base_scale_attention"].reshape(-1).tolist()],
            "draw": seed, "closest": {kind: float(f"{gap:.2e}") for kind, gap in made.gaps.least.items()},
        }  # fmt: skip
        (args.out / "golden.json").write_text(json.dumps(golden) + "\n")
        print(f"draw {seed}: closest comparisons {golden['closest']}")
        same = compress(args.binary, work, made) == wanted
        print(f"compress on their rows and scores: {'the same tokens' if same else 'OTHER tokens'}")
        found = ask(args.binary, work, package, args.out / "frame.png")
    counts = [(view["kept"], view["merged"]) for view in found["receipt"]["budget"]["per_view"]]
    wanted_counts = [(sum(not t["merged"] for t in view), sum(t["merged"] for t in view)) for view in wanted]
    print(f"ask: kept and merged tokens {counts}, theirs {wanted_counts}")
    print(f"ask: {'the same' if found['text'] == made.text else 'ANOTHER'} text of {len(made.answer)} tokens")
    if found["text"] != made.text:
        print(f"  theirs {made.text}\n  ours   {found['text']}")
    sys.exit(0 if same and counts == wanted_counts and found["text"] == made.text else 1)


if __name__ == "__main__":
    main()
