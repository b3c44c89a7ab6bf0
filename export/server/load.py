"""A crowd in front of the server, a tenth of it up to no good: is everybody answered, and rightly?

    python load.py ARTIFACT --out record.json

Starts the server itself, on a free port of this machine, and measures the same file in a bare
loop of onnxruntime first. Exits with 1 where an answer was wrong or missing, or the server died.
"""

import locust.env  # isort: skip - replaces sockets by gevent's, before anybody else takes them

import argparse
import importlib.metadata
import io
import json
import os
import platform
import random
import signal
import socket
import struct
import subprocess
import sys
import time
import urllib.request
import zlib
from collections import Counter
from pathlib import Path

import gevent
import numpy as np
from locust import FastHttpUser, constant, task
from locust.exception import StopUser
from model import open_model
from PIL import Image

APP = Path(__file__).with_name("app.py")
PACKAGES = ("onnxruntime", "fastapi", "uvicorn", "starlette", "pillow", "numpy", "locust")
BAD = {"empty": 400, "truncated": 400, "text": 400, "bomb": 400, "200 MB": 413}
BARE_SECONDS = 5
CALM_SECONDS = 10


class Large(io.BytesIO):
    """A body that the client sends in pieces; one of bytes it would copy whole, and stand still."""

    def __len__(self) -> int:
        return self.getbuffer().nbytes

    def read(self, size: int | None = -1) -> bytes:
        """Return a million bytes, whatever is asked for."""
        return super().read(1 << 20)


def form(*contents: bytes) -> bytes:
    """Return files as the body of a form."""
    head = '--frontier\r\nContent-Disposition: form-data; name="file"; filename="photo.png"\r\n\r\n'
    parts = [head.encode() + content + b"\r\n" for content in contents]
    return b"".join(parts) + b"--frontier--\r\n"


