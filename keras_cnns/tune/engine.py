"""The mind of a search: what to train next, and what came of it. Safe for several threads."""

import math
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from itertools import chain
from random import Random
from typing import Any, NamedTuple

from keras_cnns import spec as specs
from keras_cnns.errors import UsageError
from keras_cnns.recipe import Recipe
from keras_cnns.tune import kerastuner
from keras_cnns.tune.answer import finalists
from keras_cnns.tune.book import Book, Record, name_of
from keras_cnns.tune.budget import Market
from keras_cnns.tune.oracles import ORACLES
from keras_cnns.tune.sampler import finished, propose, random_points
from keras_cnns.tune.steps import Step, Wait

LOSSES = 3  # workers that a trial may take with it
TOO_SLOW = 20  # networks measured in a row, none of them fast enough

Order = dict[str, Any]


class Plan(NamedTuple):
    """What a search is to do.

    `recipe` is resolved, `anchor` a point within the market's budget, `oracle` one of ours or of
    `kerastuner.NAMES`; `trials` are to be trained in all, the best `finalists` and the network as
    it stands `repeat` times more.
    """

    recipe: Recipe
    market: Market
    anchor: Mapping[str, float]
    oracle: str = "random"
    trials: int = 1
    repeat: int = 0
    finalists: int = 1
    repeat_on: str = "test"
    max_latency_ms: float | None = None
    latency_of: str = "tflite"


class Lease(NamedTuple):
    """Who trains a trial, and until when that is believed without a word from there."""

    worker: str
    until: float


