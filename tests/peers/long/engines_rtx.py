"""A small drawn package, exported, becomes engines for SM 8.6 on the CPU: `model build-engines` with TensorRT-RTX's builder, all of it once, none of it twice, a damaged plan anew, and `model verify` after each."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import export_rtx

sys.path.insert(0, str(export_rtx.ROOT / "tools/export"))
import drawn
import export

GRAPHS = ["encoder", "projector", "token-mlp", "prefill", "step", "anchor", "kmeans", "centres", "merge"]
DECODER = {f"{name}{form}.onnx" for name in ("prefill", "step", "anchor") for form in ("", "_in_place")}
SCRIPT = export_rtx.ROOT / "tools/export/build_rtx.py"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--cache", type=Path, required=True)
    args = parser.parse_args()
    version = export_rtx.load(args.cache).__version__
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        package, python = folder / "package", folder / "bin"
        drawn.save(folder / "checkpoint", drawn.Sizes(context=12288), seed=5)
        settings = ["--name", "drawn", "--licence", "Apache-2.0", "--views", "56,112,224,336", "--interface-layer", "2", "--policy", "paper"]
        export.export(export.parse([str(folder / "checkpoint"), "--out", str(package), *settings]))
        # The script finds this interpreter, and it the wheels.
        python.mkdir()
        (python / "python3").symlink_to(sys.executable)
        where = {"PATH": f"{python}:{os.environ['PATH']}", "PYTHONPATH": str(args.cache / "tensorrt-rtx"), "XDG_DATA_HOME": str(folder / "data")}

        def run(*arguments):
            told = subprocess.run([args.binary, "--profile", "a6000", "--model", str(package), "--json", "--quiet", "model", *arguments], env=os.environ | where, capture_output=True, text=True)
            return told.returncode, json.loads(told.stdout) if told.returncode == 0 else told.stderr

        files = set()

        def build():
            code, told = run("build-engines", "--rtx", str(SCRIPT), "--compute", "8.6", "--tensorrt", version)
            if code:
                sys.exit(told)
            files.update(Path(graph["onnx"]).name for graph in told["graphs"])
            return {graph["graph"] for graph in told["graphs"] if graph["state"] == "built"}

        def verified():
            code, told = run("verify", str(package))
            if code:
                sys.exit(told)
            return [found["not_for"] for found in told["built"]]

        checks = [("all are built", build(), set(GRAPHS)), ("all are whole", verified(), [None]), ("none is built twice", build(), set())]
        checks.append(("the decoder's write keys and values in place", files & DECODER, {name for name in DECODER if "in_place" in name}))
        [plan] = folder.glob("data/uhr-edge/engines/*/*/step.plan")
        damaged = bytearray(plan.read_bytes())
        damaged[-1] ^= 1
        plan.write_bytes(damaged)
        code, told = run("verify", str(package))
        checks += [("a damaged plan is refused", (code, "step.plan" in told), (5, True)), ("and built anew", build(), {"step"}), ("all are whole", verified(), [None])]
        size = sum(plan.stat().st_size for plan in folder.glob("data/uhr-edge/engines/*/*/*.plan"))
    for told, found, wanted in checks:
        print(f"{'ok  ' if found == wanted else 'BAD '} {told}" + ("" if found == wanted else f": wanted {wanted}, found {found}"))
    print(f"TensorRT-RTX {version}, SM 8.6: {len(GRAPHS)} plans, {size / 2**20:.1f} MiB")
    sys.exit(any(found != wanted for _, found, wanted in checks))


if __name__ == "__main__":
    main()
