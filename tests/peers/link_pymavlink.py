"""pymavlink over a pseudo-terminal, signed: asks by command and in words, changes a parameter, sees progress, fetches a picture by FTP."""

import hashlib
import io
import os
import subprocess
import sys
import time
from pathlib import Path

os.environ["MAVLINK20"] = "1"
from PIL import Image
from pymavlink import mavftp, mavutil

sys.path.insert(0, str(Path(__file__).resolve().parent))
from link.daemon import PASSPHRASE, PRESETS, ROOT, Daemon, free_port, run

ACCEPTED, IN_PROGRESS = 0, 5


class Texts:
    """Puts STATUSTEXT chunks together, as any receiver does."""

    def __init__(self):
        self.parts = {}

    def take(self, message):
        text = message.text if isinstance(message.text, str) else message.text.decode()
        if message.id == 0:
            return text
        parts = self.parts.setdefault(message.id, {})
        parts[message.chunk_seq] = text
        last = max(parts)
        if len(parts[last].encode()) < 50 and sorted(parts) == list(range(last + 1)):
            return "".join(parts[at] for at in sorted(parts))
        return None


def await_text(link, begins, seconds=60, watch=None):
    texts, end = Texts(), time.time() + seconds
    while time.time() < end:
        message = link.recv_match(blocking=True, timeout=1)
        if message is None:
            continue
        if watch:
            watch(message)
        if message.get_type() == "STATUSTEXT" and message.get_srcComponent() == 191:
            text = texts.take(message)
            if text and begins(text):
                return text
    raise AssertionError("no such text came")


def ask_preset(link, preset, nonce):
    """The answer, its number, and the percentages and results that were acknowledged on the way."""
    acks = []

    def watch(message):
        if message.get_type() == "COMMAND_ACK" and message.command == 31010:
            acks.append((message.result, message.progress))

    link.mav.command_long_send(1, 191, 31010, 0, preset, nonce, 0, 0, 0, 0, 0)
    text = await_text(link, lambda text: text.startswith("uhr ") and ": " in text, watch=watch)
    end = time.time() + 10
    while not any(result == ACCEPTED for result, _ in acks) and time.time() < end:
        message = link.recv_match(type="COMMAND_ACK", blocking=True, timeout=1)
        if message:
            watch(message)
    head, answer = text.split(": ", 1)
    return int(head.split()[1]), answer.rstrip(" "), acks