class Search:
    """A search at work.

    Args:
        plan: what to do.
        book: what was done.
        changed: called after each change of the book.
        lease: seconds for which a worker is believed to train without a word from it.
        away: whether those at work in the book may still be, on other machines.
    """

    def __init__(
        self,
        plan: Plan,
        book: Book,
        *,
        changed: Callable[[], object] = lambda: None,
        lease: float = 30.0,
        away: bool = False,
    ) -> None:
        self.plan, self.book, self.changed, self.lease = plan, book, changed, lease
        self.exhausted = False
        self._lock = threading.RLock()
        self._leases: dict[str, Lease] = {}
        self._seen: list[str] = []  # keys of the trials, in their order
        if away:
            until = time.monotonic() + lease
            self._leases = {record["id"]: Lease("", until) for record in self._running()}

    def take(self, worker: str) -> Order | Wait | None:
        """Return what a worker is to train, WAIT, or None where nothing is left to do.

        A trial that it has, or whose worker is lost, comes first, then the trials still wanted,
        then the repeats.
        """
        with self._lock:
            self._drop_lapsed()
            running = self._running()
            owner = {name: lease.worker for name, lease in self._leases.items()}
            # A worker that asks twice did not get the answer.
            free = [r for r in running if owner.get(r["id"], worker) == worker]
            record = free[0] if free else None
            if record is None:
                began = time.monotonic()
                made = self._next() if self._wanted() else None
                took = time.monotonic() - began  # in which nobody could be heard
                for name, lease in self._leases.items():
                    self._leases[name] = lease._replace(until=lease.until + took)
                if isinstance(made, Wait) or (made is None and self._at_work(running)):
                    return Wait()
                record = made or self._next_repeat()
            if record is None:
                return Wait() if running else None
            self._leases[record["id"]] = Lease(worker, time.monotonic() + self.lease)
            self._say(record)
            return self._order(record)

    def beat(self, worker: str, name: str) -> bool:
        """Note that a worker is still at a trial; return whether it is to go on."""
        with self._lock:
            record = self.book.records.get(name)
            lease = self._leases.get(name)
            mine = lease is None or lease.worker in ("", worker)
            if record is None or record["status"] != "running" or not mine:
                return False
            self._leases[name] = Lease(worker, time.monotonic() + self.lease)
            return True

    def finish(self, name: str, outcome: Mapping[str, Any]) -> None:
        """Note what came of a trial; the first word counts, where two workers had it."""
        with self._lock:
            record = self.book.records.get(name)
            if record is None or record["status"] != "running":
                return
            status, why = "failed", str(outcome.get("why") or "the score is no number")
            score = outcome.get("score")
            if "refused" in outcome:
                status, why = "refused", str(outcome["refused"])
            elif isinstance(score, float) and math.isfinite(score):
                status, why = "completed", ""
            if status == "refused":
                limit = f"--max-latency-ms {self.plan.max_latency_ms:g}"
                why = f"{why} as {self.plan.latency_of}, above {limit}"
            kept = {key: outcome.get(key) for key in ("seconds", "latency_ms")}
            kept["score"] = score if status == "completed" else None
            self._leases.pop(name, None)
            self.book.write({**record, **kept, "status": status, "why": why})
            said = f"{score:.2%}" if status == "completed" else f"{status}: {why}"
            print(f"    {name}: {said}, {kept['seconds'] or 0:.0f} s", file=sys.stderr)
            if status == "refused" and finished(self.book.trials()) and self._all_too_slow():
                print(f"{self._all_too_slow()}; no more are tried", file=sys.stderr)
            self.changed()

    def more(self, name: str) -> bool:
        """Return whether something is to follow a trial that is at work."""
        with self._lock:
            others = [record for record in self._running() if record["id"] != name]
            return bool(others or self._wanted() or self._missing_repeat())

    def done(self) -> bool:
        """Return whether nothing is left to do."""
        with self._lock:
            self._drop_lapsed()
            return not (self._running() or self._wanted() or self._missing_repeat())

    def _running(self) -> list[Record]:
        return [record for record in self.book.records.values() if record["status"] == "running"]

    def _at_work(self, running: list[Record]) -> bool:
        """Return whether trials, not repeats, are at work: what comes after them must wait."""
        return any("of" not in record for record in running)

    def _wanted(self) -> int:
        trials = self.book.trials()
        if self.exhausted or (finished(trials) and self._all_too_slow()):
            return 0
        counted = [trial for trial in trials if trial["status"] != "refused"]
        return max(0, self.plan.trials - len(counted))

    def _all_too_slow(self) -> str | None:
        """Say that the last networks in a row were too slow, where there were so many."""
        last = self.book.trials()[-TOO_SLOW:]
        if len(last) < TOO_SLOW or any(trial["status"] != "refused" for trial in last):
            return None
        return (
            f"none of {TOO_SLOW} networks in a row was fast enough for --max-latency-ms "
            f"{self.plan.max_latency_ms:g}: the fastest took "
            f"{min(trial['latency_ms'] for trial in last):.3g}"
        )

    def _drop_lapsed(self) -> None:
        now = time.monotonic()
        for name in [name for name, lease in self._leases.items() if lease.until < now]:
            lost = self._leases.pop(name)
            record = self.book.records[name]
            losses = record.get("losses", 0) + bool(lost.worker)
            print(f"    {name}: nothing heard of {lost.worker or 'its worker'}", file=sys.stderr)
            if losses >= LOSSES:
                why = f"{losses} workers were lost with it"
                self.book.write({**record, "status": "failed", "why": why, "losses": losses})
                self.changed()
            else:
                self.book.write({**record, "losses": losses})

    def _next(self) -> Record | Wait | None:
        """Make a record of the next trial, as the oracle has it; None where there is none."""
        trials, market = self.book.trials(), self.plan.market
        if slow := self._all_too_slow():
            if self._at_work(self._running()):
                return Wait()
            raise UsageError(f"{slow}; give more, or a lower --max-macs")
        number = int(trials[-1]["id"]) + 1 if trials else 0  # records may have been removed
        draw = Random(f"{self.plan.recipe.seed} {number}")
        for trial in trials[len(self._seen) :]:
            self._seen.append(market.key(trial["values"]))
        seen = set(self._seen)
        default = market.space.default
        first = [] if trials or not market.fits(default) else [default]
        step: Step | Wait | None
        if self.plan.oracle in kerastuner.NAMES:
            step = kerastuner.next_step(
                self.plan.oracle,
                market,
                trials,
                number=number,
                epochs=self.plan.recipe.train.epochs,
                seen=seen,
                anchor=self.plan.anchor,
                first=first,
                draw=draw,
                wanted=self._wanted(),
            )
        else:
            oracle = ORACLES[self.plan.oracle]
            candidates = chain(first, oracle(market.space, trials, draw))
            found = propose(candidates, market, seen, self.plan.anchor, draw) or propose(
                random_points(market.space, draw), market, seen, self.plan.anchor, draw
            )
            step = Step(*found) if found else None
        if step is None:
            self.exhausted = not self._at_work(self._running())
            return None
        if isinstance(step, Wait):
            return step
        extra = {"state": step.state, "after": step.after, "epochs": step.epochs}
        return self._new(name_of(number), step.values, step.rejected, step.initial_epoch, extra)

    def _missing_repeat(self) -> tuple[str, Mapping[str, float], Record] | None:
        """Return the next training of a finalist, or of the network as it stands."""
        best = finalists(self.book.trials(), self.plan.market, self.plan.finalists)
        points = {"paper": self.plan.market.space.default}
        points |= {trial["id"]: trial["values"] for trial in best}
        for n in range(1, self.plan.repeat + 1):
            for of, values in points.items():
                name = f"repeat-{of}-{n}"
                if name not in self.book.records:
                    return name, values, {"of": of, "seed": (self.plan.recipe.seed + n) % 2**32}
        return None

    def _next_repeat(self) -> Record | None:
        missing = self._missing_repeat()
        return self._new(missing[0], missing[1], 0, 0, missing[2]) if missing else None

    def _new(
        self, name: str, values: Mapping[str, float], rejected: int, begun: int, extra: Record
    ) -> Record:
        price = self.plan.market.price(values)
        assert price is not None
        return self.book.write(
            {
                "id": name,
                "values": dict(values),
                "params": price.params,
                "macs": price.macs,
                "status": "running",
                "score": None,
                "why": "",
                "seed": self.plan.recipe.seed,
                "rejected": rejected,
                "initial_epoch": begun,
                **extra,
            }
        )

    def _order(self, record: Record) -> Order:
        """Return what a worker must know of a trial."""
        partial = record.get("epochs") is not None
        weights = {"load": record.get("after"), "save": record["id"] if partial else None}
        repeat, limit = "of" in record, self.plan.max_latency_ms
        return {
            "id": record["id"],
            "spec": specs.to_dict(self.plan.market.space.spec_of(record["values"])),
            "train": asdict(self.plan.recipe.train),
            "seed": record["seed"],
            "epochs": record.get("epochs"),
            "initial_epoch": record["initial_epoch"],
            **{key: name and f"weights/{name}.npz" for key, name in weights.items()},
            "split": self.plan.repeat_on if repeat else "validation",
            "max_latency_ms": None if repeat or record.get("after") else limit,
            "format": self.plan.latency_of,
        }

    def _say(self, record: Record) -> None:
        cost = f"{record['macs']:,} MACs, {record['params']:,} parameters"
        if "of" in record:
            print(f"{record['id']}: {cost}", file=sys.stderr)
        else:
            kept = [trial["id"] for trial in self.book.trials() if trial["status"] != "refused"]
            number = kept.index(record["id"]) + 1
            print(f"trial {number} of {self.plan.trials}: {cost}", file=sys.stderr)
