"""The server of export/server: pixels as predict's, every refusal a sentence, no request lost."""

import asyncio
import base64
import configparser
import contextlib
import dataclasses
import hashlib
import http.client
import importlib.util
import io
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from keras_cnns import data
from keras_cnns.export import Reference, export, synthetic_images
from keras_cnns.predict import open_classifier, predict

SERVER = Path(__file__).parents[2] / "export" / "server"
LABELS = [f"class {i}" for i in range(10)]


def needs(*modules: str) -> pytest.MarkDecorator:
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    how = "pip install -r export/server/requirements.txt; its README says what else"
    return pytest.mark.skipif(bool(missing), reason=f"no {', '.join(missing)}: {how}")


needs_server = needs("fastapi", "uvicorn", "httptools", "multipart", "prometheus_client")


def load(name: str):
    spec = importlib.util.spec_from_file_location(f"server_{name}", SERVER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


pixels = load("pixels")
Batcher = load("batching").Batcher
open_model = load("model").open_model


def encoded(image: Image.Image, format: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def photo(width: int = 90, height: int = 70, mode: str = "RGB") -> Image.Image:
    """Something smooth with edges in it, different in every corner and channel."""
    y, x = np.mgrid[0:height, 0:width]
    bands = [127 + 120 * np.sin(x / (7 + 3 * i) + y / (11 - 2 * i)) for i in range(3)]
    image = np.stack(bands, -1).astype(np.uint8)
    image[: height // 3, : width // 4] = 250
    rgb = Image.fromarray(image)
    if mode == "RGBA":
        rgb.putalpha(Image.fromarray((x * 255 // width).astype(np.uint8)))
    return rgb if mode in ("RGB", "RGBA") else rgb.convert(mode)


def sixteen_bits() -> Image.Image:
    return Image.fromarray(np.linspace(0, 65535, 90 * 70).reshape(70, 90).astype(np.uint16))


def bomb(side: int = 30_000) -> bytes:
    """A sound PNG of about 100 kB, of 900 million pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    rows = zlib.compress(bytes((1 + (side + 7) // 8) * side))
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", rows), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*pair) for pair in chunks)


IMAGES = {
    "photo.jpg": encoded(photo(), "JPEG", quality=90),
    "tall.png": encoded(photo(41, 97)),
    "small.png": encoded(photo(9, 14)),
    "exact.png": encoded(photo(32, 32)),
    "grey.png": encoded(photo(mode="L")),
    "grey.jpg": encoded(photo(mode="L"), "JPEG"),
    "bits.png": encoded(photo(mode="1")),
    "palette.png": encoded(photo().quantize(64)),
    "clear_palette.png": encoded(photo().quantize(64), transparency=3),
    "alpha.png": encoded(photo(mode="RGBA")),
    "grey_alpha.png": encoded(photo(mode="LA")),
    "sixteen_bits.png": encoded(sixteen_bits()),
    "cmyk.jpg": encoded(photo(mode="CMYK"), "JPEG", quality=95),
    "one.gif": encoded(photo().quantize(32), "GIF"),
    "animated.gif": encoded(
        photo().quantize(32), "GIF", save_all=True, append_images=[photo(mode="L")]
    ),
    "photo.bmp": encoded(photo(), "BMP"),
    "photo.webp": encoded(photo(), "WEBP", lossless=True),
}


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("name", IMAGES)
def test_pixels_are_those_of_predict(name, channels, tmp_path):
    (tmp_path / name).write_bytes(IMAGES[name])
    theirs = data.read_image(tmp_path / name, (32, 32, channels))
    ours = pixels.read_pixels(io.BytesIO(IMAGES[name]), (32, 32, channels), 10**6)
    assert ours.dtype == np.uint8
    assert ours.shape == (32, 32, channels)
    # Grey from colour is one rounding more.
    assert np.abs(ours.astype(int) - theirs).max() <= (2 if name == "cmyk.jpg" else 1)


def test_pixels_of_an_oblong_input(tmp_path):
    (tmp_path / "a.png").write_bytes(IMAGES["tall.png"])
    theirs = data.read_image(tmp_path / "a.png", (24, 40, 3))
    ours = pixels.read_pixels(io.BytesIO(IMAGES["tall.png"]), (24, 40, 3), 10**6)
    assert np.abs(ours.astype(int) - theirs).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_turned_upright(orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = encoded(photo(), exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(turned)))
    ours = pixels.read_pixels(io.BytesIO(turned), (32, 32, 3), 10**6)
    assert np.array_equal(ours, pixels.fit(upright, (32, 32, 3)))
    (tmp_path / "turned.jpg").write_bytes(turned)
    theirs = data.read_image(tmp_path / "turned.jpg", (32, 32, 3))
    assert np.abs(ours.astype(int) - theirs).max() <= 1


def test_damaged_metadata_is_no_reason_to_refuse():
    content = encoded(photo(), exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + bytes(9))
    ours = pixels.read_pixels(io.BytesIO(content), (32, 32, 3), 10**6)
    assert np.array_equal(ours, pixels.fit(photo(), (32, 32, 3)))


def test_a_line_of_pixels_is_not_enlarged_beyond_the_cut():
    line = encoded(Image.new("L", (1_000_000, 1), 77))
    assert (pixels.read_pixels(io.BytesIO(line), (224, 224, 3), 10**7) == 77).all()


BAD = {
    "empty.png": (b"", "it is empty"),
    "text.txt": (b"Not a photo. " * 100, "it is not a JPEG, PNG, GIF, BMP or WebP image"),
    "truncated.jpg": (IMAGES["photo.jpg"][:900], "it is damaged (image file is truncated"),
    "truncated.png": (IMAGES["tall.png"][:2000], "it is damaged ("),
    "header.png": (IMAGES["tall.png"][:20], "it is damaged ("),
    "bomb.png": (bomb(), "30000x30000 pixels, where at most"),
    "photo.tif": (encoded(photo(), "TIFF"), "it is not a JPEG"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_images_are_refused_in_a_sentence(name):
    content, sentence = BAD[name]
    with pytest.raises(pixels.BadImageError, match=re.escape(sentence)):
        pixels.read_pixels(io.BytesIO(content), (32, 32, 3), 64 * 10**6)


def test_images_that_wait_together_run_together():
    runs = []

    def run(images):
        runs.append(len(images))
        time.sleep(0.05)
        if any(image < 0 for image in images):
            raise RuntimeError("no")
        return np.array(images) * 2

    async def crowd():
        async with (batcher := Batcher(run, 4)):
            first = asyncio.create_task(batcher.submit(0))
            await asyncio.sleep(0.01)
            others = [asyncio.create_task(batcher.submit(i)) for i in range(1, 7)]
            await asyncio.sleep(0)
            others[0].cancel()
            answers = await asyncio.gather(first, *others[1:])
            with pytest.raises(RuntimeError, match="no"):
                await batcher.submit(-1)
            return [*answers, await batcher.submit(10)]

    assert asyncio.run(crowd()) == [0, 4, 6, 8, 10, 12, 20]
    assert runs == [1, 3, 2, 1, 1]


@pytest.fixture(scope="module")
def folder(make_net, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("server") / "artifact"
    reference = Reference(synthetic_images(16, (32, 32, 3)), [0] * 16)
    export(make_net(), out, name="tiny", formats=["onnx"], labels=LABELS, reference=reference)
    return out


def test_channels_may_come_first(folder, make_net, tmp_path):
    """The same network, exported with --layout NCHW, answers the same."""
    images = np.load(folder / "reference.npz")["images"]
    first = tmp_path / "artifact"
    given = {"labels": LABELS, "reference": Reference(images, [0] * 16)}
    export(make_net(), first, name="tiny", formats=["onnx"], layout="NCHW", **given)
    wanted, found = (open_model(place, 2) for place in (folder, first))
    assert found.shape == wanted.shape == (32, 32, 3)
    np.testing.assert_allclose(found.run(images), wanted.run(images), atol=1e-5)


def free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return place.getsockname()[1]


class Answer(dict):
    status: int


def ask(port: int, method: str, path: str, body=None, **headers) -> Answer:
    """Send one request; return the JSON of its answer, with the status."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    with contextlib.closing(connection):
        connection.request(method, path, body, named)
        response = connection.getresponse()
        text = response.read().decode()
    is_json = response.headers.get_content_type() == "application/json"
    answer = Answer(json.loads(text) if is_json else {"text": text})
    answer.status = response.status
    return answer


def form(files: dict[str, bytes] | list[tuple[str, bytes]]) -> bytes:
    pairs = files.items() if isinstance(files, dict) else files
    return b"".join(
        f'--x\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode()
        + content
        + b"\r\n"
        for name, content in pairs
    ) + b"--x--\r\n"  # fmt: skip


def upload(port: int, files, query: str = "") -> Answer:
    kind = "multipart/form-data; boundary=x"
    return ask(port, "POST", f"/predict{query}", form(files), Content_Type=kind)


@contextlib.contextmanager
def serving(artifact: Path, *flags: str):
    """Start the server; yield its process and port."""
    port = free_port()
    command = [sys.executable, str(SERVER / "app.py"), str(artifact), "--port", str(port), *flags]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(port, server)
        yield server, port
    finally:
        server.terminate()
        log = server.communicate(timeout=60)[1]
    assert "Traceback" not in log, log


def wait_for(port: int, server: subprocess.Popen, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and server.poll() is None:
        with contextlib.suppress(OSError):
            if ask(port, "GET", "/health").status == 200:
                return
        time.sleep(0.1)
    pytest.fail(f"the server did not start; it ended with {server.poll()}")


@pytest.fixture(scope="module")
def port(folder):
    with serving(folder, "--threads", "2", "--max-file-mb", "0.5", "--max-request-mb", "2") as (
        _,
        port,
    ):
        yield port


@needs_server
def test_answers_are_those_of_predict(port, folder, tmp_path):
    names = ["photo.jpg", "tall.png", "exact.png", "palette.png", "alpha.png"]
    for name in names:
        (tmp_path / name).write_bytes(IMAGES[name])
    wanted = predict(open_classifier(folder), [tmp_path / name for name in names], top=3)
    answer = upload(port, {name: IMAGES[name] for name in names}, "?top=3")
    assert answer.status == 200
    assert answer["model"] == "tiny"
    for theirs, ours, name in zip(wanted, answer["predictions"], names, strict=True):
        assert ours["file"] == name
        scores = {row["label"]: row["score"] for row in ours["top"]}
        assert len(scores) == 3
        assert scores[theirs["top"][0]["label"]] == pytest.approx(
            theirs["top"][0]["score"], abs=0.1
        )
    # Where nothing is resized, nothing differs.
    exact = dict(zip(names, wanted, strict=True))["exact.png"]["top"]
    for ours, theirs in zip(answer["predictions"][2]["top"], exact, strict=True):
        assert ours["label"] == theirs["label"]
        assert ours["score"] == pytest.approx(theirs["score"], abs=1e-5)


@needs_server
def test_json_gives_what_a_form_gives(port):
    images = [IMAGES["photo.jpg"], IMAGES["tall.png"]]
    texts = [base64.b64encode(image).decode() for image in images]
    texts[1] = f"data:image/png;base64,{texts[1]}"
    body = json.dumps({"images": texts})
    answer = ask(port, "POST", "/predict?top=2", body, Content_Type="application/json")
    wanted = upload(port, [("image 1", images[0]), ("image 2", images[1])], "?top=2")
    assert answer.status == 200
    for ours, theirs in zip(answer["predictions"], wanted["predictions"], strict=True):
        assert ours["file"] == theirs["file"]
        for a, b in zip(ours["top"], theirs["top"], strict=True):
            assert a["label"] == b["label"]
            assert a["score"] == pytest.approx(b["score"], abs=1e-5)


@needs_server
@pytest.mark.parametrize("name", BAD)
def test_bad_uploads_are_named(port, name):
    content, sentence = BAD[name]
    answer = upload(port, {"photo.jpg": IMAGES["photo.jpg"], name: content})
    assert answer.status == 400
    assert answer["detail"].startswith(f"{name}: {sentence}")


@needs_server
@pytest.mark.parametrize(
    ("status", "sentence", "query", "kind", "body"),
    [
        (413, "large: it has 600,000 bytes", "", "form", form({"large": bytes(600_000)})),
        (413, "the request has more than 2,000,000 bytes", "", "form", bytes(3_000_000)),
        (
            400,
            "Too many files. Maximum number of files is 16",
            "",
            "form",
            form([("a", b"x")] * 17),
        ),
        (400, "too many images", "", "json", json.dumps({"images": [""] * 17}).encode()),
        (400, "there is no image in the request", "", "form", b"--x--\r\n"),
        (400, "Invalid multipart data", "", "form", b"hello"),
        (400, "the body is not valid JSON", "", "json", b"{"),
        (400, "the body is not valid JSON", "", "json", b"\xff\xfe\xff"),
        (400, "the body is not valid JSON", "", "json", b"[" * 500_000),
        (400, 'the JSON is not {"images"', "", "json", b'{"image": "x"}'),
        (400, "there is no image", "", "json", b'{"images": []}'),
        (400, "image 1: it is not base64", "", "json", b'{"images": ["h\xc3\xa4?"]}'),
        (400, "image 1: it is empty", "", "json", b'{"images": [""]}'),
        (415, "send a form with files", "", "text", b"hello"),
        (422, "top: Input should be greater", "?top=0", "form", form({"a": b""})),
        (422, "top: Input should be a valid integer", "?top=x", "form", form({"a": b""})),
    ],
)
def test_refusals_are_sentences(port, status, sentence, query, kind, body):
    kinds = {"form": "multipart/form-data; boundary=x", "json": "application/json"}
    kind = kinds.get(kind, "text/plain")
    answer = ask(port, "POST", f"/predict{query}", body, Content_Type=kind)
    assert answer["detail"].startswith(sentence)
    assert answer.status == status


@needs_server
def test_a_stream_of_unknown_length_is_bounded_too(port):
    pieces = iter(
        [form({"a": bytes(3_000_000)})[i : i + 100_000] for i in range(0, 3_000_000, 100_000)]
    )
    answer = ask(port, "POST", "/predict", pieces, Content_Type="multipart/form-data; boundary=x")
    assert answer.status == 413


@needs_server
def test_names_are_shown_plain(port):
    answer = upload(port, {"\x1b[31m" + "a" * 500: b""})
    assert answer["detail"] == "[31m" + "a" * 96 + ": it is empty"


@needs_server
def test_page_health_and_metrics(port, folder):
    page = ask(port, "GET", "/")["text"]
    assert "<input type=" in page
    assert not re.findall(r"https?://|src=|@import", page)
    health = ask(port, "GET", "/health")
    assert health["status"] == "ok"
    assert health["sha256"] == hashlib.sha256((folder / "model.onnx").read_bytes()).hexdigest()
    before = ask(port, "GET", "/metrics")["text"]
    upload(port, {"photo.jpg": IMAGES["photo.jpg"]})
    upload(port, {"empty": b""})
    after = ask(port, "GET", "/metrics")["text"]
    for status in (200, 400):
        pattern = rf'requests_total{{status="{status}"}} (\S+)'
        counts = [float((re.findall(pattern, text) or ["0"])[0]) for text in (before, after)]
        assert counts[1] == counts[0] + 1
    assert "batch_images_bucket" in after


@needs_server
def test_a_stalled_upload_is_told_so(folder):
    with serving(folder, "--upload-seconds", "0.5") as (_, port):
        with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
            head = "POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 999\r\n"
            client.sendall(
                f"{head}Content-Type: multipart/form-data; boundary=x\r\n\r\n--".encode()
            )
            answer = http.client.HTTPResponse(client)
            answer.begin()
            assert answer.status == 408
            detail = json.loads(answer.read())["detail"]
            assert detail == "the upload took too long (limit: 0.5 s)"
        # Whoever hangs up in the middle of an upload harms nobody.
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(f"{head}Content-Type: application/json\r\n\r\n{{".encode())
        assert upload(port, {"photo.jpg": IMAGES["photo.jpg"]}).status == 200


@needs_server
def test_sigterm_lets_requests_finish(folder):
    with serving(folder) as (server, port):
        body = form({"photo.jpg": IMAGES["photo.jpg"]})
        with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
            head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
            kind = "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
            client.sendall((head + kind).encode() + body[:100])
            time.sleep(0.5)
            server.send_signal(signal.SIGTERM)
            time.sleep(0.5)
            client.sendall(body[100:])
            assert client.recv(4096).startswith(b"HTTP/1.1 200")
        assert server.wait(30) in (0, -signal.SIGTERM)


@needs_server
@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda folder: (folder / "manifest.json").unlink(), "manifest.json cannot be read"),
        (lambda folder: (folder / "model.onnx").unlink(), "model.onnx cannot be read"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "is damaged"),
        (lambda folder: (folder / "manifest.json").write_bytes(b"\xff\xff"), "is damaged"),
        (lambda folder: (folder / "manifest.json").write_text('{"schema": "x"}'), "does not say"),
        (lambda folder: flip(folder / "model.onnx"), "its sha256 differs"),
        (lambda folder: relabel(folder / "manifest.json"), "has 9 labels for 10 classes"),
        (lambda folder: replace(folder, b"no network"), "model.onnx cannot be run ("),
        (lambda folder: reshape(folder / "manifest.json"), "model.onnx cannot be run ("),
    ],
)
def test_a_spoilt_folder_is_not_served(folder, tmp_path, spoil, sentence):
    spoilt = tmp_path / "spoilt"
    shutil.copytree(folder, spoilt)
    spoil(spoilt)
    command = [sys.executable, str(SERVER / "app.py"), str(spoilt)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    (*usage, error) = ended.stderr.splitlines()
    assert sentence in error
    assert all(line.startswith(("usage: ", " ")) for line in usage)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def relabel(path: Path) -> None:
    manifest = json.loads(path.read_text())
    manifest["labels"].pop()
    path.write_text(json.dumps(manifest))


def reshape(path: Path) -> None:
    manifest = json.loads(path.read_text())
    manifest["input"]["shape"] = [32, 32, 1]
    path.write_text(json.dumps(manifest))


def replace(folder: Path, content: bytes) -> None:
    (folder / "model.onnx").write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["artifacts"][0]["sha256"] = hashlib.sha256(content).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


@needs_server
def test_readme_tells_the_defaults(monkeypatch):
    monkeypatch.syspath_prepend(SERVER)
    settings = load("app").Settings
    rows = re.findall(r"^\| `--([a-z-]+)` \| ([^|]+?) \|", (SERVER / "README.md").read_text(), re.M)
    fields = {f.name.replace("_", "-"): f.default for f in dataclasses.fields(settings)}
    assert dict(rows) == {
        name: "all cores" if name == "threads" else f"{default:g}"
        for name, default in fields.items()
    }


def test_what_the_tests_install_is_what_the_server_asks_for():
    settings = configparser.ConfigParser()
    settings.read(SERVER.parents[1] / "setup.cfg")
    extra = settings["options.extras_require"]["test"].splitlines()
    asked = (SERVER / "requirements.txt").read_text().splitlines()
    brought = ("pillow ", "numpy ", "onnxruntime ")  # by keras_cnns itself
    assert {line for line in asked if not line.startswith(brought)} <= set(extra)


@needs_server
@needs("locust")
@pytest.mark.slow
def test_a_crowd_with_bad_uploads_is_answered(folder, tmp_path):
    command = [sys.executable, str(SERVER / "load.py"), str(folder), "--clients", "20"]
    out = tmp_path / "record.json"
    subprocess.run([*command, "--seconds", "10", "--out", str(out)], check=True, timeout=300)
    record = json.loads(out.read_text())
    assert record["unanswered"] == 0
    assert not record["wrong"]
    assert set(record["answered"]) == {"good", "empty", "truncated", "text", "bomb", "200 MB"}


@needs_server
@needs("locust")
@pytest.mark.slow
def test_a_server_that_confuses_labels_does_not_pass(folder, tmp_path):
    kit = tmp_path / "server"
    shutil.copytree(SERVER, kit)
    source = (kit / "model.py").read_text()
    assert source.count('manifest["labels"]\n') == 1
    (kit / "model.py").write_text(
        source.replace('manifest["labels"]\n', 'manifest["labels"][::-1]\n')
    )
    out = tmp_path / "record.json"
    command = [sys.executable, str(kit / "load.py"), str(folder), "--clients", "2", "--bad", "0"]
    command += ["--seconds", "2", "--out", str(out)]
    ended = subprocess.run(command, timeout=300, capture_output=True)
    record = json.loads(out.read_text())
    assert ended.returncode == 1
    assert sum(record["wrong"].values()) == record["answered"]["good"] > 0


@needs_server
@needs("ray")
@pytest.mark.slow
def test_ray_goes_on_without_a_replica(folder, tmp_path):
    port = free_port()
    config = (SERVER / "ray.yaml").read_text()
    for old, new in {
        "port: 8000": f"port: {port}",
        "/srv/artifact": str(folder),
        "threads: 2": "threads: 1",
        "num_cpus: 2": "num_cpus: 0.5",
        "max_replicas: 8": "max_replicas: 2",
    }.items():
        assert old in config
        config = config.replace(old, new)
    (tmp_path / "ray.yaml").write_text(config)
    command = [sys.executable, "-m", "ray.serve.scripts", "run", str(tmp_path / "ray.yaml")]
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "HOME": str(tmp_path)}
    with (tmp_path / "log").open("w") as log:
        ray = subprocess.Popen(
            command, cwd=SERVER, env=os.environ | quiet, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        wait_for(port, ray)
        pids = {ask(port, "GET", "/health")["pid"] for _ in range(50)}
        assert len(pids) == 2
        seen: Counter = Counter()
        end = time.monotonic() + 15

        def client() -> None:
            while time.monotonic() < end:
                seen[upload(port, {"photo.jpg": IMAGES["photo.jpg"]}).status] += 1

        threads = [threading.Thread(target=client) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(3)
        os.kill(pids.pop(), signal.SIGKILL)
        for thread in threads:
            thread.join()
        # What the killed one had in hand is lost, and nothing else.
        assert seen[200] > 50
        assert sum(seen.values()) - seen[200] <= len(threads)
        assert upload(port, {"empty": b""})["detail"] == "empty: it is empty"
        later = {ask(port, "GET", "/health")["pid"] for _ in range(50)}
        assert later - pids, "no new replica came"
    finally:
        ray.send_signal(signal.SIGINT)
        ray.wait(60)
