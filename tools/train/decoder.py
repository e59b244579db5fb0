"""Stage 3: projector, positions and decoder, trained together on scenes made of banked tokens.

Questions of a scene share its visual tokens and don't see each other. Two passes an update: the anchor pass, whose attention at the interface
layer is drawn to the evidence, and the answer pass, whose loss is the answer's.
"""

import argparse
import math
import multiprocessing as mp
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import tokens
from tokens import IGNORE, INDEX, LENGTH, QUESTIONS, VOCAB, scenes

DIM, LAYERS, HEADS, HEAD, FFN, ROTARY, BASE, EPS = 128, 4, 4, 32, 384, 16, 10000.0, 1e-5
FEATURES, GRID, VIEWS, INTERFACE = 144, 24, 4, 2
# By family, in the order of scenes.FAMILIES: what is learnt late (counting, relations) weighs more.
WEIGHTS = torch.tensor([0.5, 2.0, 1.0, 0.5, 3.0])


def gguf_names(model):
    """The decoder's parameters by their names in a GGUF file of the llama architecture."""
    yield "token_embd.weight", model.embed.weight
    yield "output.weight", model.head.weight
    yield "output_norm.weight", model.norm.weight
    for i, layer in enumerate(model.layers):
        parts = {"attn_norm": layer.attn_norm, "ffn_norm": layer.ffn_norm, "attn_q": layer.q, "attn_k": layer.k, "attn_v": layer.v}
        parts |= {"attn_output": layer.o, "ffn_gate": layer.gate, "ffn_up": layer.up, "ffn_down": layer.down}
        for name, part in parts.items():
            yield f"blk.{i}.{name}.weight", part.weight


def int4(w):
    """The values that Q4_0 would keep of `w`: blocks of 32 along a row, scale = the value of largest magnitude / -8."""
    blocks = w.detach().reshape(-1, 32)
    top = blocks.gather(1, blocks.abs().argmax(1, keepdim=True))
    scale = (top / -8).half().float()
    inverse = torch.where(top == 0, torch.zeros_like(top), -8 / top)
    kept = (torch.floor(blocks * inverse + 8.5).clamp(0, 15) - 8) * scale
    return w + (kept.reshape(w.shape) - w.detach())


class Linear(nn.Linear):
    quantised = False

    def forward(self, x):
        return F.linear(x, int4(self.weight) if Linear.quantised else self.weight)


class Norm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(DIM))

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS) * self.weight


