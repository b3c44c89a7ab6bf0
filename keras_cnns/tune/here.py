"""The trials of a search on this machine, several at a time."""

import os
import threading
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path

from keras_cnns.errors import UsageError
from keras_cnns.recipe import Recipe
from keras_cnns.tune.engine import Search
from keras_cnns.tune.steps import Wait
from keras_cnns.tune.trainer import TRIAL, Trainer, job

PAUSE = 0.5  # seconds between two looks at whether to go on


def cores() -> list[int]:
    """Return the processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def shares(jobs: int) -> list[list[int]]:
    """Return the processor cores of each of several jobs.

    Raises:
        UsageError: for no job, and for more of them than cores.

    >>> shares(1) == [cores()]
    True
    """
    all_cores = cores()
    count = len(all_cores)
    if not 1 <= jobs <= count:
        raise UsageError(
            f"received {jobs} jobs, but each has cores of its own, and there are {count}; "
            f"give 1 to {count}"
        )
    return [all_cores[i * count // jobs : (i + 1) * count // jobs] for i in range(jobs)]


def train(
    search: Search, recipe: Recipe, out: Path, jobs: int = 1, command: Sequence[str] = TRIAL
) -> None:
    """Train all trials of a search, `jobs` at a time, each on its share of the cores.

    What an oracle proposes depends on which trials have ended, so that with several jobs the same
    seed is the same search only for an oracle that does not heed the scores.
    """
    stop = threading.Event()

    def work(name: str, share: Sequence[int]) -> None:
        if hasattr(os, "sched_setaffinity"):  # macOS pins nothing
            os.sched_setaffinity(0, share)  # of this thread, and of the processes that it starts
        with Trainer(command) as trainer:
            while not stop.is_set() and (order := search.take(name)) is not None:
                if isinstance(order, Wait):
                    stop.wait(PAUSE)
                    continue
                number = str(order["id"])

                def beat(number: str = number) -> bool:
                    return not stop.is_set() and search.beat(name, number)

                more = search.more(number)
                outcome = trainer.run(job(order, recipe, out), more=more, beat=beat, every=PAUSE)
                if outcome is not None:
                    search.finish(number, outcome)

    with ThreadPoolExecutor(jobs) as pool:
        try:
            working = [pool.submit(work, f"job {i}", own) for i, own in enumerate(shares(jobs))]
            for future in wait(working, return_when=FIRST_EXCEPTION).done:
                future.result()
        finally:
            stop.set()
