"""Export every network at its paper's size to every format, and keep what verify says.

    python experiments/export/matrix.py ['PATTERN']

Takes about two hours on two cores; the largest need 14 GB of memory. Weights are drawn by a seed,
batch normalisation's statistics included. Each network has a process of its own; matrix.json beside
this file is written after each, and those in it are not run again. The table that is printed at the
end says what failed, and why.
"""

import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tqdm import tqdm

import keras_cnns

RECORD = Path(__file__).with_name("matrix.json")
KEPT = ("format", "quantization", "bytes", "relative_error", "agreement", "passed", "why")


def run(name: str) -> dict[str, object]:
    """Export a network in a process of its own; return what was measured, or the reason."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "keras_cnns", "export", name, "--out", f"{folder}/out"]
        done = subprocess.run(
            [*command, "--quantize", "float16", "--json"], capture_output=True, text=True
        )
    found: dict[str, object] = {"seconds": round(time.monotonic() - start)}
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        return found | {"passed": False, "why": f"killed by {name}; is there memory enough?"}
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it said nothing"]
        return found | {"passed": False, "why": lines[-1]}
    made = json.loads(done.stdout)
    files = [{key: artifact[key] for key in KEPT} for artifact in made["artifacts"]]
    return found | {
        "passed": all(file["passed"] for file in files),
        "largest_logit": made["reference"]["largest_logit"],
        "versions": made["versions"],
        "artifacts": files,
    }


def main(pattern: str = "*") -> int:
    """Run the networks that the record lacks; return 1 where one has failed."""
    record = json.loads(RECORD.read_text()) if RECORD.is_file() else {}
    names = keras_cnns.list_models(pattern)
    for name in tqdm([name for name in names if name not in record]):
        record[name] = run(name)
        temporary = RECORD.with_suffix(".tmp")
        temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        temporary.replace(RECORD)
    for name in filter(record.get, names):
        errors = [f"{file['relative_error']:.1e}" for file in record[name].get("artifacts", [])]
        print(f"{name:24}", *errors, record[name].get("why", ""))
    return 0 if all(record[name]["passed"] for name in names) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