def rotate(x, places):
    """RoPE on adjacent pairs of the first ROTARY dims; x [..., n, HEADS, HEAD], places [..., n]."""
    frequency = BASE ** (-torch.arange(0, ROTARY, 2) / ROTARY)
    angle = places[..., None, None].float() * frequency
    cos, sin = angle.cos(), angle.sin()
    a, b = x[..., 0:ROTARY:2], x[..., 1:ROTARY:2]
    turned = torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)
    return torch.cat([turned, x[..., ROTARY:]], -1)


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.attn_norm, self.ffn_norm = Norm(), Norm()
        self.q, self.k, self.v, self.o = (Linear(DIM, DIM, bias=False) for _ in range(4))
        self.gate, self.up, self.down = Linear(DIM, FFN, bias=False), Linear(DIM, FFN, bias=False), Linear(FFN, DIM, bias=False)
        for part in (self.o, self.down):
            nn.init.normal_(part.weight, std=0.02)

    def heads(self, part, x, places=None):
        x = part(x).unflatten(-1, (HEADS, HEAD))
        return x if places is None else rotate(x, places)

    def feed(self, x):
        h = self.ffn_norm(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))

    def forward(self, seen, asked, seen_at, asked_at, weights_only=False, last=False):
        """seen [B,n,d], asked [B,Q,L,d] -> both after the layer, and the attention of the questions' rows [B,Q,L,n], mean over heads."""
        hs, ha = self.attn_norm(seen), self.attn_norm(asked)
        ks, ka = self.heads(self.k, hs, seen_at), self.heads(self.k, ha, asked_at)
        qa = self.heads(self.q, ha, asked_at)
        length = asked.shape[2]
        to_seen = torch.einsum("bqlhd,bnhd->bqhln", qa, ks) / math.sqrt(HEAD)
        to_own = torch.einsum("bqlhd,bqmhd->bqhlm", qa, ka) / math.sqrt(HEAD)
        later = torch.ones(length, length, dtype=torch.bool).triu(1)
        weights = torch.cat([to_seen, to_own.masked_fill(later, -1e9)], -1).softmax(-1)
        n = seen.shape[1]
        attention = weights[..., :n].mean(2)
        if weights_only:
            return seen, asked, attention
        vs, va = self.heads(self.v, hs), self.heads(self.v, ha)
        out = torch.einsum("bqhln,bnhd->bqlhd", weights[..., :n], vs) + torch.einsum("bqhlm,bqmhd->bqlhd", weights[..., n:], va)
        asked = asked + self.o(out.flatten(-2))
        if last:  # nobody reads the visual tokens after it
            return seen, self.feed(asked), attention
        qs = self.heads(self.q, hs, seen_at)
        own = F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (qs, ks, vs)), is_causal=True)
        seen = seen + self.o(own.transpose(1, 2).flatten(-2))
        return self.feed(seen), self.feed(asked), attention


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.project = nn.Linear(FEATURES, DIM)
        self.base = nn.Parameter(torch.randn(GRID, GRID, DIM) * 0.02)
        # A ramp along each axis to start from: near places have near values.
        ramp = torch.linspace(-1, 1, GRID)
        with torch.no_grad():
            self.base[..., 0] += ramp[None, :]
            self.base[..., 1] += ramp[:, None]
            for i, f in enumerate((1, 2, 4)):
                for j, wave in enumerate((torch.sin, torch.cos)):
                    self.base[..., 2 + 4 * i + 2 * j] += wave(math.pi * f * ramp)[None, :] * 0.5
                    self.base[..., 3 + 4 * i + 2 * j] += wave(math.pi * f * ramp)[:, None] * 0.5
        self.scale = nn.Parameter(torch.randn(VIEWS, DIM) * 0.1)
        self.embed = nn.Embedding(len(VOCAB), DIM)
        nn.init.normal_(self.embed.weight, std=0.3)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.norm = Norm()
        self.head = nn.Linear(DIM, len(VOCAB), bias=False)
        self.start_informed()

    @torch.no_grad()
    def start_informed(self):
        """Starts where words and patches speak alike, so that minutes of training do: left to itself the decoder sits at the prior for most of an hour.

        Dims 0-15 hold places (15: "a word of the question"), 16-31 the encoder's 16 probabilities or the word's own class and colour. Layer 1
        gathers the question's classes and colours into 32-47 of each row, layer 2 looks for patches that have them and copies what it finds
        (place and probabilities) to 64-95 and 96-127; the colours' logits read from there. All of it is trained on.
        """
        eye = torch.eye(16)
        self.project.weight[:32] = 0
        self.project.bias[:32] = 0
        self.project.weight[16:32, FEATURES - 16 :] = 2 * eye
        self.base[..., 15:] *= 0.2
        self.scale[:, :32] = 0
        words = self.embed.weight
        words[:, :64] = 0
        words[:, 15] = 1
        words[INDEX["<s>"], 15] = 0
        for i, kind in enumerate(scenes.CLASSES):
            words[INDEX[kind], 18 + i] = words[INDEX[scenes.plural(kind)], 18 + i] = 2
        for j, colour in enumerate(scenes.COLOURS):
            words[INDEX[colour], 24 + j] = 2
            self.head.weight[INDEX[colour], 88 + j] = 0.5
            self.head.weight[INDEX[colour], 120 + j] = 0.5
        first, second = self.layers[0], self.layers[1]
        for part in (first.q, first.k):
            part.weight[:32] *= 0.2
            part.weight[16, 15] = 3
        first.v.weight[:32] *= 0.2
        first.v.weight[16:32, 16:32] += eye
        first.o.weight[32:48, 16:32] += 3 * eye
        for head in (0, 1):
            at = 32 * head
            second.q.weight[at : at + 32] *= 0.2
            second.k.weight[at : at + 32] *= 0.2
            second.q.weight[at + 16 : at + 32, 32:48] += 1.5 * eye
            second.q.weight[at + 16 : at + 32, 16:32] += (1.5 if head else 0) * eye
            second.k.weight[at + 16 : at + 32, 16:32] += 1.5 * eye
            second.v.weight[at : at + 32, :32] = torch.eye(32)
            second.o.weight[64 + at : 96 + at, at : at + 32] += 1.5 * torch.eye(32)

    def place(self, at):
        """p at `at` [...,2] in the unit square: bilinear between the cells of the base grid, held at its edge."""
        g = at * GRID - 0.5
        low = g.floor()
        t = g - low
        index = lambda v: v.clamp(0, GRID - 1).long()
        x0, y0, x1, y1 = index(low[..., 0]), index(low[..., 1]), index(low[..., 0] + 1), index(low[..., 1] + 1)
        tx, ty = t[..., :1], t[..., 1:]
        flat = self.base.flatten(0, 1)
        at_ = lambda y, x: F.embedding(y * GRID + x, flat)
        return (at_(y0, x0) * (1 - tx) + at_(y0, x1) * tx) * (1 - ty) + (at_(y1, x0) * (1 - tx) + at_(y1, x1) * tx) * ty

    def visual(self, features, places, views):
        """[B,n,F], [B,n,M,2], [B,n] -> h of Eq. 5, with <s> before it; the projector is linear, so a mean of features is a mean of rows."""
        first, rest = places[:, :, 0], places[:, :, 1:]
        at = self.place(first)
        several = (rest != first[:, :, None]).flatten(2).any(-1)
        if several.any():
            at = at.index_put(torch.where(several), self.place(places[several]).mean(1))
        h = self.project(features) + at + self.scale[views]
        start = self.embed.weight[INDEX["<s>"]].expand(h.shape[0], 1, DIM)
        return torch.cat([start, h], 1)

    def run(self, seen, ids, layers, stop_at=None):
        asked = self.embed(ids)
        seen_at = torch.arange(seen.shape[1])[None]
        asked_at = (seen.shape[1] + torch.arange(ids.shape[2]))[None, None]
        attentions = []
        for number, layer in enumerate(self.layers[:layers], 1):
            seen, asked, attention = layer(seen, asked, seen_at, asked_at, weights_only=number == stop_at, last=number == LAYERS)
            attentions.append(attention[..., 1:])
        return asked, attentions

    def forward(self, b, anchor=True):
        rows = torch.arange(LENGTH)[None, None] <= b["asks"][..., None]
        near = None
        if anchor:
            zero = torch.zeros(b["anchor_f"].shape[:2], dtype=torch.long)
            seen = self.visual(b["anchor_f"], b["anchor_p"], zero)
            _, attentions = self.run(seen, b["ids"], INTERFACE, stop_at=INTERFACE)
            near = (attentions[-1] * rows[..., None]).sum(2) / rows.sum(-1, keepdim=True).clamp(1)
        seen = self.visual(b["answer_f"], b["answer_p"], b["answer_v"])
        asked, attentions = self.run(seen, b["ids"], LAYERS)
        return self.head(self.norm(asked)), near, attentions