def check(binary):
    pty = subprocess.Popen([sys.executable, str(ROOT / "tools/lossy-serial/lossy_serial.py"), "--a", f"/tmp/uhr-a-{os.getpid()}", "--b", f"/tmp/uhr-b-{os.getpid()}", "--rate", "5760"], stdout=subprocess.PIPE, text=True)
    assert pty.stdout.readline().strip() == "ready"
    port = free_port()
    daemon = Daemon(binary, [(f"serial:/tmp/uhr-a-{os.getpid()}:57600", True), (f"udp:127.0.0.1:{port}", True)])
    try:
        link = mavutil.mavlink_connection(f"/tmp/uhr-b-{os.getpid()}", baud=57600, source_system=255, source_component=190, dialect="common")
        # Without the key nothing is answered.
        link.mav.command_long_send(1, 191, 31010, 0, 1, 1, 0, 0, 0, 0, 0)
        time.sleep(2)
        assert not daemon.questions(), "an unsigned question was taken"
        link.setup_signing(hashlib.sha256(PASSPHRASE.encode()).digest(), sign_outgoing=True, link_id=3)
        beat = link.recv_match(type="HEARTBEAT", condition="HEARTBEAT.type == 18", blocking=True, timeout=10)
        assert beat and beat.get_srcComponent() == 191 and beat.autopilot == 8 and beat.get_signed(), beat

        number, answer, acks = ask_preset(link, 1, 77)
        assert answer == daemon.answer(number), (answer, daemon.answer(number))
        assert acks[0] == (IN_PROGRESS, 0) and acks[-1][0] == ACCEPTED, acks
        assert daemon.questions()[0]["text"] == PRESETS[0]
        again, same, _ = ask_preset(link, 1, 77)
        assert (again, same) == (number, answer) and len(daemon.questions()) == 1, "the same command ran twice"
        print(f"command: answer {number}: {answer!r}, acknowledged {acks}", flush=True)

        def set_words(part):
            link.mav.param_ext_set_send(1, 191, b"UHR_ASK", part.encode(), 11)
            ack = link.recv_match(type="PARAM_EXT_ACK", blocking=True, timeout=10)
            assert ack and ack.param_result == ACCEPTED, ack

        set_words("Is there a \\")
        set_words("runway in this frame?")
        text = await_text(link, lambda text: text.startswith("uhr ") and "accepted" not in text and "%" not in text and "queued" not in text)
        number = int(text.split(": ", 1)[0].split()[1])
        assert text.split(": ", 1)[1].rstrip(" ") == daemon.answer(number)
        assert daemon.questions()[0]["text"] == "Is there a runway in this frame?"
        print(f"words: answer {number}: {text!r}", flush=True)

        # In chunks of STATUSTEXT, longer than one.
        words = "uhr: How many vehicles are there in the upper half of this frame, and are they parked?"
        chunks = [words[at:at + 50] for at in range(0, len(words), 50)]
        for at, chunk in enumerate(chunks):
            link.mav.statustext_send(6, chunk.encode(), 9, at)
        text = await_text(link, lambda text: text.startswith("uhr ") and "accepted" not in text and "%" not in text and "queued" not in text)
        number = int(text.split(": ", 1)[0].split()[1])
        assert daemon.questions()[0]["text"] == words[5:] and text.split(": ", 1)[1].rstrip(" ") == daemon.answer(number)

        link.mav.param_request_list_send(1, 191)
        names = set()
        while len(names) < 5:
            value = link.recv_match(type="PARAM_VALUE", blocking=True, timeout=10)
            assert value, names
            names.add(value.param_id)
        link.mav.param_set_send(1, 191, b"UHR_TOKBUD", 600, 9)
        value = link.recv_match(type="PARAM_VALUE", condition="PARAM_VALUE.param_id == 'UHR_TOKBUD'", blocking=True, timeout=10)
        assert value and value.param_value == 600
        last, _, _ = ask_preset(link, 2, 78)
        assert daemon.get(f"/api/answers/{last}")["receipt"]["budget"]["total"] == 600
        print(f"parameters: {sorted(names)}; with UHR_TOKBUD = 600 the answer's budget is 600", flush=True)

        files = mavftp.MAVFTP(link, 1, 191)
        local = daemon.folder / "evidence.jpg"
        begun = time.time()
        files.cmd_get([f"/answers/{last}/evidence.jpg", str(local)])
        done = files.process_ftp_reply("OpenFileRO", timeout=120)
        assert done.error_code == 0, done.error_code
        fetched = local.read_bytes()
        reference = daemon.folder / "reference.jpg"
        subprocess.run([binary, "gcs", "fetch", "--link", f"udp:127.0.0.1:{port}", "--key", str(daemon.key), "--state", str(daemon.folder), str(last), "evidence", "--out", str(reference)], check=True, timeout=60, stdout=subprocess.PIPE)
        digest = hashlib.sha256(fetched).hexdigest()
        assert digest == hashlib.sha256(reference.read_bytes()).hexdigest()
        picture = Image.open(io.BytesIO(fetched))
        picture.load()
        print(f"FTP: {len(fetched)} bytes in {time.time() - begun:.1f} s, {picture.size}, sha256 {digest[:16]}", flush=True)
    except BaseException:
        print(daemon.told(), flush=True)
        raise
    finally:
        daemon.close()
        pty.terminate()
        print(pty.communicate(timeout=10)[0].strip(), flush=True)


if __name__ == "__main__":
    run(check)
