"""Asks the built binary 500 questions on 50 drawn frames that training never saw (other seeds, other backgrounds), and the same questions on other frames and
on a blank one.

Writes a line a question to --out as it goes and takes up from there when it was stopped; prints accuracy by family, the no-image prior (the most
frequent answer of each family over 20,000 questions of training seeds), what the model answers without a picture, and the accuracy with shuffled frames.
"""

import argparse
import collections
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scenes"))
import backgrounds
import scenes

FIRST_SEED, FRAMES, QUESTIONS = 770_000_000, 50, 10


def prior():
    """The most frequent answer a family, of questions that training seeds give."""
    counts = collections.defaultdict(collections.Counter)
    for seed in range(2_000):
        width, height, things = scenes.lay_out(random.Random(seed))
        for q in scenes.questions(width, height, things, seed, QUESTIONS):
            counts[q["family"]][q["answer"]] += 1
    return {family: counter.most_common(1)[0][0] for family, counter in counts.items()}


def ask(binary, frame, questions, extra):
    args = [str(binary), "--json", "--quiet", *extra, "ask", str(frame)]
    for q in questions:
        args += ["-q", q["question"]]
    lines = subprocess.run(args, check=True, capture_output=True, text=True).stdout.splitlines()
    return [json.loads(line)["text"].strip() for line in lines]


def report(rows, blank):
    best = prior()
    share = lambda hits: sum(hits) / max(1, len(hits))
    print("| family | questions | answered right | most frequent answer | on a blank frame | with shuffled frames |")
    print("|---|---|---|---|---|---|")
    for family in [*scenes.FAMILIES, "all"]:
        mine = [r for r in rows if family in (r["family"], "all")]
        right = share([r["answer"] == r["found"] for r in mine])
        constant = share([r["answer"] == best[r["family"]] for r in mine])
        unseen = share([r["answer"] == blank[r["question"]] for r in mine])
        shuffled = share([r["answer"] == r["shuffled"] for r in mine])
        print(f"| {family} | {len(mine)} | {right:.3f} | {constant:.3f} | {unseen:.3f} | {shuffled:.3f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", type=Path, default=Path("target/release/uhr-edge"))
    parser.add_argument("--cache", type=Path, required=True, help="folder for the packages that backgrounds come from")
    parser.add_argument("--out", type=Path, required=True, help="predictions, one JSON document a line")
    parser.add_argument("--model", default="models/uhr-nano")
    args = parser.parse_args()
    rows = [json.loads(line) for line in args.out.read_text().splitlines()] if args.out.exists() else []
    blank = {r["question"]: r["blank"] for r in rows if "blank" in r}
    rows = [r for r in rows if "blank" not in r]
    done = {r["scene"] for r in rows}
    sources = backgrounds.load(args.cache, "test")
    made = [scenes.make_scene(FIRST_SEED + i, sources) for i in range(FRAMES)]
    asked = [scenes.questions(s.width, s.height, s.things, FIRST_SEED + i, QUESTIONS) for i, s in enumerate(made)]
    with tempfile.TemporaryDirectory() as folder, open(args.out, "a") as out:
        for i, scene in enumerate(made):
            if i in done:
                continue
            frame = Path(folder) / "frame.jpg"
            Image.fromarray(scenes.render(scene, (0, 0, scene.width, scene.height), scene.width, scene.height, FIRST_SEED + i)).save(frame, quality=90)
            # On this frame: its own questions, and those of the scene before it.
            other = (i - 1) % FRAMES
            texts = ask(args.binary, frame, asked[i] + asked[other], ["--model", args.model])
            own, foreign = texts[: len(asked[i])], texts[len(asked[i]) :]
            for scene_at, key, answers in ((i, "found", own), (other, "shuffled", foreign)):
                for number, answer in enumerate(answers):
                    q = asked[scene_at][number]
                    rows.append({"scene": i, "of": scene_at, "number": number, "family": q["family"], "question": q["question"], "answer": q["answer"], key: answer})
                    out.write(json.dumps(rows[-1]) + "\n")
            out.flush()
        texts = sorted({q["question"] for questions in asked for q in questions} - set(blank))
        if texts:
            frame = Path(folder) / "blank.png"
            Image.new("RGB", (4400, 4000), (123, 117, 104)).save(frame)
            for question, text in zip(texts, ask(args.binary, frame, [{"question": question} for question in texts], ["--model", args.model])):
                blank[question] = text
                out.write(json.dumps({"question": question, "blank": text}) + "\n")
    merged = collections.defaultdict(dict)
    for r in rows:
        merged[r["of"], r["number"]].update({k: v for k, v in r.items() if k != "scene"})
    report(list(merged.values()), blank)


if __name__ == "__main__":
    main()
