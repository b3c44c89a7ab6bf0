"""Train a narrow member of every family on digits, and export it as int8, dynamic and QDQ files.

    python experiments/export/quantized.py RUNS [FAMILY ...]

Takes half an hour on two cores. RUNS is a folder that keeps the trained members: those in it are
exported again, and not trained. Training and export have processes of their own; quantized.json
beside this file is written after each family, files that were refused included. The table that is
printed at the end has the accuracy of the float model and of each file on the test digits, which
`verify` judges only where there are 500 or more, and PSNR and agreement, which it does judge.
"""

import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tqdm import tqdm

from keras_cnns.export import ExportError, manifest
from keras_cnns.export.subject import export_subject

RECORD = Path(__file__).with_name("quantized.json")
KEPT = ("format", "quantization", "bytes", "psnr_db", "agreement", "ties", "accuracy", "passed")
KEPT += ("integer_only", "latency_ms_1", "latency_ms_2", "why")

# A network of each family, made narrow, and fit for 32 pixels where the paper's is not.
MEMBERS = {
    "LeNet": ("lenet5", []),
    "AlexNet": ("alexnet", ["model.width=0.125", "model.spec.conv1.strides=1"]),
    "NiN": (
        "nin_cifar",
        ["model.width=0.5", *(f"model.spec.blocks.{i}.dropout=0" for i in (0, 1))],
    ),
    "VGG": ("vgg11_bn", ["model.width=0.125"]),
    "Inception": ("inception_v1", ["model.width=0.125", "model.spec.stem.kind=small"]),
    "Inception-ResNet": (
        "inception_resnet_v1",
        [
            "model.width=0.125",
            *(f"model.spec.stem.{i}.strides=1" for i in (0, 3, 6)),
            *(f"model.spec.{stage}.depth=2" for stage in "abc"),
        ],
    ),
    "Xception": ("xception", ["model.width=0.125"]),
    "ResNet": ("resnet20_cifar", ["model.width=0.5"]),
    "DenseNet": ("densenet40_cifar", [f"model.spec.blocks.{i}.depth=4" for i in range(3)]),
    "RepVGG": ("repvgg_a0", ["model.width=0.25", "model.spec.stem=small"]),
    "MLP-Mixer": ("mixer_s32", ["model.width=0.125", "model.spec.patch_size=4"]),
}
EPOCHS = {"LeNet": 30, "AlexNet": 16, "NiN": 30, "VGG": 16, "MLP-Mixer": 24}
USUAL_EPOCHS = 10


def command(*words: object) -> str:
    """Run a command of keras-cnns and return what it printed; say why where it failed."""
    line = [sys.executable, "-m", "keras_cnns", *map(str, words)]
    done = subprocess.run(line, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise RuntimeError(
            said[-1] if said and done.returncode > 0 else f"it ended with {done.returncode}"
        )
    return done.stdout


def exported(run: Path) -> dict[str, object]:
    """Export a run; return what was measured of its files, and why they were refused if so."""
    with tempfile.TemporaryDirectory() as folder:
        formats, quantize = ("tflite", "onnx"), ("dynamic", "int8")
        try:
            made = export_subject(
                str(run), Path(folder, "out"), formats=formats, quantize=quantize
            )["artifacts"]
            why = ""
        except ExportError as error:
            made, why = error.artifacts, str(error)
    files = [{key: artifact[key] for key in KEPT if key in artifact} for artifact in made]
    return {"passed": not why, "why": why, "artifacts": files}


def measured(family: str, runs: Path) -> dict[str, object]:
    """Train one member where RUNS lacks it, and export it; return what was measured."""
    name, settings = MEMBERS[family]
    settings = [*settings, "data.batch_size=32", f"train.epochs={EPOCHS.get(family, USUAL_EPOCHS)}"]
    found: dict[str, object] = {"network": name, "settings": settings}
    if not (runs / family).exists():
        options = [word for setting in settings for word in ("--set", setting)]
        command("train", name, "--data", "digits", "--out", runs / family, *options)
    start = time.monotonic()
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        found |= pool.submit(exported, runs / family).result()
    return found | {"seconds": round(time.monotonic() - start)}


def main(runs: str, *families: str) -> int:
    """Run these families, or all; return 1 where one has failed."""
    record = json.loads(RECORD.read_text()) if RECORD.is_file() else {"families": {}}
    record["versions"] = manifest.versions()
    found = record["families"]
    for family in tqdm(families or MEMBERS):
        found[family] = measured(family, Path(runs))
        temporary = RECORD.with_suffix(".tmp")
        temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        temporary.replace(RECORD)
    for family, row in found.items():
        print(f"{family:17}", row.get("why", ""))
        for file in row.get("artifacts", []):
            print(
                f"    {file['format']:8}{file['quantization']:9}accuracy {file['accuracy']:.4f}  "
                f"PSNR {file['psnr_db']:.1f} dB  agreement {file['agreement']}  {file['why']}"
            )
    return 0 if all(row["passed"] for row in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