def drawn_to(attention, evidence):
    """Cross-entropy of an attention [B,Q,n], normalised over the visual tokens, to the evidence, over questions that have any."""
    has = evidence.sum(-1) > 0
    target = evidence / evidence.sum(-1, keepdim=True).clamp(1)
    log = (attention + 1e-9).log() - (attention.sum(-1, keepdim=True) + 1e-9).log()
    return -(target * log).sum(-1)[has].mean()


def losses(model, b, anchor=True):
    """Of the answer, of the interface layer's attention in the anchor pass (0 without it) and in the answer pass, and the logits."""
    logits, near, attentions = model(b, anchor)
    each = F.cross_entropy(logits.flatten(0, 2), b["labels"].flatten(), ignore_index=IGNORE, reduction="none").view_as(b["labels"])
    weight = (b["labels"] != IGNORE) * WEIGHTS[b["families"]][..., None]
    answer = (each * weight).sum() / weight.sum()
    rows = (torch.arange(LENGTH)[None, None] <= b["asks"][..., None])[..., None]
    # The row of a word finds what the word stands for; later layers gather the answer from these rows.
    reading = drawn_to((attentions[INTERFACE - 1] * rows).sum(2) / rows.sum(2).clamp(1), b["fine"])
    return answer, drawn_to(near, b["near"]) if anchor else torch.zeros(()), reading, logits


