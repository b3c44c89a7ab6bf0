"""The browser's kit, in a headless Chromium: it answers as verify and sees as predict does."""

import base64
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from keras_cnns import data
from keras_cnns.export import Reference, export, runners

playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")

PAGE = Path(__file__).resolve().parents[2] / "export/browser"
# The headers of serve.py allow threads; a plain server works without.
SERVERS = ("serve.py", "http.server")
FILES = {
    "model.tflite": 1e-5,
    "model_float16.tflite": 1e-5,
    "model_int8.tflite": 0,
    "model.onnx": 1e-5,
    # What LiteRT's and ONNX Runtime's kernels round differently from machine to machine.
    "model_dynamic.tflite": 0.05,
    "model_int8.onnx": 0.05,
}

PREDICT = """async ([file, images]) => {
  const { openModel, readManifest } = await import("./model.js");
  const where = new URLSearchParams(location.search).get("artifact") ?? "artifacts";
  const folder = new URL(where + "/", location.href);
  const manifest = await readManifest(folder);
  const record = manifest.artifacts.find((artifact) => artifact.file === file);
  const model = await openModel(folder, manifest, record);
  const bytes = Uint8ClampedArray.from(atob(images), (c) => c.charCodeAt(0));
  const size = manifest.input.shape.reduce((a, b) => a * b);
  const answers = [];
  for (let i = 0; i < bytes.length; i += size) {
    answers.push(Array.from((await model.predict(bytes.subarray(i, i + size))).probabilities));
  }
  model.close();
  return answers;
}"""

FIT = """async ([file, shape]) => {
  const { decode, fit } = await import("./pixels.js");
  const blob = await (await fetch("data:application/octet-stream;base64," + file)).blob();
  return btoa(Array.from(fit(await decode(blob), shape), (c) => String.fromCharCode(c)).join(""));
}"""

SEEN = """() => {
  const canvas = document.getElementById("seen");
  const whole = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return [canvas.height, canvas.width, Array.from(whole.data)];
}"""


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("there is no Chromium: apt-get install chromium")
    if not (PAGE / "node_modules").is_dir():
        pytest.skip("the page's runtimes are not installed: npm ci --prefix export/browser")
    camera = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    flags = ["--disable-gpu", "--disable-dev-shm-usage", *camera]
    with playwright.sync_playwright() as driver:
        launched = driver.chromium.launch(
            executable_path=chromium, args=flags, chromium_sandbox=False
        )
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def serve(browser, artifact, tmp_path_factory):
    """Return a function that starts one of the servers, and gives the page's address."""
    started = []

    def start(server, artifact=artifact):
        if server == "serve.py":
            command = [sys.executable, PAGE / "serve.py", artifact, "--port", "0"]
            page = ""
        else:
            root = tmp_path_factory.mktemp("site")
            (root / "page").symlink_to(PAGE)
            (root / "model").symlink_to(artifact)
            command = [sys.executable, "-u", "-m", "http.server", "0", "--directory", root]
            command += ["--bind", "127.0.0.1"]
            page = "page/index.html?artifact=../model"
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        started.append(process)
        words = process.stdout.readline()
        return words[words.index("http://") :].split("/)")[0].strip().rstrip("/") + "/" + page

    yield start
    for process in started:
        process.terminate()
        process.wait()
        process.stdout.close()


@pytest.fixture(scope="module")
def addresses(serve):
    return {server: serve(server) for server in SERVERS}


@pytest.fixture
def page(browser, addresses):
    """Return the page, open and ready, which may ask no other server for anything."""
    with browser.new_context(viewport={"width": 900, "height": 800}) as context:
        page = context.new_page()
        asked, failures = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: failures.append(str(error)))
        page.goto(addresses["serve.py"])
        page.locator("#input").wait_for(state="attached")
        playwright.expect(page.locator("#status")).to_have_text("Ready", timeout=60_000)
        yield page
        local = (addresses["serve.py"], "blob:", "data:")
        assert [url for url in asked if not url.startswith(local)] == []
        assert failures == []


