"""Our own client over a bad line of pseudo-terminals, signed: 57,600 baud, 20 % loss, 5 % doubled, reordered, 2 s of round trip, noise, a minute of standstill, and a daemon and a
client that are killed, each with an answer under way: five questions, each answered once, equal to the journal's. Then the device is pulled out, and over a line that is as slow
but good a picture is fetched that is cut off and goes on; neither line ever carries more than its share."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent))
from link.daemon import ROOT, Daemon, keeps_to, run

RATE = 1_152
TUNNEL, ACCEPT, ANSWER, BLOB = 385, 1, 4, 5


class Line:
    """tools/lossy-serial, and what it says of the packets that go in."""

    def __init__(self, a, b, *rules):
        self.process = subprocess.Popen([sys.executable, str(ROOT / "tools/lossy-serial/lossy_serial.py"), "--a", a, "--b", b, "--tell", *rules], stdout=subprocess.PIPE, text=True)
        assert self.process.stdout.readline().strip() == "ready"
        self.said, self.counts, self.lock = [], None, threading.Condition()
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for line in self.process.stdout:
            with self.lock:
                if line.startswith("{"):
                    self.counts = json.loads(line)
                else:
                    self.said.append(tuple(line.split()))
                self.lock.notify_all()

    def fragments(self, kind, since=0, until=None):
        """Sessions of the board's fragments of this kind that went in."""
        with self.lock:
            return [line[3] for line in self.said[since:until] if line[:3] == ("a", str(TUNNEL), str(kind))]

    def wait(self, kind, since, seconds=120):
        """Until the board sends a fragment of this kind; `since`: packets of before."""
        end = time.time() + seconds
        while not self.fragments(kind, since):
            assert time.time() < end, f"no fragment of kind {kind} in {seconds} s"
            with self.lock:
                self.lock.wait(0.5)

    def end(self):
        self.process.terminate()
        self.process.wait(10)
        self.reader.join(10)
        return self.counts


def check(binary):
    a, b = f"/tmp/uhr-lossy-a-{os.getpid()}", f"/tmp/uhr-lossy-b-{os.getpid()}"
    begun = time.time()
    rules = "--loss 0.2 --duplicate 0.05 --reorder 0.1 --delay-ms 1000 --jitter-ms 100 --rate 5760 --noise 0.02 --seed 5 --pause 60"
    daemon, line = None, Line(a, b, *rules.split())
    try:
        daemon = Daemon(binary, [(f"serial:{a}:57600", True)])
        gcs = lambda *words: [binary, "--json", "--quiet", "gcs", words[0], *words[1:], "--link", f"serial:{b}:57600", "--key", str(daemon.key), "--state", str(daemon.folder / "state")]
        start = lambda *words: subprocess.Popen(gcs(*words), stdout=subprocess.PIPE, text=True)
        questions = [f"How many ships are there in part {at}?" for at in range(1, 6)]
        answers = []
        for at, question in enumerate(questions):
            asked, since = time.time(), len(line.said)
            client = start("ask", question)
            if at in (1, 2, 3):
                # A fragment of the answer is on its way: over there in a second at the earliest.
                line.wait(ANSWER, since)
                assert client.poll() is None, "the client had its answer already"
            if at == 1:
                # The daemon loses its power before anybody can have said that the answer is there.
                daemon.process.send_signal(signal.SIGKILL)
                daemon.process.wait()
                assert client.poll() is None
                daemon.start()
            elif at == 2:
                # The client loses its power, and asks again.
                client.kill()
                client.wait()
                client = start("ask", question)
            elif at == 3:
                # Nothing passes for a minute, and what was under way is lost.
                line.process.send_signal(signal.SIGUSR1)
                time.sleep(59)
                assert client.poll() is None, "an answer passed a line that stands still"
            elif at == 4:
                # The daemon loses its power while it works.
                line.wait(ACCEPT, since)
                assert client.poll() is None
                daemon.process.send_signal(signal.SIGKILL)
                daemon.process.wait()
                daemon.start()
            out, _ = client.communicate(timeout=280)
            assert client.returncode == 0, client.returncode
            answer = json.loads(out)
            answers.append(answer["id"])
            assert answer["text"] == daemon.answer(answer["id"]), answer
            print(f"{question!r}: {len(answer['text'].encode())} bytes, {answer['text']!r} after {time.time() - asked:.0f} s", flush=True)
        kept = daemon.questions()
        assert [entry["text"] for entry in reversed(kept)] == questions and len(set(answers)) == 5, "a question ran twice, or not"

        # The device is pulled out and put in again: both ends find it.
        rough = line.end()
        time.sleep(2)
        line = Line(a, b, "--rate", "5760", "--delay-ms", "100")
        status = subprocess.run(gcs("status"), check=True, timeout=60, stdout=subprocess.PIPE).stdout
        assert json.loads(status)["questions"]["places"] > 0
        assert "the device is not there" in daemon.told(), daemon.told()
        glimpse = daemon.folder / "glimpse.jpg"
        subprocess.run([*gcs("fetch", str(answers[0]), "glimpse"), "--out", str(glimpse)], check=True, timeout=200, stdout=subprocess.PIPE)
        assert glimpse.read_bytes()[:2] == b"\xff\xd8" and glimpse.stat().st_size <= 2_048

        # The picture is cut off when a piece of it is there, and goes on from that piece.
        picture, since = daemon.folder / "evidence.jpg", len(line.said)
        part = picture.with_name("evidence.jpg.part")
        client = start("fetch", str(answers[0]), "evidence", "--out", str(picture))
        end = time.time() + 120
        while not part.exists() or part.stat().st_size <= 8:
            assert time.time() < end and client.poll() is None, "no piece of the picture came"
            time.sleep(0.05)
        time.sleep(2)
        assert client.poll() is None, "the picture was there before it could be cut off"
        client.kill()
        client.wait()
        there, cut = part.stat().st_size - 8, line.fragments(BLOB, since)
        assert not picture.exists()
        since = len(line.said)
        subprocess.run([*gcs("fetch", str(answers[0]), "evidence"), "--out", str(picture)], check=True, timeout=200, stdout=subprocess.PIPE)
        # Of the client that went on, without what still came for the one that was cut off.
        bytes_, again = picture.stat().st_size, len([session for session in line.fragments(BLOB, since) if session not in cut])
        assert not part.exists() and Image.open(io.BytesIO(picture.read_bytes())).size[0] > 0
        assert again < (bytes_ - there) / 112 + 10 < bytes_ / 112 + 1, (again, bytes_, there)
        print(f"a glimpse of {glimpse.stat().st_size} bytes; a picture of {bytes_}, cut off with {there} there after {len(cut)} fragments, whole after {again} more", flush=True)
        calm = line.end()
        for counts in (rough, calm):
            print(counts, flush=True)
            keeps_to(RATE, counts, "a_to_b")
            keeps_to(RATE, counts, "b_to_a")
        # The board had more to send than the line took.
        assert calm["a_to_b"]["most_in_10_s"] >= 6 * RATE, calm
        print(f"all in {time.time() - begun:.0f} s", flush=True)
    except BaseException:
        print(daemon.told() if daemon else "", flush=True)
        raise
    finally:
        if daemon:
            daemon.close()
        line.end()


if __name__ == "__main__":
    run(check)
