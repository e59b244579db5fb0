"""All of uhr-nano's training in one command: encoder, bank of tokens, decoder, package, table. Each stage takes up where it stopped."""

import argparse
import platform
import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def cpu():
    text = Path("/proc/cpuinfo").read_text()
    return re.search(r"model name\s*: (.*)", text).group(1) if "model name" in text else platform.processor()


def measured(work, cache):
    """The encoder's figures on backgrounds that it was trained on and on others, a line each."""
    import encoder
    import torch

    model = encoder.Encoder()
    model.load_state_dict(torch.load(work / "encoder.pt", weights_only=False)["model"])
    return [f"- {split} backgrounds: {encoder.check(model, cache, split, 48).replace('|', '/')}" for split in ("train", "test")]


def table(work, cache, device, out):
    """The logs as a table: minutes, updates and what was measured, a row every twenty minutes and the last."""
    lines = [f"# Training of uhr-nano\n\nMade by tools/train/train.py from its logs. Device: {device}, one thread for training and one process for drawing.\n"]
    for name, what in (("encoder", "precision/recall, class and colour accuracy a view, coarsest first"), ("decoder", "scenes of banked tokens, held out")):
        if not (work / f"{name}.log").exists():
            lines += [f"\n## {name.capitalize()}: {what}\n", "Taken as it was from the package that this run began with; measured anew, 48 tiles a view:\n", *measured(work, cache)]
            continue
        lines += [f"\n## {name.capitalize()}: {what}\n", "| minutes | updates | measured |\n|---|---|---|"]
        last, minutes = -20.0, 0.0
        for line in (work / f"{name}.log").read_text().splitlines():
            found = re.match(r"([\d.]+) min, (\d+) updates, (.*)", line)
            if found and (minutes := float(found[1])) >= last + 20:
                lines.append(f"| {found[1]} | {found[2]} | {found[3].replace('|', '/')} |")
                last = minutes
            elif ended := re.match(r"end, (\d+) updates, (.*)", line):
                lines.append(f"| {minutes:.0f}, end | {ended[1]} | {ended[2].replace('|', '/')} |")
    out.write_text("\n".join(lines).replace("\n\n|", "\n|") + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="checkpoints and logs")
    parser.add_argument("--cache", type=Path, required=True, help="folder for the packages that backgrounds come from")
    parser.add_argument("--out", type=Path, default=Path("models/uhr-nano"))
    parser.add_argument("--encoder-minutes", type=float, default=128)
    parser.add_argument("--decoder-minutes", type=float, default=60)
    parser.add_argument("--start", type=Path, help="a package to go on from, instead of from nothing")
    parser.add_argument("--encoder-lr", type=float, default=2e-3)
    parser.add_argument("--decoder-lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=1, help="of everything drawn")
    parser.add_argument("--table-only", action="store_true", help="only write table.md from the logs")
    parser.add_argument("--device", default=cpu(), help="for the table")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    run = lambda script, *more: subprocess.run([sys.executable, str(HERE / script), *map(str, more)], check=True)
    if not args.table_only:
        if args.start and not (args.work / "encoder.pt").exists():
            run("resume.py", "--package", args.start, "--cache", args.cache, "--out", args.work)
        if args.encoder_minutes:
            run("encoder.py", "--out", args.work, "--cache", args.cache, "--minutes", args.encoder_minutes, "--lr", args.encoder_lr, "--seed", args.seed)
        if not (args.work / "bank.pt").exists():
            run("bank.py", "--out", args.work, "--cache", args.cache, "--seed", args.seed + 1)
        run("decoder.py", "--out", args.work, "--minutes", args.decoder_minutes, "--lr", args.decoder_lr, "--seed", args.seed + 2)
        run("export.py", "--work", args.work, "--out", args.out)
    table(args.work, args.cache, args.device, HERE / "table.md")


if __name__ == "__main__":
    main()
