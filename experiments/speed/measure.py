"""What the measurements here share: interleaved rounds, their medians, and what they ran on."""

import contextlib
import importlib.metadata
import json
import os
import platform
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

THREADS = 2
_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16")


def machine() -> dict[str, Any]:
    """Return the processor, what it can do, and how busy others keep it."""
    text = Path("/proc/cpuinfo").read_text()
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in fields.items()}
    return {
        "processor": fields.get("model name", platform.processor()),
        "instructions": [flag for flag in _FLAGS if flag in fields.get("flags", "").split()],
        "cores": os.cpu_count(),
        "load": [round(load, 1) for load in os.getloadavg()],
    }


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of Python and of those packages that are installed."""
    found = {"python": platform.python_version()}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def clocked(
    run: Callable[[], object], clock: Callable[[], float] = time.perf_counter, *, untimed: int = 0
) -> Callable[[], float]:
    """Return a function that runs another and returns the seconds it took, after `untimed` runs."""

    def timed() -> float:
        for _ in range(untimed):
            run()
        start = clock()
        run()
        return clock() - start

    return timed


def interleaved(
    runs: Mapping[str, Callable[[], float]], *, rounds: int, pause: float = 0.02
) -> dict[str, list[float]]:
    """Run everything once in each round, in an order drawn anew; return the seconds of each.

    What else the machine does then slows all alike. Threads that wait in a loop for the next call
    get a pause to fall asleep in.
    """
    draw = random.Random(0)
    for run in runs.values():
        run()
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name in draw.sample(list(runs), len(runs)):
            time.sleep(pause)
            seconds[name].append(runs[name]())
    return seconds


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the median and the quartiles."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": middle, "low": low, "high": high}


def speedup(slow: Sequence[float], fast: Sequence[float]) -> dict[str, float]:
    """Return how many times as fast the second is, by rounds: median and quartiles."""
    return spread([a / b for a, b in zip(slow, fast, strict=True)])


def quartile_speedup(
    slow: Sequence[float], fast: Sequence[float], draws: int = 2000
) -> dict[str, float]:
    """Return how many times as fast the second is, by the lower quartiles of the two.

    With the bounds of 95 of 100 such ratios, each of rounds drawn anew from these.
    """
    both = np.array([slow, fast])
    drawn = np.random.default_rng(0).integers(both.shape[1], size=(draws, both.shape[1]))
    ratios = np.divide(*np.quantile(both[:, drawn], 0.25, axis=-1))
    found = float(np.divide(*np.quantile(both, 0.25, axis=-1)))
    low, high = np.quantile(ratios, (0.025, 0.975))
    return {"ratio": found, "low": float(low), "high": float(high)}


def stolen() -> tuple[int, int]:
    """Return how many ticks the host took from this machine's processors, and of how many."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    return int(fields[7]), sum(map(int, fields))


def save(record: Mapping[str, Any], place: Path) -> None:
    """Write a record."""
    temporary = place.with_suffix(".tmp")
    temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    temporary.replace(place)
