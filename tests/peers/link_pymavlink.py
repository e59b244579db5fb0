"""pymavlink over a pseudo-terminal, signed: asks by command and in words, changes a parameter, sees progress, fetches the picture, the document and the component metadata by
FTP; and what it sent, played back to a daemon that starts anew on the same journal, changes nothing."""

import hashlib
import io
import json
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

os.environ["MAVLINK20"] = "1"
from PIL import Image
from pymavlink import mavftp, mavutil

sys.path.insert(0, str(Path(__file__).resolve().parent))
from link.daemon import PASSPHRASE, PRESETS, ROOT, Daemon, free_port, run

ACCEPTED, IN_PROGRESS = 0, 5
USER_1, REQUEST_MESSAGE, COMPONENT_METADATA = 31010, 512, 397


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


def ask_preset(link, preset, nonce, frame=0, seconds=60):
    """The answer, its number, and the percentages and results that were acknowledged on the way."""
    acks = []

    def watch(message):
        if message.get_type() == "COMMAND_ACK" and message.command == 31010:
            acks.append((message.result, message.progress))

    link.mav.command_long_send(1, 191, 31010, 0, preset, nonce, frame, 0, 0, 0, 0)
    text = await_text(link, lambda text: text.startswith("uhr ") and ": " in text, seconds, watch)
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
    daemon = Daemon(binary, [(f"serial:/tmp/uhr-a-{os.getpid()}:57600", True), (f"udp:127.0.0.1:{port}", True, "bytes-per-s = 1152")])
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
        # Taken, how far it is, done.
        assert acks[0] == (IN_PROGRESS, 0) and acks[-1] == (ACCEPTED, 100), acks
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

        def get(path):
            local = daemon.folder / "fetched"
            local.unlink(missing_ok=True)
            files.cmd_get([path, str(local)])
            done = files.process_ftp_reply("OpenFileRO", timeout=120)
            assert done.error_code == 0, (path, done.error_code)
            return local.read_bytes()

        assert json.loads(get(f"/answers/{last}/answer.json")) == daemon.get(f"/api/answers/{last}"), "the document is not HTTP's"
        begun = time.time()
        fetched = get(f"/answers/{last}/evidence.jpg")
        spent = time.time() - begun
        picture = Image.open(io.BytesIO(fetched))
        picture.load()

        # Component metadata: what it is called, then what it says.
        link.mav.command_long_send(1, 191, REQUEST_MESSAGE, 0, COMPONENT_METADATA, 0, 0, 0, 0, 0, 0)
        # Which pymavlink 2.4.50 doesn't know: time, checksum, where.
        about = link.recv_match(type=f"UNKNOWN_{COMPONENT_METADATA}", blocking=True, timeout=10)
        file_crc, uri = struct.unpack("<4xI", about.data[10:18])[0], bytes(about.data[18:18 + 100])
        assert uri.startswith(b"mftp:///general.json"), uri
        checksum = lambda data: zlib.crc32(data, 0xFFFFFFFF) ^ 0xFFFFFFFF
        general = get("/general.json")
        assert checksum(general) == file_crc
        kind, = [kind for kind in json.loads(general)["metadataTypes"] if kind["type"] == 1]
        described = get(kind["uri"].removeprefix("mftp://"))
        assert checksum(described) == kind["fileCrc"]
        assert {entry["name"] for entry in json.loads(described)["parameters"]} == names
        print(f"metadata: {len(names)} parameters described in {len(described)} bytes", flush=True)

        # How far it is, where that takes a while: a frame that is taken in for the question.
        _, _, acks = ask_preset(link, 1, 90, daemon.long_question(), 180)
        percents = [percent for result, percent in acks[:-1]]
        assert all(result == IN_PROGRESS for result, _ in acks[:-1]) and percents == sorted(percents) and acks[-1] == (ACCEPTED, 100), acks
        assert any(0 < percent < 100 for percent in percents), f"no progress: {acks}"
        print(f"progress: {acks}", flush=True)

        # A session, recorded; what it sets is set to something else after it.
        recorded, send = [], link.write

        def record(data):
            recorded.append(bytes(data))
            send(data)

        def budget_is(value):
            found = link.recv_match(type="PARAM_VALUE", condition="PARAM_VALUE.param_id == 'UHR_TOKBUD'", blocking=True, timeout=2)
            return found is not None and found.param_value == value

        link.write = record
        link.mav.param_set_send(1, 191, b"UHR_TOKBUD", 500, 9)
        assert budget_is(500)
        ask_preset(link, 1, 99)
        set_words("Is there a road?")
        await_text(link, lambda text: text.startswith("uhr ") and "accepted" not in text and "%" not in text and "queued" not in text)
        assert len(recorded) >= 3
        link.write = send
        link.mav.param_set_send(1, 191, b"UHR_TOKBUD", 700, 9)
        assert budget_is(700)
        asked = len(daemon.questions())

        def play():
            for data in recorded:
                link.write(data)
            # Until something new is heard, so that all of it was looked at; after a start that may take 5 s.
            end = time.time() + 30
            link.mav.param_request_read_send(1, 191, b"UHR_TOKBUD", -1)
            while not budget_is(700):
                assert time.time() < end, "the setting is another, or nothing is heard"
                link.mav.param_request_read_send(1, 191, b"UHR_TOKBUD", -1)
            time.sleep(1)
            assert len(daemon.questions()) == asked, "a recorded question was asked again"

        play()
        daemon.process.send_signal(signal.SIGTERM)
        daemon.process.wait(30)
        daemon.start()
        play()
        print(f"{len(recorded)} recorded packets changed nothing, before and after a start on the same journal", flush=True)

        # This daemon has drawn nothing yet: the picture is drawn anew, and goes another way.
        reference = daemon.folder / "reference.jpg"
        subprocess.run([binary, "gcs", "fetch", "--link", f"udp:127.0.0.1:{port}", "--key", str(daemon.key), "--state", str(daemon.folder), str(last), "evidence", "--out", str(reference)], check=True, timeout=60, stdout=subprocess.PIPE)
        digest = hashlib.sha256(fetched).hexdigest()
        assert digest == hashlib.sha256(reference.read_bytes()).hexdigest()
        print(f"FTP: {len(fetched)} bytes in {spent:.1f} s, {picture.size}, sha256 {digest[:16]}", flush=True)
    except BaseException:
        print(daemon.told(), flush=True)
        raise
    finally:
        daemon.close()
        pty.terminate()
        print(pty.communicate(timeout=10)[0].strip(), flush=True)


if __name__ == "__main__":
    run(check)
