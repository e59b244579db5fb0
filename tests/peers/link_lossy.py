"""Our own client over a bad line of pseudo-terminals, signed: 57,600 baud, 20 % loss, 5 % doubled, reordered, 2 s of round trip, a minute of standstill, a daemon and a client
that are killed in the middle: five questions, each answered once, equal to the journal's; and a picture that is fetched."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from link.daemon import ROOT, Daemon, run

RATE = 1_152


def check(binary):
    a, b = f"/tmp/uhr-lossy-a-{os.getpid()}", f"/tmp/uhr-lossy-b-{os.getpid()}"
    begun = time.time()
    rules = "--loss 0.2 --duplicate 0.05 --reorder 0.1 --delay-ms 1000 --jitter-ms 100 --rate 5760 --noise 0.02 --seed 5"
    daemon = None
    pty = subprocess.Popen([sys.executable, str(ROOT / "tools/lossy-serial/lossy_serial.py"), "--a", a, "--b", b, "--stall", "75:60", *rules.split()], stdout=subprocess.PIPE, text=True)
    try:
        assert pty.stdout.readline().strip() == "ready"
        daemon = Daemon(binary, [(f"serial:{a}:57600", True)])
        gcs = lambda *words: [binary, "--json", "--quiet", "gcs", words[0], *words[1:], "--link", f"serial:{b}:57600", "--key", str(daemon.key), "--state", str(daemon.folder / "state")]
        questions = [f"How many ships are there in part {at}?" for at in range(1, 6)]
        for at, question in enumerate(questions):
            asked = time.time()
            client = subprocess.Popen(gcs("ask", question), stdout=subprocess.PIPE, text=True)
            if at == 1:
                # The daemon loses its power while it works or answers.
                time.sleep(7)
                daemon.process.send_signal(signal.SIGKILL)
                daemon.process.wait()
                daemon.start()
            if at == 2:
                # The client loses its power, and asks again.
                time.sleep(6)
                client.kill()
                client.wait()
                client = subprocess.Popen(gcs("ask", question), stdout=subprocess.PIPE, text=True)
            out, _ = client.communicate(timeout=280)
            assert client.returncode == 0, client.returncode
            answer = json.loads(out)
            assert answer["text"] == daemon.answer(answer["id"]), answer
            print(f"{question!r}: {answer['text']!r} after {time.time() - asked:.0f} s", flush=True)
        kept = daemon.questions()
        assert sorted(entry["text"] for entry in kept) == questions, "a question ran twice, or not"
        picture = daemon.folder / "glimpse.jpg"
        subprocess.run([*gcs("fetch", str(kept[0]["id"]), "glimpse"), "--out", str(picture)], check=True, timeout=200, stdout=subprocess.PIPE)
        assert picture.read_bytes()[:2] == b"\xff\xd8" and picture.stat().st_size <= 2_048
        # The device is pulled out and put in again: both ends find it.
        pty.terminate()
        counts = json.loads(pty.communicate(timeout=10)[0].strip())
        time.sleep(2)
        pty = subprocess.Popen([sys.executable, str(ROOT / "tools/lossy-serial/lossy_serial.py"), "--a", a, "--b", b], stdout=subprocess.PIPE, text=True)
        assert pty.stdout.readline().strip() == "ready"
        status = subprocess.run(gcs("status"), check=True, timeout=60, stdout=subprocess.PIPE).stdout
        assert json.loads(status)["questions"]["places"] > 0
        assert "the device is not there" in daemon.told(), daemon.told()
        print(f"a glimpse of {picture.stat().st_size} bytes; all in {time.time() - begun:.0f} s", flush=True)
    except BaseException:
        print(daemon.told() if daemon else "", flush=True)
        raise
    finally:
        if daemon:
            daemon.close()
        pty.terminate()
    assert counts["a_to_b"]["most_in_10_s"] <= 10 * RATE, counts
    print(f"most bytes of the board in 1 s {counts['a_to_b']['most_in_1_s']}, in 10 s {counts['a_to_b']['most_in_10_s']}, at {RATE} bytes/s; {counts}", flush=True)


if __name__ == "__main__":
    run(check)
