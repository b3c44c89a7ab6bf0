"""A process for each trial, so that what it takes and breaks is gone with it."""

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from keras_cnns import recipe as recipes
from keras_cnns.errors import UsageError
from keras_cnns.recipe import Recipe, Train

SECONDS = 10.0  # for a process to end that has answered
TRIAL = (sys.executable, "-m", "keras_cnns.tune.trial")

Order = dict[str, Any]
Outcome = dict[str, Any]


def job(order: Order, recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Return an order as the job of a process on this machine.

    Args:
        order: of `Search.take`.
        recipe: resolved, with where this machine has the data.
        folder: of this machine, for the data and weights.
    """
    wanted = replace(
        recipe,
        model=replace(recipe.model, spec=order["spec"]),
        train=Train(**order["train"]),  # what it leaves to the machine is the same on all
    )
    return {**order, "recipe": recipes.to_toml(wanted), "folder": str(folder)}


class Process:
    """A process that reads one job, as a line of JSON, and answers with a line.

    It ends when the pipe to it is closed, so that none outlives the search. What it says else is
    kept aside for the reason of its failure.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self.said = tempfile.TemporaryFile()  # noqa: SIM115  # closed by `end`
        self.popen = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.said,
            start_new_session=True,  # Ctrl-C is for the search
        )

    def run(self, job: Mapping[str, Any], beat: Callable[[], bool], every: float) -> Outcome | None:
        """Return the outcome of a job; None once `beat`, called every so often, says to stop."""
        assert self.popen.stdin and self.popen.stdout
        try:
            self.popen.stdin.write(json.dumps(job).encode() + b"\n")
            self.popen.stdin.flush()
        except BrokenPipeError:
            return {"why": self._reason()}
        while not select.select([self.popen.stdout], [], [], every)[0]:
            if not beat():
                return None
        answer = self.popen.stdout.readline()
        try:
            outcome = json.loads(answer)
        except ValueError:
            outcome = None
        return outcome if isinstance(outcome, dict) else {"why": self._reason()}

    def _reason(self) -> str:
        """Return why the process ended without an answer."""
        try:
            status = self.popen.wait(SECONDS)
        except subprocess.TimeoutExpired:
            return "an answer that is none"
        self.said.seek(0)
        lines = self.said.read().decode(errors="replace").strip().splitlines()
        last = f": {lines[-1].strip()}" if lines else ""
        if status == -signal.SIGKILL:
            return "killed by SIGKILL, as a system does that is out of memory"
        if status < 0:
            return f"killed by {signal.Signals(-status).name}{last}"
        return f"ended with status {status}{last}"

    def end(self) -> None:
        """End the process, whatever it does."""
        with suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait()
        for file in (self.popen.stdin, self.popen.stdout, self.said):
            if file:
                with suppress(BrokenPipeError):  # of what was not written to it
                    file.close()


class Trainer:
    """Runs jobs, each in a process of its own that has started while the one before was at work.

    Starting TensorFlow takes seconds, which so cost nothing where there is a core to spare.
    """

    def __init__(self, command: Sequence[str] | None = None) -> None:
        self.command = command or TRIAL
        self.spare: Process | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.spare:
            self.spare.end()
            self.spare = None

    def run(
        self,
        job: Mapping[str, Any],
        *,
        more: bool = False,
        beat: Callable[[], bool] = lambda: True,
        every: float = 60.0,
    ) -> Outcome | None:
        """Return the outcome of a job: {"score", ...}, or {"why": the reason of its failure}.

        Args:
            job: what the process is to read.
            more: whether another job is to follow.
            beat: called every so often; the job is given up once it returns False.
            every: seconds between its calls.

        Raises:
            UsageError: where this machine cannot train any, as with a full disk.
        """
        if self.spare and self.spare.popen.poll() is not None:  # died while it waited
            self.spare.end()
            self.spare = None
        process, self.spare = self.spare or Process(self.command), None
        try:
            if more:
                self.spare = Process(self.command)
            outcome = process.run(job, beat, every)
        finally:
            process.end()
        if outcome and "stop" in outcome:
            raise UsageError(
                f"{job['id']} cannot be trained here: {outcome['stop']}; mend that, and the same "
                "command goes on"
            )
        return outcome
