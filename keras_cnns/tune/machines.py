"""One search on several machines: a chief, which only decides, and workers, which train.

A worker holds a trial for as long as it is heard of; then another gets it. A chief that is killed
goes on from its folder once it is started again, with its workers, who wait for it. Neither waits
for ever.
"""

import os
import secrets
import socket
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from keras_cnns import runs
from keras_cnns.errors import UsageError
from keras_cnns.recipe import Recipe
from keras_cnns.tune import wire
from keras_cnns.tune.engine import Search
from keras_cnns.tune.steps import Wait
from keras_cnns.tune.trainer import Trainer, job
from keras_cnns.tune.wire import Address, Message

Answer = TypeVar("Answer")

BEATS = 4  # in the time for which a worker is believed without a word


def direct(search: Search, place: Address, folder: Path, about: Message, patience: float) -> None:
    """Hand out a search's trials until all are done.

    Args:
        search: at work, nobody else's.
        place: to listen on.
        folder: of the search, with its secret.
        about: what a worker must agree with.
        patience: seconds without any worker after which to give up.

    Raises:
        UsageError: where no worker has come for so long.
    """
    identity = _identity(folder)
    heard: dict[str, float] = {}
    told: set[str] = set()
    trouble: list[Exception] = []
    last = time.monotonic()

    def reply(topic: str, worker: str, message: Message) -> Message:
        nonlocal last
        if topic == "hello":
            difference = runs.first_difference(about, message["about"])
            if difference:
                raise UsageError(f"another search: {difference}")
            return {"lease": search.lease, "search": identity}
        last = heard[worker] = time.monotonic()
        if topic == "beat":
            return {"go_on": search.beat(worker, str(message["id"]))}
        if topic == "finish":
            search.finish(str(message["id"]), dict(message["outcome"]))
            return {}
        found = search.take(worker)
        last = heard[worker] = time.monotonic()  # a proposal may have taken long
        if found is None:
            told.add(worker)
        return {"order": None if isinstance(found, Wait) else found, "done": found is None}

    def answer(topic: str, message: Message) -> Message:
        worker = str(message["worker"])
        try:
            return reply(topic, worker, message)
        except Exception as error:
            # A worker's bad words are its own trouble, but a proposal is made without any.
            if topic == "take" or not isinstance(error, wire.BAD_WORDS):
                trouble.append(error)
            raise

    with wire.server(place, wire.secret(folder, make=True), answer) as port:
        here = place._replace(port=port)
        print(f"listening on {here}; waiting for workers", file=sys.stderr, flush=True)
        while not trouble:
            time.sleep(0.1)
            now = time.monotonic()
            busy = {worker for worker, when in heard.items() if now - when < search.lease}
            if search.done() and not busy - told:
                return
            if now - last > max(patience, search.lease):  # in a lease one may be at work
                raise UsageError(
                    f"no worker was heard of for {patience:g} s; the same command goes on"
                )
        raise trouble[0]


def serve(
    recipe: Recipe,
    place: Address,
    folder: Path,
    about: Message,
    patience: float,
    trainer: Trainer,
    name: str | None = None,
) -> int:
    """Train what a chief hands out until it says that all is done; return how many trials.

    Args:
        recipe: resolved, as this machine has the data.
        place: of the chief.
        folder: on this machine, for the data; may be the chief's.
        about: what the chief must agree with.
        patience: seconds to try to reach the chief.
        trainer: of the trials.
        name: of this worker, which no other has.

    Raises:
        UsageError: where the chief cannot be reached for so long or at all, or refuses, or the
            folder is of another search.
    """
    if not place.port:
        raise UsageError(f"received {place}, which no chief listens on; give the port that it says")
    # Containers may share a host's name, and each counts its processes from one.
    worker = name or f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    # A chief on this machine may yet have to write it.
    word = _patiently(lambda: wire.secret(folder), patience if place.is_here else 0.0)

    def ask(topic: str, **message: Any) -> Message:
        return _patiently(
            lambda: wire.ask(place, word, topic, {"worker": worker, **message}), patience
        )

    hello = ask("hello", about=about)
    _claim(folder, str(hello["search"]))
    print(f"training for the chief at {place}, as {worker}", file=sys.stderr, flush=True)
    lease = float(hello["lease"])
    done = 0
    while not (given := ask("take"))["done"]:
        order: Mapping[str, Any] | None = given["order"]
        if order is None:
            time.sleep(min(1.0, lease / BEATS))
            continue

        def beat(name: str = order["id"]) -> bool:
            try:
                message = {"worker": worker, "id": name}
                return bool(wire.ask(place, word, "beat", message)["go_on"])
            except ConnectionError:
                return True  # the chief may come back while the trial is at work

        outcome = trainer.run(
            job(dict(order), recipe, folder), more=True, beat=beat, every=lease / BEATS
        )
        if outcome is not None:
            ask("finish", id=order["id"], outcome=outcome)
            done += 1
    return done


def _identity(folder: Path) -> str:
    """Return what tells the search of a folder from all others."""
    place = folder / "id"
    if not place.is_file():
        runs.write_text(place, secrets.token_hex(8) + "\n")
    return place.read_text(encoding="utf-8").strip()


def _claim(folder: Path, identity: str) -> None:
    """Make a worker's folder that of a search, whose images it may already have."""
    place = folder / "id"
    if not place.is_file() and not (folder / "data").exists():
        folder.mkdir(parents=True, exist_ok=True)
        runs.write_text(place, identity + "\n")
    elif not place.is_file() or place.read_text(encoding="utf-8").strip() != identity:
        raise UsageError(f"{folder} has the images of another search; choose another --out")


def _patiently(question: Callable[[], Answer], patience: float) -> Answer:
    """Return an answer, asking until there is one."""
    until = time.monotonic() + patience
    while True:
        try:
            return question()
        except (ConnectionError, wire.NoSecret) as error:
            if time.monotonic() >= until:
                raise UsageError(f"{error}; gave up after {patience:g} s") from None
            time.sleep(min(1.0, patience / 10))
