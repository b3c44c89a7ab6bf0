import json
import re
import shutil
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from keras_cnns.errors import UsageError
from keras_cnns.export import benchmark, manifest, parity, synthetic_images
from keras_cnns.export.checks import folder_bytes
from keras_cnns.export.verify import main as verify_main, verify

LABELS = [f"class {i}" for i in range(10)]
FIELDS = {
    "file", "format", "quantization", "bytes", "max_error",
    "agreement", "accuracy", "latency_ms", "passed", "why",
}  # fmt: skip


def by_file(report):
    return {record["file"]: record for record in report["artifacts"]}


def change_manifest(folder: Path, change) -> None:
    path = folder / "manifest.json"
    described = json.loads(path.read_text())
    change(described)
    path.write_text(json.dumps(described))


def trust(folder: Path, file: str) -> None:
    """Write the file's size and hash into the manifest, as one who hides a change would."""

    def change(described):
        for record in described["artifacts"]:
            if record["file"] == file:
                record["sha256"] = manifest.sha256(folder / file)
                record["bytes"] = folder_bytes(folder / file)

    change_manifest(folder, change)


def flip_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x40
    path.write_bytes(bytes(content))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_in_a_process_without_tensorflow_or_keras(light):
    code = (
        "import json, sys; from keras_cnns.export.verify import verify;"
        f"report = verify({str(light)!r}); print(json.dumps(report));"
        "sys.exit(any(name in sys.modules for name in ('tensorflow', 'keras')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["passed"]
    assert [record["file"] for record in report["artifacts"]] == [
        "model.tflite", "model_int8.tflite", "model.onnx",
    ]  # fmt: skip
    for record in report["artifacts"]:
        assert record.keys() >= FIELDS
        assert record["passed"]
        assert record["images"] == 64


@pytest.mark.parametrize("file", ["model.onnx", "model.tflite"])
@pytest.mark.parametrize(
    ("spoil", "why"), [(flip_byte, "its sha256 is another"), (truncate, "bytes, and .* exported")]
)
def test_a_changed_file_is_caught_and_the_others_pass(light, file, spoil, why):
    spoil(light / file)
    change_manifest(light, lambda m: m["artifacts"].pop(1))
    report = verify(light)
    records = by_file(report)
    assert not report["passed"]
    assert [name for name, record in records.items() if not record["passed"]] == [file]
    assert re.search(why, records[file]["why"])
    assert records[file]["max_error"] is None


def test_a_missing_file_is_caught(light):
    (light / "model.onnx").unlink()
    record = by_file(verify(light))["model.onnx"]
    assert (record["passed"], record["bytes"], record["why"]) == (False, 0, "the file is missing")


def test_a_truncated_file_with_a_forged_hash_is_caught(light):
    for file in ("model.onnx", "model.tflite"):
        truncate(light / file)
        trust(light, file)
    records = by_file(verify(light))
    for file in ("model.onnx", "model.tflite"):
        assert not records[file]["passed"]
        assert records[file]["why"].startswith("its runtime")
        assert "\n" not in records[file]["why"]


def test_zeroed_weights_with_a_forged_hash_are_caught(light):
    import onnx
    from onnx import numpy_helper

    model = onnx.load(light / "model.onnx")
    for weight in model.graph.initializer:
        values = numpy_helper.to_array(weight)
        if values.size > 16 * 16:  # what normalises responses stays, or nothing finite comes out
            weight.CopyFrom(numpy_helper.from_array(np.zeros_like(values), weight.name))
    onnx.save(model, light / "model.onnx")
    trust(light, "model.onnx")
    record = by_file(verify(light))["model.onnx"]
    assert not record["passed"]
    assert "max error" in record["why"]
    assert "agreement" in record["why"]
    first = record["disagreements"][0]
    assert first.keys() == {"image", "expected", "received", "margin", "error", "tie"}


def shuffled(labels):
    return [labels[1], labels[0], *labels[2:]]


def test_shuffled_labels_are_caught_wherever_they_are(light):
    import onnx

    model = onnx.load(light / "model.onnx")
    for entry in model.metadata_props:
        if entry.key == "labels":
            entry.value = json.dumps(shuffled(json.loads(entry.value)))
    onnx.save(model, light / "model.onnx")
    trust(light, "model.onnx")
    records = by_file(verify(light))
    assert "labels inside" in records["model.onnx"]["why"]
    assert records["model.tflite"]["passed"]

    text = light / "labels.txt"
    labels = text.read_text().splitlines()
    manifest.write_labels(text, shuffled(labels))
    assert all("labels in labels.txt" in r["why"] for r in verify(light)["artifacts"])

    change_manifest(light, lambda m: m.update(labels=shuffled(labels)))
    report = verify(light)
    assert not report["passed"]
    assert all("labels in manifest.json" in record["why"] for record in report["artifacts"])


def alone(artifact: Path, file: str, folder: Path) -> Path:
    """Copy an artifact folder with one of its files; return that file, to be spoilt."""
    folder.mkdir()
    for name in ("manifest.json", "labels.txt", "reference.npz"):
        shutil.copy(artifact / name, folder)
    copy = shutil.copytree if (artifact / file).is_dir() else shutil.copy
    copy(artifact / file, folder / file)
    keep = [r for r in manifest.read(artifact)["artifacts"] if r["file"] == file]
    change_manifest(folder, lambda m: m.update(artifacts=keep))
    return folder / file


def weights_of(place: Path) -> Path:
    """Return the file that holds the weights."""
    return next(place.rglob("variables.data*")) if place.is_dir() else place


def zero_weights(place: Path) -> None:
    """Zero all kernels, by the tools of each format."""
    if place.suffix == ".onnx":
        import onnx
        from onnx import numpy_helper

        model = onnx.load(place)
        for weight in model.graph.initializer:
            values = numpy_helper.to_array(weight)
            if values.ndim > 1 and values.shape != (16, 16, 1, 1):  # a normalisation of responses
                weight.CopyFrom(numpy_helper.from_array(np.zeros_like(values), weight.name))
        onnx.save(model, place)
    elif place.suffix == ".tflite":
        from tensorflow.lite.tools import flatbuffer_utils

        content = place.read_bytes()
        archive = content[content.index(b"PK\x03\x04") :]
        model = flatbuffer_utils.convert_bytearray_to_object(content)
        largest = max(model.buffers, key=lambda b: 0 if b.data is None else len(b.data))
        largest.data = np.zeros_like(largest.data)
        place.write_bytes(flatbuffer_utils.convert_object_to_bytearray(model) + archive)
    else:
        path = weights_of(place)
        path.write_bytes(bytes(path.stat().st_size))


def shuffle_labels(place: Path) -> None:
    """Swap two labels where the format keeps them."""
    if place.suffix == ".onnx":
        import onnx

        model = onnx.load(place)
        (entry,) = [entry for entry in model.metadata_props if entry.key == "labels"]
        entry.value = json.dumps(shuffled(json.loads(entry.value)))
        onnx.save(model, place)
    elif place.suffix == ".tflite":
        content = place.read_bytes()
        assert content.count(b"class 0\nclass 1\n") == 1
        swapped = content.replace(b"class 0\nclass 1\n", b"class 1\nclass 0\n")
        with zipfile.ZipFile(place) as archive:
            before = archive.getinfo("labels.txt").CRC
        after = zlib.crc32(b"".join(f"{name}\n".encode() for name in shuffled(LABELS)))
        place.write_bytes(
            swapped.replace(before.to_bytes(4, "little"), after.to_bytes(4, "little"))
        )
    else:
        path = place / "1" / "assets" / "labels.txt"
        manifest.write_labels(path, shuffled(path.read_text().splitlines()))


CORRUPTIONS = {
    "a byte of the weights": (lambda place: flip_byte(weights_of(place)), "its sha256 is another"),
    "half of it": (lambda place: truncate(weights_of(place)), "bytes, and .* were exported"),
    "zeroed weights": (zero_weights, "sha256 is another|were exported"),
    "shuffled labels": (shuffle_labels, "sha256 is another|were exported"),
}


@pytest.mark.parametrize("file", manifest.FILES.values())
@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_a_corrupted_file_of_any_format_ends_with_1(artifact, file, kind, tmp_path, capsys):
    spoil, why = CORRUPTIONS[kind]
    spoil(alone(artifact, file, tmp_path / "copy"))
    assert verify_main([str(tmp_path / "copy")]) == 1
    (record,) = json.loads(capsys.readouterr().out)["artifacts"]
    assert re.search(why, record["why"])


@pytest.mark.parametrize("file", manifest.FILES.values())
@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (zero_weights, "max error|PSNR|agreement|its runtime|not finite"),
        (shuffle_labels, "the labels inside are not those that were exported"),
    ],
)
def test_who_forges_the_hash_too_is_caught_by_the_answers(
    artifact, file, spoil, why, tmp_path, capsys
):
    place = alone(artifact, file, tmp_path / "copy")
    spoil(place)
    trust(place.parent, file)
    assert verify_main([str(place.parent)]) == 1
    (record,) = json.loads(capsys.readouterr().out)["artifacts"]
    assert re.search(why, record["why"])