def tensors(b):
    return {key: torch.from_numpy(value) for key, value in b.items()}


def supply(path, start, count, queue):
    torch.set_num_threads(1)
    bank = tokens.Bank(torch.load(path, weights_only=False))
    seed = start
    while True:
        queue.put(tokens.batch(seed, bank, count))
        seed += 1


@torch.no_grad()
def check(model, held):
    """Accuracy in all and by family, and the share of evidence's anchor tokens in the top 5 % of importance, on scenes never trained on."""
    right, families, top = [], [], []
    for b in held:
        _, _, _, logits = losses(model, b)
        asks = b["asks"]
        ok = asks >= 0
        picked = logits.gather(2, asks.clamp(0)[..., None, None].expand(-1, -1, 1, logits.shape[-1])).squeeze(2).argmax(-1)
        truth = b["labels"].gather(2, asks.clamp(0)[..., None]).squeeze(2)
        right.append((picked == truth)[ok])
        families.append(b["families"][ok])
        near = model(b)[1]
        k = max(1, near.shape[-1] // 20)
        inside = near >= near.topk(k, -1).values[..., -1:]
        top.append((inside & (b["near"] > 0)).sum().item() / max(1, (b["near"] > 0).sum().item()))
    right, families = torch.cat(right), torch.cat(families)
    by = " ".join(f"{name} {right[families == i].float().mean():.2f}" for i, name in enumerate(scenes.FAMILIES))
    return f"held-out {right.float().mean():.3f} of {len(right)} ({by}), evidence in the top 5 % {np.mean(top):.2f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--lr", type=float, default=2e-3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    state = args.out / "decoder.pt"
    model = Model()
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n and "scale" not in n]
    others = [p for p in model.parameters() if not any(p is m for m in matrices)]
    optimiser = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.02}, {"params": others, "weight_decay": 0.0}], lr=args.lr, betas=(0.9, 0.98))
    spent, step = 0.0, 0
    if state.exists():
        saved = torch.load(state, weights_only=False)
        model.load_state_dict(saved["model"])
        if saved["optimiser"]:
            optimiser.load_state_dict(saved["optimiser"])
        spent, step = saved["spent"], saved["step"]
    queue = mp.Queue(6)
    worker = mp.Process(target=supply, args=(args.out / "bank.pt", 1_000_000 + args.seed * 10_000_000 + step, 8, queue), daemon=True)
    worker.start()
    bank = tokens.Bank(torch.load(args.out / "bank.pt", weights_only=False))
    held = [tensors(tokens.batch(seed, bank, 8)) for seed in range(12)]
    del bank
    log = open(args.out / "decoder.log", "a")
    begun, last, ema = time.time(), time.time(), None

    def save(done):
        part = state.with_suffix(".part")
        torch.save({"model": model.state_dict(), "optimiser": optimiser.state_dict(), "spent": done, "step": step}, part)
        part.replace(state)

    while (now := spent + (time.time() - begun) / 60) < args.minutes:
        done = now / args.minutes
        Linear.quantised = done > 0.7
        for group in optimiser.param_groups:
            group["lr"] = args.lr * min(1, (step + 1) / 200) * (0.5 + 0.5 * math.cos(math.pi * done)) + 1e-5
        b = tensors(queue.get())
        answer, near, reading, _ = losses(model, b, anchor=step % 4 == 0)
        loss = answer + 0.2 * near + 0.1 * reading
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        values = np.array([answer.item(), near.item() if step % 4 == 0 or ema is None else ema[1], reading.item()])
        ema = values if ema is None else 0.98 * ema + 0.02 * values
        step += 1
        if time.time() - last > 120:
            line = f"{now:.1f} min, {step} updates, answer {ema[0]:.3f}, interface {ema[1]:.2f}, reading {ema[2]:.2f}; {check(model, held)}"
            print(line, flush=True)
            log.write(line + "\n")
            log.flush()
            save(now)
            last = time.time()
    Linear.quantised = True
    line = f"end, {step} updates, int4: {check(model, held)}"
    print(line, flush=True)
    log.write(line + "\n")
    save(args.minutes)
    worker.terminate()


if __name__ == "__main__":
    main()
