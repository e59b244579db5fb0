"""Our own client over UDP, signed, as a person uses it: settings, lists, and the prompt with its history, in a pseudo-terminal that is typed into."""

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from link.daemon import Daemon, free_port, run

UP = "\x1b[A"


class Shell:
    """`gcs shell`, typed into."""

    def __init__(self, command):
        self.process, self.said = None, ""
        master, slave = pty.openpty()
        self.master = master
        self.process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=os.environ | {"TERM": "xterm", "COLUMNS": "200"})
        os.close(slave)

    def wait(self, pattern, seconds=60):
        """Until `pattern` is said; what is before it is not looked at again."""
        end = time.time() + seconds
        while True:
            # What moves the cursor or colours is no text.
            text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.said)
            if found := re.search(pattern, text):
                self.said = text[found.end():]
                return found
            assert time.time() < end and self.process.poll() is None, f"{pattern} never came: {text!r}"
            if select.select([self.master], [], [], 0.2)[0]:
                self.said += os.read(self.master, 4096).decode(errors="replace")

    def type(self, text):
        os.write(self.master, text.encode())

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
        os.close(self.master)


def check(binary):
    port = free_port()
    daemon, shell = Daemon(binary, [(f"udp:127.0.0.1:{port}", True)]), None
    try:
        line = ["--link", f"udp:127.0.0.1:{port}", "--key", str(daemon.key), "--state", str(daemon.folder / "state")]

        def gcs(*words, code=0):
            done = subprocess.run([binary, "--json", "gcs", *words, *line], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=120)
            assert done.returncode == code, (words, done.returncode, done.stderr)
            return [json.loads(line) for line in done.stdout.splitlines()], done.stderr

        [settings], _ = gcs("param")
        assert settings["UHR_TOKBUD"] == 0 and len(settings) == 5, settings
        [settings], _ = gcs("param", "UHR_TOKBUD=600")
        assert settings["UHR_TOKBUD"] == 600, settings
        [answer], _ = gcs("ask", "How many ships are there?")
        assert answer["budget"] == 600 and answer["text"] == daemon.answer(answer["id"]), answer
        # Out of its range, and one that there is none of: refused in words, and nothing is changed.
        for wrong in ("UHR_TOKBUD=-1", "UHR_NOTHING=1"):
            _, err = gcs("param", wrong, code=2)
            assert "UHR_TOKBUD" in err, err
        [settings], _ = gcs("param")
        assert settings["UHR_TOKBUD"] == 600, settings
        frames, _ = gcs("frames")
        assert [frame["id"] for frame in frames] == [frame["id"] for frame in daemon.get("/api/frames")["frames"]]
        listed, _ = gcs("answers")
        assert [(entry["id"], entry["answer"]) for entry in listed] == [(answer["id"], answer["text"])]
        print(f"settings, lists: {settings}, {listed}", flush=True)

        shell = Shell([binary, "gcs", "shell", *line])
        shell.wait("uhr: ")
        shell.type("/param UHR_TOKBUD=1500\r")
        shell.wait("UHR_TOKBUD = 1500")
        shell.wait("uhr: ")
        shell.type("Is there a runway?\r")
        found = shell.wait(r"answer (\d+): (stop|length)")
        kept = daemon.get(f"/api/answers/{found[1]}")
        assert daemon.questions()[0]["text"] == "Is there a runway?" and kept["receipt"]["budget"]["total"] == 1500, kept["receipt"]["budget"]
        shell.wait("uhr: ")
        # The line before, from the history: asked anew, since it has its answer.
        shell.type(UP + "\r")
        again = shell.wait(r"answer (\d+): (stop|length)")
        assert again[1] != found[1] and [entry["text"] for entry in daemon.questions()][:2] == ["Is there a runway?"] * 2
        shell.wait("uhr: ")
        shell.type("/answers\r")
        shell.wait("Is there a runway\\?: ")
        shell.wait("uhr: ")
        shell.type("/nothing\r")
        shell.wait("found /nothing")
        shell.type("/quit\r")
        shell.process.wait(20)
        shell.end()
        # The history outlives the prompt: three lines back is the question.
        shell = Shell([binary, "gcs", "shell", *line])
        shell.wait("uhr: ")
        for _ in range(4):
            shell.type(UP)
            time.sleep(0.2)
        shell.wait("Is there a runway\\?")
        shell.type("\r")
        last = shell.wait(r"answer (\d+): (stop|length)")
        assert last[1] != again[1] and daemon.questions()[0]["text"] == "Is there a runway?"
        shell.wait("uhr: ")
        shell.type("/quit\r")
        assert shell.process.wait(20) == 0
        print(f"prompt: answers {found[1]}, {again[1]} by its history and {last[1]} by that of the prompt before", flush=True)
    except BaseException:
        print(daemon.told(), flush=True)
        raise
    finally:
        if shell:
            shell.end()
        daemon.close()


if __name__ == "__main__":
    run(check)