@pytest.mark.parametrize("spoil", [flip_byte, truncate, Path.unlink])
def test_a_spoilt_reference_is_caught(light, spoil):
    spoil(light / "reference.npz")
    report = verify(light)
    assert not report["passed"]
    assert all("reference.npz" in record["why"] for record in report["artifacts"])


def test_other_images_are_compared_with_the_float_file(light):
    images = synthetic_images(20, (32, 32, 3), seed=9)
    report = verify(light, images, [3] * 20)
    assert report["passed"], report
    assert (report["images"], report["labelled"]) == (20, 20)
    for record in report["artifacts"]:
        assert record["accuracy"] is not None
    assert by_file(report)["model_int8.tflite"]["images"] == 20
    with pytest.raises(UsageError, match="takes"):
        verify(light, images[:, :8])
    change_manifest(light, lambda m: m.update(artifacts=[m["artifacts"][1]]))
    with pytest.raises(UsageError, match="no float32 file to compare with"):
        verify(light, images)


def test_as_a_program(light, tmp_path):
    program = [sys.executable, "-m", "keras_cnns.export.verify"]
    change_manifest(light, lambda m: m["artifacts"].pop(1))
    flip_byte(light / "model.tflite")
    done = subprocess.run([*program, light], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == ""
    assert not json.loads(done.stdout)["passed"]
    done = subprocess.run([*program, tmp_path], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"{tmp_path} is not an artifact folder: give one that export wrote"
    ]


@pytest.mark.parametrize(
    ("text", "match"), [("{", "not valid JSON"), ("{}", "does not say"), ("[]", "does not say")]
)
def test_a_damaged_manifest_is_said(tmp_path, text, match):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(UsageError, match=match):
        verify(tmp_path)


def test_a_file_outside_the_folder_is_not_run(light):
    change_manifest(light, lambda m: m["artifacts"][0].update(file="../light/model.tflite"))
    assert "does not know" in verify(light)["artifacts"][0]["why"]


def truth_of(logits, labels=None) -> parity.Truth:
    logits = np.asarray(logits, np.float64)
    labels = np.full(len(logits), -1) if labels is None else np.asarray(labels)
    return parity.Truth(np.zeros((len(logits), 1, 1, 1)), logits, labels, np.abs(logits).max())


def test_ties_do_not_count_as_disagreement():
    truth = truth_of([[10.0, 0.0], [0.2, 0.0], [0.0, 8.0]])
    measured = parity.measure(
        {"logits": np.array([[10.0, 0.0], [0.0, 0.2], [8.0, 0.0]])}, truth, "float32"
    )
    assert (measured["ties"], measured["agreement"], measured["disagreeing"]) == (1, 0.5, 2)
    listed = [(entry["image"], entry["tie"]) for entry in measured["disagreements"]]
    assert listed == [(2, False), (1, True)]
    measured = parity.measure({"logits": np.zeros((1, 2))}, truth_of([[1.0, 1.0]]), "float32")
    assert measured["agreement"] is None


@pytest.mark.parametrize(("classes", "largest"), [(4, 3.0), (10, 6.0), (30, 4.0)])
def test_rounding_to_steps_is_no_error_of_the_network(classes, largest):
    """A file is judged as the same file would be that does not round."""
    draw = np.random.default_rng(classes)
    truth = truth_of(draw.uniform(-largest, largest, (500, classes)))
    least = 1 / 256
    for wanted in (32, 35, 40):
        errors = draw.normal(0, truth.largest * 10 ** (-wanted / 20), truth.logits.shape)
        off = parity.softmax(truth.logits + errors)
        exact = parity.log_probabilities(off, least)
        exact -= parity.log_probabilities(parity.softmax(truth.logits), least)
        exact = -10 * np.log10(np.mean(exact**2) / truth.largest**2)
        rounded = {"probabilities": np.round(off * 256) / 256}
        assert parity.measure(rounded, truth, "int8")["psnr_db"] == pytest.approx(exact, abs=0.7)
    rounded = {"probabilities": np.round(parity.softmax(truth.logits) * 256) / 256}
    assert 40 < parity.measure(rounded, truth, "int8")["psnr_db"] < 80
    assert parity.measure(rounded, truth, "float32")["psnr_db"] < 35


@pytest.mark.parametrize(("count", "caught"), [(499, False), (500, True)])
def test_a_drop_of_accuracy_is_judged_on_500_images(count, caught):
    rng = np.random.default_rng(0)
    logits = np.where(np.eye(4)[rng.integers(4, size=count)] > 0, 9.0, 0.0)
    logits[: count // 50, 0] = 8.9  # ties, so that agreement cannot tell
    logits[: count // 50, 1] = 9.0
    truth = truth_of(logits, logits.argmax(1))
    worse = logits.copy()
    worse[: count // 50, 0] = 9.1
    probabilities = parity.softmax(worse)
    tolerance = parity.TOLERANCES["tflite", "int8"]
    measured = parity.measure({"probabilities": probabilities}, truth, "int8")
    assert ("accuracy fell" in parity.judge(measured, truth, tolerance)) is caught


def test_logits_that_do_not_give_the_probabilities_are_caught():
    truth = truth_of([[1.0, 2.0]])
    outputs = {"logits": truth.logits, "probabilities": np.array([[0.5, 0.5]])}
    assert "not the softmax" in parity.broken(outputs, truth)
    assert "has shape" in parity.broken({"probabilities": np.zeros((1, 3))}, truth)
    assert parity.broken({"logits": truth.logits}, truth) == ""
    assert "neither logits nor" in parity.broken({"features": truth.logits}, truth)


def test_a_benchmark_has_a_row_for_each_file(light):
    rows = benchmark.benchmark(light)
    described = {r["file"]: r for r in manifest.read(light)["artifacts"]}
    assert [row["file"] for row in rows] == list(described)
    for row in rows:
        assert row["latency_ms_1"] > 0
        assert row["latency_ms_2"] > 0
        for key in ("bytes", "relative_error", "agreement"):
            assert row[key] == described[row["file"]][key]
    truncate(light / "model.onnx")
    with pytest.raises(UsageError, match=r"model\.onnx: its runtime .*verify says more"):
        benchmark.benchmark(light)