@pytest.fixture(scope="module")
def photo():
    """Return a picture with edges, ramps and noise, wider than it is high."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 9, 3), np.uint8))
    smooth = np.asarray(coarse.resize((333, 218), Image.Resampling.NEAREST), np.int64)
    return (smooth + rng.integers(-40, 40, smooth.shape)).clip(0, 255).astype(np.uint8)


def encoded(pixels, format="PNG", **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format, **options)
    return file.getvalue()


@pytest.mark.parametrize("server", SERVERS)
def test_answers_are_those_of_verify(server, browser, addresses, artifact, images):
    described = json.loads((artifact / "manifest.json").read_text())["artifacts"]
    assert {r["file"] for r in described if r["format"] != "savedmodel"} == FILES.keys()
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(addresses[server])
        assert page.evaluate("crossOriginIsolated") == (server == "serve.py")
        for file, tolerance in FILES.items():
            sent = base64.b64encode(images.tobytes()).decode()
            received = np.array(page.evaluate(PREDICT, [file, sent]), np.float32)
            expected = runners.load(file.rpartition(".")[2], artifact / file).run(images)
            error = np.abs(received - expected["probabilities"]).max()
            assert error <= tolerance, f"{file}: {error}"


def test_channels_first_and_grey(make_net, browser, serve, tmp_path):
    import keras

    image = keras.Input((12, 20, 1), name="image")
    x = keras.layers.Conv2D(8, 3, activation="relu")(image)
    x = keras.layers.Dense(4, name="logits")(keras.layers.GlobalMaxPooling2D()(x))
    model = keras.Model(image, keras.layers.Activation("softmax", name="predictions")(x))
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (64, 12, 20, 1), np.uint8)
    export(
        model,
        tmp_path / "grey",
        name="grey",
        formats=("onnx",),
        layout="NCHW",
        labels=list("abcd"),
        reference=Reference(pixels),
    )
    expected = runners.load("onnx", tmp_path / "grey/model.onnx").run(pixels)["probabilities"]
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(serve("serve.py", tmp_path / "grey"))
        sent = base64.b64encode(pixels.tobytes()).decode()
        received = page.evaluate(PREDICT, ["model.onnx", sent])
    np.testing.assert_allclose(received, expected, atol=1e-5)


def test_a_photo_is_answered_as_predict_does(page, artifact, photo, tmp_path):
    (tmp_path / "photo.png").write_bytes(encoded(photo))
    page.set_input_files("#input", tmp_path / "photo.png")
    playwright.expect(page.locator("#answers li")).to_have_count(5)
    height, width, seen = page.evaluate(SEEN)
    pixels = np.array(seen, np.uint8).reshape(height, width, 4)[..., :3]
    wanted = data.read_image(tmp_path / "photo.png", (32, 32, 3))
    assert np.abs(pixels - wanted).max() <= 1
    assert np.abs(pixels - wanted).mean() < 0.01

    described = json.loads((artifact / "manifest.json").read_text())
    chosen = page.locator("#file")
    offered = chosen.locator("option").evaluate_all("options => options.map((o) => o.value)")
    assert set(offered) == FILES.keys()
    for file in ("model.tflite", "model.onnx"):
        chosen.select_option(file)
        expected = runners.load(file.rpartition(".")[2], artifact / file).run(pixels[None])
        (scores,) = expected["probabilities"]
        best = [described["labels"][i] for i in np.argsort(-scores)[:5]]
        playwright.expect(page.locator("#status")).to_have_text(f"Most likely: {best[0]}")
        assert page.locator("#answers span").all_text_contents() == best
        shares = page.locator("#answers data").evaluate_all("all => all.map((one) => +one.value)")
        np.testing.assert_allclose(shares, np.sort(scores)[:-6:-1], atol=1e-5)
    assert page.locator("#time").text_content().endswith(" ms")


def fitted(page, file, shape):
    """Return what the page makes of an image file's bytes."""
    received = page.evaluate(FIT, [base64.b64encode(file).decode(), shape])
    return np.frombuffer(base64.b64decode(received), np.uint8).reshape(shape)


def test_pixels_are_those_of_the_pipeline(page, photo):
    large = np.pad(photo, ((0, 300), (0, 300), (0, 0)), mode="reflect")
    shapes = [(32, 32, 3), (224, 160, 1), (40, 300, 3), (480, 480, 3)]
    for height, width in [(218, 333), (333, 218), (480, 480), (17, 91), (5, 5)]:
        pixels = large[:height, :width]
        for shape in shapes:
            expected = data.fit_image(pixels, shape).numpy()
            difference = np.abs(fitted(page, encoded(pixels), shape) - expected)
            assert difference.max() <= 1, (height, width, shape)
            assert difference.mean() < 0.01, (height, width, shape)


def test_photos_are_put_upright(page, photo):
    soft = np.asarray(Image.fromarray(photo).resize((90, 60)))
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        file = encoded(soft, "JPEG", quality=95, exif=exif)
        wanted = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(file))))
        received = fitted(page, file, wanted.shape).astype(int)
        assert np.abs(received - wanted).max() <= 1, orientation
    exif[0x0112] = 6
    turned = np.rot90(photo, -1)
    received = fitted(page, encoded(photo, exif=exif), turned.shape)
    np.testing.assert_array_equal(received, turned)


def test_a_photo_may_be_dropped(page, photo):
    page.evaluate(
        """async (file) => {
          const blob = await (await fetch("data:image/png;base64," + file)).blob();
          const dataTransfer = new DataTransfer();
          dataTransfer.items.add(new File([blob], "dropped.png"));
          dispatchEvent(new DragEvent("drop", { dataTransfer }));
        }""",
        base64.b64encode(encoded(photo)).decode(),
    )
    playwright.expect(page.locator("#answers li")).to_have_count(5)


def test_the_camera_starts_and_stops(page):
    button = page.locator("#camera")
    button.click()
    playwright.expect(page.locator("#answers li")).to_have_count(5)
    playwright.expect(button).to_have_text("Stop the camera")
    button.click()
    playwright.expect(button).to_have_text("Use the camera")
    assert page.evaluate("document.getElementById('video').srcObject") is None


def test_what_goes_wrong_is_said(page, browser, addresses, photo, tmp_path):
    (tmp_path / "notes.txt").write_text("no photo")
    (tmp_path / "photo.png").write_bytes(encoded(photo))
    page.set_input_files("#input", tmp_path / "notes.txt")
    alert = page.get_by_role("alert")
    playwright.expect(alert).to_contain_text("notes.txt is not an image that this browser can read")
    page.set_input_files("#input", tmp_path / "photo.png")
    playwright.expect(alert).to_have_text("")
    with browser.new_context() as context:
        lost = context.new_page()
        lost.goto(addresses["serve.py"] + "?artifact=nowhere")
        playwright.expect(lost.get_by_role("alert")).to_contain_text("nowhere/manifest.json")
        assert lost.locator("#input").is_disabled()


def test_dark_where_the_system_is(page):
    def brightness():
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return max(map(int, colour.removeprefix("rgb(").removesuffix(")").split(", ")))

    page.emulate_media(color_scheme="light")
    assert brightness() == 255
    page.emulate_media(color_scheme="dark")
    assert brightness() < 64


def test_serve_says_what_is_missing(tmp_path):
    command = [sys.executable, PAGE / "serve.py", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert f"{tmp_path} is not a folder that keras-cnns export wrote" in done.stderr
