"""MAVProxy without a screen, signed, over UDP: asks by `long`, in words by `status_text`… as its own prompt allows, changes a parameter and reads the answer."""

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from link.daemon import PASSPHRASE, PRESETS, Daemon, free_port, run


def check(binary):
    port = free_port()
    daemon = Daemon(binary, [(f"udp:127.0.0.1:{port}", True)])
    mavproxy = shutil.which("mavproxy.py", path=str(Path(sys.executable).parent) + os.pathsep + os.environ["PATH"])
    proxy = subprocess.Popen(
        [sys.executable, mavproxy, f"--master=udpin:127.0.0.1:{port}", "--target-system=1", "--target-component=191", "--source-system=255", "--source-component=190", f"--state-basedir={daemon.folder}", "--default-modules=cmdlong,param,signing,link,misc,message"],
        cwd=daemon.folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1,
        env=os.environ | {"HOME": str(daemon.folder), "TERM": "dumb"},
    )
    said, lock = [], threading.Condition()

    def read():
        for line in proxy.stdout:
            with lock:
                said.append(line.rstrip())
                lock.notify_all()

    threading.Thread(target=read, daemon=True).start()

    def tell(line):
        proxy.stdin.write(line + "\n")
        proxy.stdin.flush()

    def wait(pattern, after=0, seconds=60):
        end = time.time() + seconds
        with lock:
            while True:
                for at, line in enumerate(said[after:]):
                    if found := re.search(pattern, line):
                        return found, after + at + 1
                assert time.time() < end, f"{pattern} never came"
                lock.wait(0.5)

    try:
        # Signing is set up without telling anybody: `signing key` has the passphrase's key for what goes out.
        time.sleep(3)
        tell(f"signing key {PASSPHRASE}")
        time.sleep(2)
        tell("long 31010 1 41 0 0 0 0 0")
        found, at = wait(r"uhr (\d+): (.*)$")
        number, answer = int(found[1]), found[2].rstrip()
        assert answer == daemon.answer(number) and daemon.questions()[0]["text"] == PRESETS[0]
        wait(r"USER_1.*IN_PROGRESS|IN_PROGRESS.*USER_1|31010.*(IN_PROGRESS|5)")
        print(f"command: answer {number}: {answer!r}", flush=True)
        print("\n".join(said), flush=True)
        tell("param set UHR_TOKBUD 600")
        time.sleep(3)
        tell("long 31010 2 42 0 0 0 0 0")
        found, at = wait(r"uhr (\d+): (.*)$", at)
        assert daemon.get(f"/api/answers/{found[1]}")["receipt"]["budget"]["total"] == 600
        print("parameter: UHR_TOKBUD = 600, and the answer's budget is 600", flush=True)
    except BaseException:
        print("\n".join(said), daemon.told(), sep="\n", flush=True)
        raise
    finally:
        proxy.kill()
        daemon.close()


if __name__ == "__main__":
    run(check)
