"""Beside an autopilot (pymavlink plays it): its system id is learnt once, a frame without a place gets the vehicle's with the time error said, and what is for the autopilot is left to it."""

import os
import shutil
import sys
import time
from pathlib import Path

os.environ["MAVLINK20"] = "1"
from pymavlink import mavutil

sys.path.insert(0, str(Path(__file__).resolve().parent))
from link.daemon import ROOT, Daemon, free_port, run

SYSTEM = 42


def check(binary):
    port = free_port()
    daemon = Daemon(binary, [(f"udp:127.0.0.1:{port}", False)])
    try:
        link = mavutil.mavlink_connection(f"udpin:127.0.0.1:{port}", source_system=SYSTEM, source_component=1)
        first = link.recv_match(type="HEARTBEAT", blocking=True, timeout=10)
        assert (first.get_srcSystem(), first.get_srcComponent()) == (1, 191), first
        heard, begun, sent_at, copied = [], time.time(), 0.0, False
        place = None
        while time.time() - begun < 60 and place is None:
            now = time.time()
            if now - sent_at > 0.2:
                sent_at = now
                boot = int((now - begun) * 1e3)
                link.mav.heartbeat_send(2, 3, 0, 0, 4)
                link.mav.global_position_int_send(boot, 473_977_420, 85_455_940, 488_000, 80_000, 0, 0, 0, 9_000)
                link.mav.attitude_send(boot, 0.0, 0.0, 1.5707963, 0, 0, 0)
                # For the autopilot itself, and for all: neither is ours to answer.
                link.mav.command_long_send(SYSTEM, 1, 400, 0, 1, 0, 0, 0, 0, 0, 0)
                link.mav.command_long_send(SYSTEM, 0, 400, 0, 1, 0, 0, 0, 0, 0, 0)
            if not copied and now - begun > 2:
                copied = True
                shutil.copy(ROOT / "samples/real.jpg", daemon.folder / "capture")
            message = link.recv_match(blocking=True, timeout=0.05)
            if message is not None:
                heard.append((message.get_type(), message.get_srcSystem()))
            if copied and int(now * 5) % 5 == 0:
                places = [frame for frame in daemon.get("/api/frames")["frames"] if frame["path"].endswith("real.jpg")]
                place = places[0]["geotag"] if places else None
        assert place, "the frame has no place"
        assert place["source"] == "autopilot" and 0 < place["time_error_ms"] <= 10_000, place
        assert abs(place["position"][0] - 47.397742) < 1e-6 and abs(place["position"][1] - 8.545594) < 1e-6, place
        assert abs(place["flight_yaw"] - 90) < 0.01 and place["relative_altitude_m"] == 80, place
        assert heard[-1][1] == SYSTEM and not any(kind == "COMMAND_ACK" for kind, _ in heard), heard[-20:]
        # Another autopilot doesn't move us any more.
        link.mav.srcSystem = 43
        for _ in range(10):
            link.mav.heartbeat_send(2, 3, 0, 0, 4)
            time.sleep(0.1)
        end, last = time.time() + 3, None
        while time.time() < end:
            last = link.recv_match(type="HEARTBEAT", blocking=True, timeout=1) or last
        assert last.get_srcSystem() == SYSTEM, last
        print(f"system {SYSTEM} learnt; the frame's place: {place}", flush=True)
    except BaseException:
        print(daemon.told(), flush=True)
        raise
    finally:
        daemon.close()


if __name__ == "__main__":
    run(check)