def png(pixels: np.ndarray) -> bytes:
    """Return pixels (height, width, channels) as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(file, "PNG")
    return file.getvalue()


def bomb(side: int = 30_000) -> bytes:
    """Return a sound PNG of about 100 kB that decodes to 900 million pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    rows = zlib.compress(bytes((1 + (side + 7) // 8) * side), 9)
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*pair) for pair in chunks)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return probabilities."""
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def bare(artifact: str, images: np.ndarray, batch: int) -> float:
    """Return the images per second of a loop around the network alone."""
    model = open_model(artifact, len(os.sched_getaffinity(0)))
    model.run(images[:batch])
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < BARE_SECONDS:
        model.run(images[:batch])
        done += batch
    return round(done / (time.perf_counter() - start), 1)


def make_client(
    artifact: str, bad_share: float, seconds: float
) -> tuple[type[FastHttpUser], Counter, Counter]:
    """Return a client that checks each answer, and its counts of requests sent and of failures.

    It goes home by itself after its last answer: one that locust stops may be cut off.
    """
    reference = np.load(Path(artifact, "reference.npz"))
    images, scores = reference["images"], softmax(reference["logits"])
    labels = json.loads(Path(artifact, "manifest.json").read_bytes())["labels"]
    files = [png(image) for image in images]
    good = [form(file) for file in files]
    bad = {
        "empty": form(b""),
        "truncated": form(files[0][: len(files[0]) // 2]),
        "text": form(b"Not a photo. " * 100),
        "bomb": form(bomb()),
        "200 MB": form(bytes(200_000_000)),
    }
    sent: Counter = Counter()
    wrong: Counter = Counter()
    end = time.monotonic() + seconds

    class Client(FastHttpUser):
        wait_time = constant(0)
        connection_timeout = network_timeout = 120

        @task
        def predict(self) -> None:
            if time.monotonic() > end:
                raise StopUser
            is_bad = random.random() < bad_share
            number = random.randrange(len(good))
            kind = random.choice(list(bad)) if is_bad else "good"
            body = bad[kind] if is_bad else good[number]
            sent[kind] += 1
            with self.client.post(
                "/predict?top=1",
                data=Large(body) if kind == "200 MB" else body,
                headers={"Content-Type": "multipart/form-data; boundary=frontier"},
                name=kind,
                catch_response=True,
            ) as response:
                if response.status_code != BAD.get(kind, 200):
                    why = f"status {response.status_code} {response.error or ''}"
                elif is_bad:
                    why = "" if response.json().get("detail") else "no sentence"
                else:
                    (prediction,) = response.json()["predictions"]
                    (best,) = prediction["top"]
                    wanted = scores[number]
                    # Of classes that are as good as equal each may come first.
                    winners = {labels[i] for i in np.flatnonzero(wanted > wanted.max() - 1e-3)}
                    right = abs(best["score"] - wanted.max()) < 1e-3 and best["label"] in winners
                    why = "" if right else f"image {number}: {prediction}"
                if why:
                    wrong[f"{kind}: {why}"] += 1
                    response.failure(why)
                else:
                    response.success()

    return Client, sent, wrong


def attack(client: type[FastHttpUser], port: int, clients: int) -> dict:
    """Let the clients loose until all have gone home; return what locust saw."""
    env = locust.env.Environment(user_classes=[client], host=f"http://127.0.0.1:{port}")
    runner = env.create_local_runner()
    start = time.perf_counter()
    runner.start(clients, spawn_rate=clients)
    gevent.sleep(2)
    while runner.user_count:
        gevent.sleep(0.1)
    rate = env.stats.get("good", "POST").num_requests / (time.perf_counter() - start)
    runner.quit()
    entries = env.stats.entries.values()
    milliseconds = {
        e.name: {"median": e.median_response_time, "p99": e.get_response_time_percentile(0.99)}
        for e in entries
    }
    return {
        "good_images_per_second": round(rate, 1),
        "answered": {e.name: e.num_requests for e in entries},
        "milliseconds": milliseconds,
    }


def main() -> int:
    """Run it all; print and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("artifact", metavar="ARTIFACT")
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--bad", type=float, default=0.1, help="share of bad uploads")
    parser.add_argument("--out", type=Path)
    arguments, server_flags = parser.parse_known_args()
    artifact = arguments.artifact
    images = np.load(Path(artifact, "reference.npz"))["images"]
    load_before = os.getloadavg()
    loops = {f"batch {n}": [bare(artifact, images, n)] for n in (1, 16)}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(APP), artifact, "--port", str(port), *server_flags]
    server = subprocess.Popen(command)
    address = f"http://127.0.0.1:{port}"
    while True:
        try:
            health = json.load(urllib.request.urlopen(f"{address}/health"))
            break
        except OSError:
            if server.poll() is not None:
                return 1
            time.sleep(0.2)
    try:
        client, sent, wrong = make_client(artifact, 0, CALM_SECONDS)
        calm = attack(client, port, arguments.clients)
        client, sent, wrong = make_client(artifact, arguments.bad, arguments.seconds)
        found = attack(client, port, arguments.clients)
        alive = server.poll() is None
        status = Path(f"/proc/{server.pid}/status")
        peak = [x.split()[1] for x in status.read_text().splitlines() if x.startswith("VmHWM")]
    finally:
        server.send_signal(signal.SIGTERM)
        code = server.wait(60)
    # Again, for on a machine with others on it the same loop differs from minute to minute.
    for size, rates in zip((1, 16), loops.values(), strict=True):
        rates.append(bare(artifact, images, size))
    unanswered = sum(sent.values()) - sum(found["answered"].values())
    record = {
        "command": f"python export/server/load.py ARTIFACT {' '.join(sys.argv[2:])}",
        "machine": f"{len(os.sched_getaffinity(0))} cores, {platform.machine()}, shared by server, "
        "clients and whatever else ran (see load_average)",
        "load_average": {"before": load_before, "after": os.getloadavg()},
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "model": health["model"],
        "clients": arguments.clients,
        "seconds": arguments.seconds,
        "bare_onnxruntime_images_per_second_before_and_after": loops,
        "good_images_per_second_without_bad_uploads": calm["good_images_per_second"],
        **found,
        "unanswered": unanswered,
        "wrong": dict(wrong),
        "server": {
            "alive_at_the_end": alive,
            "peak_memory_mb": round(int(peak[0]) / 1024) if peak else None,
            "exit_after_sigterm": code,
        },
    }
    text = json.dumps(record, indent=1)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf-8")
    return int(bool(wrong or unanswered or not alive))


if __name__ == "__main__":
    sys.exit(main())
