"""The phone's kit: what the files answer as ARM code, under qemu."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from keras_cnns.export import Reference, export, parity, runners, synthetic_images

PHONE = Path(__file__).resolve().parents[2] / "export/phone"
IMAGES = 32

# The integers before the softmax, which LiteRT keeps only when asked to; without one, the answers.
LOGITS = """
import sys
import numpy as np
from ai_edge_litert.interpreter import Interpreter

file, images, out = sys.argv[1:]
interpreter = Interpreter(file, num_threads=1, experimental_preserve_all_tensors=True)
interpreter.allocate_tensors()
softmax = [op["inputs"][0] for op in interpreter._get_ops_details() if op["op_name"] == "SOFTMAX"]
(index,) = softmax or [output["index"] for output in interpreter.get_output_details()]
found = []
for pixels in np.load(images):
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], pixels[None])
    interpreter.invoke()
    found.append(interpreter.get_tensor(index)[0])
np.save(out, found)
"""


def load_kit():
    spec = importlib.util.spec_from_file_location("arm64", PHONE / "arm64.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


arm64 = load_kit()


@pytest.fixture(scope="module")
def root():
    if why := arm64.missing():
        pytest.skip(why)
    try:
        return arm64.set_up(arm64.default_cache())
    except RuntimeError as error:
        pytest.skip(f"Debian's and PyPI's packages for ARM could not be fetched: {error}")


def test_answers_are_those_of_verify(artifact, images, tmp_path):
    np.save(tmp_path / "images.npy", images[:4])
    for record in json.loads((artifact / "manifest.json").read_text())["artifacts"]:
        format, file = record["format"], artifact / record["file"]
        if format == "savedmodel":
            continue
        command = [sys.executable, PHONE / "answers.py", file, tmp_path / "images.npy"]
        subprocess.run([*command, tmp_path / "out.npy"], check=True, capture_output=True)
        expected = runners.load(format, file).run(images[:4])["probabilities"]
        np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, atol=1e-6)


def test_requirements_are_those_that_the_package_allows():
    from importlib.metadata import version

    for line in (PHONE / "requirements.txt").read_text().splitlines():
        if not line.startswith("#"):
            name, pinned = line.split("==")
            assert pinned.rpartition(".")[0] == version(name).rpartition(".")[0], name


@pytest.fixture
def scores(artifact):
    """Return a function from a PIL image, a region and degrees to MediaPipe's probabilities."""
    mediapipe = pytest.importorskip("mediapipe", reason="pip install mediapipe")
    from mediapipe.tasks.python.components.containers.rect import RectF
    from mediapipe.tasks.python.vision.core.image_processing_options import ImageProcessingOptions

    base = mediapipe.tasks.BaseOptions(model_asset_path=str(artifact / "model.tflite"))
    options = mediapipe.tasks.vision.ImageClassifierOptions(base_options=base, max_results=10)
    with mediapipe.tasks.vision.ImageClassifier.create_from_options(options) as classifier:

        def classify(image, region=None, degrees=0):
            pixels = np.ascontiguousarray(image)
            taken = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=pixels)
            asked = ImageProcessingOptions(region and RectF(**region), degrees)
            (found,) = classifier.classify(taken, asked).classifications
            return np.array([c.score for c in sorted(found.categories, key=lambda c: c.index)])

        yield classify


@pytest.fixture
def photo():
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 255, (6, 9, 3), np.uint8))
    return coarse.resize((300, 200), Image.Resampling.BICUBIC)


def centre(image):
    """Return the centre square as a region, as the README's Kotlin does."""
    side = min(image.size)
    x, y = side / image.width / 2, side / image.height / 2
    return {"left": 0.5 - x, "top": 0.5 - y, "right": 0.5 + x, "bottom": 0.5 + y}


def test_mediapipe_squeezes_what_no_region_tells_it_to_cut(scores, photo):
    square = photo.crop((50, 0, 250, 200))
    cut = scores(photo, centre(photo))
    np.testing.assert_allclose(cut, scores(square), atol=1e-6)
    resized = scores(square.resize((32, 32), Image.Resampling.BILINEAR))
    assert np.abs(cut - resized).max() < 0.05
    assert np.abs(scores(photo) - resized).max() > 0.1


# What androidx.exifinterface's rotationDegrees gives for the orientations that cameras write.
@pytest.mark.parametrize(("orientation", "degrees"), [(3, 180), (6, 90), (8, 270)])
def test_mediapipe_turns_a_photo_by_degrees_and_not_by_exif(scores, photo, orientation, degrees):
    stored = photo.rotate(degrees, expand=True)
    stored.getexif()[0x0112] = orientation
    assert ImageOps.exif_transpose(stored) == photo
    upright = scores(photo, centre(photo))
    turned = scores(stored, centre(stored), degrees)
    np.testing.assert_allclose(turned, upright, atol=0.05)
    assert np.abs(scores(stored, centre(stored)) - upright).max() > 0.1


@pytest.mark.slow
def test_arm64_answers_as_x86_does(artifact, root):
    described = json.loads((artifact / "manifest.json").read_text())
    largest = described["reference"]["largest_logit"]
    answers = {a.file: a for a in arm64.compare(artifact, root.parent, images=IMAGES)}
    wanted = {r["file"] for r in described["artifacts"] if r["format"] != "savedmodel"}
    assert answers.keys() == wanted
    for file, answer in answers.items():
        assert answer.here.shape == answer.arm64.shape == (IMAGES, 10)
        assert answer.error <= answer.limit, file
        if answer.limit == 1e-5:
            logs = [parity.log_probabilities(p, 1e-7) for p in (answer.here, answer.arm64)]
            assert np.abs(logs[0] - logs[1]).max() <= 1e-5 * largest, file


@pytest.mark.slow
@pytest.mark.parametrize("output", ["probabilities", "logits"])
def test_int8_is_the_same_in_every_bit_up_to_the_softmax(
    output, artifact, make_net, images, root, tmp_path
):
    file = artifact / "model_int8.tflite"
    if output == "logits":
        export(
            make_net(),
            tmp_path / "logits",
            name="logits",
            formats=["tflite"],
            quantize=["int8"],
            output=output,
            labels=[f"class {i}" for i in range(10)],
            reference=Reference(images),
            calibration=synthetic_images(32, images.shape[1:], seed=1),
        )
        file = tmp_path / "logits/model_int8.tflite"
    (tmp_path / "logits.py").write_text(LOGITS)
    np.save(tmp_path / "images.npy", images)
    found = []
    for python in ([sys.executable], arm64.emulated(root)):
        command = [*python, "logits.py", file, "images.npy", "out.npy"]
        subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
        found.append(np.load(tmp_path / "out.npy"))
    assert found[0].dtype == (np.int8 if output == "probabilities" else np.float32)
    assert len(np.unique(found[0])) > 100
    np.testing.assert_array_equal(*found)


def test_what_is_missing_is_said(monkeypatch):
    monkeypatch.setattr(arm64.shutil, "which", lambda name: None)
    assert arm64.missing().endswith("not found: apt-get install qemu-user-static mmdebstrap")
