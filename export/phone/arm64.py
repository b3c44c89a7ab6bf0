"""Run an artifact folder as the ARM code of a phone, emulated, and compare it with this machine.

`python arm64.py ARTIFACTS` runs every TFLite and ONNX file on the reference images, here and under
qemu, and exits with 1 where the two differ by more than `LIMITS`. The first run sets up a small
Debian for ARM in a cache folder, 0.2 GB; that takes no root, no container and no binfmt.

Times mean nothing in an emulator, so that none are taken.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

HERE = Path(__file__).parent
SUITE, PYTHON = "bookworm", "3.11"
DEBS = "libpython3-stdlib,libstdc++6,python3-minimal"
INSTALL = "apt-get install qemu-user-static mmdebstrap"

# How far probabilities may be from those of x86. LiteRT's integers are the same everywhere up to
# the softmax, whose table has 16 bits on ARM and floats elsewhere: that can make a step of 1/256.
# ONNX Runtime's fused integer kernels round differently on each machine. `dynamic` rounds
# activations by what floats say of their range: a last bit there can move one over the edge.
LIMITS = {
    ("tflite", "float32"): 1e-5,
    ("tflite", "float16"): 1e-5,
    ("tflite", "dynamic"): 0.05,
    ("tflite", "int8"): 1 / 256,
    ("onnx", "float32"): 1e-5,
    ("onnx", "int8"): 0.05,
}

# The CPU to emulate: with "max", qemu 7.2 gives wrong integers. LiteRT asks the kernel what the CPU
# can do and would be told of the x86 outside, so what it reads is laid into the root, where
# qemu looks first. The features must be those of that CPU.
CPU = "neoverse-n1"
FEATURES = "fp asimd aes pmull sha1 sha2 crc32 atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp"
CORE = f"""processor\t: 0
Features\t: {FEATURES}
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x3
CPU part\t: 0xd0c
CPU revision\t: 1

"""
KERNEL = {
    "proc/cpuinfo": CORE,
    "sys/devices/system/cpu/possible": "0\n",
    "sys/devices/system/cpu/present": "0\n",
    "sys/devices/system/cpu/online": "0\n",
}

# Debian 13 has it under the shorter name.
QEMU = next(filter(shutil.which, ("qemu-aarch64-static", "qemu-aarch64")), "qemu-aarch64-static")


class Answer(NamedTuple):
    """What one file said here and as ARM code: probabilities, (images, classes) each.

    `limit` is how far the two may be apart.
    """

    file: str
    limit: float
    here: np.ndarray
    arm64: np.ndarray

    @property
    def error(self) -> float:
        """Return the largest difference of a probability."""
        return float(np.abs(self.here - self.arm64).max())


def missing() -> str:
    """Return what has to be installed first, or nothing."""
    lacking = [name for name in ("mmdebstrap", QEMU) if not shutil.which(name)]
    return f"{' and '.join(lacking)} not found: {INSTALL}" if lacking else ""


def set_up(cache: Path) -> Path:
    """Return a folder with Debian's Python for ARM, and this kit's requirements in `site`.

    It is made once, in a minute, and again when one of its ingredients changes.
    """
    recipe = (HERE / "requirements.txt").read_text() + SUITE + PYTHON + DEBS + json.dumps(KERNEL)
    root = cache / f"arm64-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"
    if root.is_dir():
        return root
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        partial = Path(scratch, "root")
        debian = ["mmdebstrap", "--quiet", "--mode=chrootless", "--variant=extract"]
        _do([*debian, "--arch=arm64", f"--include={DEBS}", SUITE, str(partial)])
        platforms = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64")
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"]
        pip += ["--only-binary=:all:", f"--python-version={PYTHON}", f"--target={partial / 'site'}"]
        pip += [f"--platform={platform}" for platform in platforms]
        _do([*pip, "--requirement", str(HERE / "requirements.txt")])
        for name, text in KERNEL.items():
            path = partial / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        partial.rename(root)
    return root


def emulated(root: Path) -> list[str]:
    """Return the command that stands for `python` and runs as ARM code."""
    given = [f"PYTHONHOME={root / 'usr'}", f"PYTHONPATH={root / 'site'}"]
    given = [word for variable in given for word in ("-E", variable)]
    return [QEMU, "-cpu", CPU, "-L", str(root), *given, str(root / f"usr/bin/python{PYTHON}")]


def compare(folder: Path, cache: Path, *, images: int) -> Iterator[Answer]:
    """Yield an `Answer` for each TFLite and ONNX file of an artifact folder.

    Args:
        folder: what `keras-cnns export` wrote.
        cache: where the emulated system is kept.
        images: how many of the reference images to run, from the first.
    """
    root = set_up(cache.resolve())
    records = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["artifacts"]
    with tempfile.TemporaryDirectory() as scratch:
        pixels = Path(scratch, "images.npy")
        with np.load(folder / "reference.npz") as reference:
            np.save(pixels, reference["images"][:images])
        for record in records:
            kind = record["format"], record["quantization"]
            if kind not in LIMITS:
                continue
            found = []
            for python in ([sys.executable], emulated(root)):
                out = Path(scratch, "probabilities.npy")
                file = folder / record["file"]
                _do([*python, str(HERE / "answers.py"), str(file), str(pixels), str(out)])
                found.append(np.load(out))
            yield Answer(record["file"], LIMITS[kind], *found)


def _do(command: list[str]) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        said = "\n".join(done.stderr.strip().splitlines()[-5:])
        raise RuntimeError(f"{' '.join(command)}\nended with {done.returncode}:\n{said}")


def default_cache() -> Path:
    """Return where the emulated system is kept unless told otherwise."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "keras_cnns"


def main() -> int:
    """Compare one folder's files, print a table, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("artifacts", type=Path, help="a folder that keras-cnns export wrote")
    parser.add_argument("--images", type=int, default=32, help="how many reference images to run")
    parser.add_argument("--cache", type=Path, default=default_cache(), help="where to set up")
    arguments = parser.parse_args()
    if why := missing():
        parser.error(why)
    if not (arguments.artifacts / "manifest.json").is_file():
        parser.error(f"{arguments.artifacts} is not a folder that keras-cnns export wrote")
    failed = False
    print(f"{'file':22}{'largest difference':>20}{'allowed':>10}{'same class':>12}")
    try:
        for answer in compare(arguments.artifacts, arguments.cache, images=arguments.images):
            same = (answer.here.argmax(1) == answer.arm64.argmax(1)).mean()
            failed |= answer.error > answer.limit
            print(f"{answer.file:22}{answer.error:20.1e}{answer.limit:10.0e}{same:12.1%}")
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 2
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
