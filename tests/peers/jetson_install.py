"""jetson/install.sh below a folder of its own: once, twice, checked, damaged, taken away; which profile a board gets; and the unit by systemd's own verifier."""

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Name in the device tree, MiB of memory, profile.
BOARDS = [
    ("NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0", 7620, "orin-nano-8"),
    ("NVIDIA Jetson Orin Nano Developer Kit\0", 3800, "host"),
    ("NVIDIA Jetson Orin NX Engineering Reference Developer Kit\0", 15656, "orin-nx-16"),
    ("NVIDIA Jetson AGX Orin Developer Kit\0", 62841, "agx-orin-64"),
    ("NVIDIA Jetson AGX Orin Developer Kit\0", 30697, "host"),
    ("NVIDIA Jetson AGX Thor Developer Kit\0", 125772, "thor"),
    ("Raspberry Pi 5 Model B Rev 1.0\0", 8062, "host"),
    (None, 24000, "host"),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--binary", type=Path, required=True)
    parser.add_argument("--cache", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root"

        def script(*more, code=0):
            done = subprocess.run([ROOT / "jetson/install.sh", *more, "--root", root], capture_output=True, text=True)
            assert done.returncode == code, (more, done.returncode, done.stdout, done.stderr)
            return done.stdout

        refused = subprocess.run([ROOT / "jetson/install.sh", "--profile", "orin", "--root", root], capture_output=True, text=True)
        assert refused.returncode == 2 and "orin-nx-16" in refused.stderr and not root.exists(), refused
        proc = Path(folder) / "proc"
        (proc / "device-tree").mkdir(parents=True)
        for name, mib, wanted in BOARDS:
            (proc / "device-tree/model").unlink(missing_ok=True)
            if name is not None:
                (proc / "device-tree/model").write_text(name)
            (proc / "meminfo").write_text(f"MemTotal:       {mib * 1024} kB\nMemFree:        1 kB\n")
            read = f". {ROOT}/jetson/service.sh; board_profile {ROOT}/firmware-config {proc}"
            found = subprocess.run(["bash", "-c", read], capture_output=True, text=True, check=True).stdout.strip()
            assert found == wanted, (name, mib, found)

        said = script("--profile", "host", "--binary", args.binary.resolve())
        assert "wrote" in said and "installed" in said, said
        files = sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())
        again = script("--profile", "host", "--binary", args.binary.resolve())
        assert "wrote" not in again, again
        assert files == sorted(path.relative_to(root) for path in root.rglob("*") if path.is_file())
        assert "all there" in script("--check")
        # A profile that somebody changed is theirs.
        profile = root / "etc/uhr-edge/profile.toml"
        profile.write_text(profile.read_text() + "# mine\n")
        script("--profile", "orin-nx-16", "--binary", args.binary.resolve())
        assert profile.read_text().endswith("# mine\n")
        weights = root / "usr/share/uhr-edge/models/uhr-nano/decoder.gguf"
        weights.write_bytes(weights.read_bytes()[:-1])
        assert "MISSING" in script("--check", code=1)
        script("--uninstall")
        left = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
        assert left == ["etc/uhr-edge/environment", "etc/uhr-edge/profile.toml"], left
        script("--uninstall", "--purge")
        assert not [path for path in root.rglob("*") if path.is_file()]

        if shutil.which("systemd-analyze") is None:
            raise SystemExit("systemd-analyze: wanted it, found none")
        # The verifier wants to find the program.
        unit = Path(folder) / "uhr-edge.service"
        unit.write_text((ROOT / "jetson/uhr-edge.service").read_text().replace("/usr/bin/uhr-edge ", f"{args.binary.resolve()} "))
        done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
        assert done.returncode == 0 and not done.stderr.strip(), done.stderr
        exposure = subprocess.run(["systemd-analyze", "security", "--offline=true", unit], capture_output=True, text=True).stdout.splitlines()[-1]
        print(f"installed, again, checked, taken away: {len(files)} files; {exposure.strip(' →')}")


if __name__ == "__main__":
    main()
