"""MAVProxy without a screen, signed, over UDP: asks by `long`, sees how far it is by `watch`, asks in words by `message`, changes a parameter and reads the answers."""

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

    def acknowledged(here):
        """What is said of a command until its end: results and percentages."""
        acks = []
        while not acks or acks[-1][0] != 0:
            ack, here = wait(r"COMMAND_ACK \{.*command : 31010, result : (\d+), progress : (\d+)", here, 180)
            acks.append((int(ack[1]), int(ack[2])))
        assert acks[0] == (5, 0) and acks[-1] == (0, 100), acks
        return acks

    try:
        # Signing is set up without telling anybody: `signing key` has the passphrase's key for what goes out.
        time.sleep(3)
        tell(f"signing key {PASSPHRASE}")
        time.sleep(2)
        tell("watch COMMAND_ACK")
        asked = len(said)
        tell("long 31010 1 41 0 0 0 0 0")
        found, at = wait(r"uhr (\d+): (.*)$", asked)
        number, answer = int(found[1]), found[2].rstrip()
        assert answer == daemon.answer(number) and daemon.questions()[0]["text"] == PRESETS[0]
        print(f"command: answer {number}: {answer!r}, acknowledged {acknowledged(asked)}", flush=True)
        asked = len(said)
        tell("""message STATUSTEXT 6 "b'uhr: Is there a runway?'" 0 0""")
        found, at = wait(r"uhr (\d+): (?!accepted|.* \d+ %$)(.*)$", asked)
        number, answer = int(found[1]), found[2].rstrip()
        assert answer == daemon.answer(number) and daemon.questions()[0]["text"] == "Is there a runway?"
        print(f"words: answer {number}: {answer!r}", flush=True)
        tell("param set UHR_TOKBUD 600")
        time.sleep(3)
        tell("long 31010 2 42 0 0 0 0 0")
        found, at = wait(r"uhr (\d+): (.*)$", at)
        assert daemon.get(f"/api/answers/{found[1]}")["receipt"]["budget"]["total"] == 600
        print("parameter: UHR_TOKBUD = 600, and the answer's budget is 600", flush=True)
        # How far it is, where that takes a while: a frame that is taken in for the question.
        frame, asked = daemon.long_question(), len(said)
        tell(f"long 31010 1 43 {frame} 0 0 0 0")
        acks = acknowledged(asked)
        assert any(result == 5 and 0 < percent < 100 for result, percent in acks), f"no progress: {acks}"
        print(f"progress: {acks}", flush=True)
    except BaseException:
        print("\n".join(said), daemon.told(), sep="\n", flush=True)
        raise
    finally:
        proxy.kill()
        daemon.close()


if __name__ == "__main__":
    run(check)
