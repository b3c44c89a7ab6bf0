"""What was found of a folder's images, kept so that the next look only takes what has changed.

It is kept in the user's cache (XDG_CACHE_HOME, else ~/.cache), never in the folder itself, which
may be read-only, shared, or under version control.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from keras_cnns.data.images import shown
from keras_cnns.data.verdict import Verdict, many_looks

VERSION = 2
"""Of what `look` finds: another one makes every file be looked at again."""

State = tuple[int, int] | None


def verdicts(root: str, paths: Sequence[str]) -> dict[str, Verdict]:
    """Return what is known of images below a folder, after a look at those that changed.

    A file has changed when its size or the time of its last change has. What was found until an
    interruption is kept.
    """
    place = manifest_place(root)
    known = _read(place)
    states = {path: _state(path) for path in paths}
    found: dict[str, Verdict] = {}
    for path, state in states.items():
        before, verdict = known.get(os.path.relpath(path, root), (None, None))
        if state and verdict and before == state:
            found[path] = verdict
    changed = [path for path in paths if path not in found]
    try:
        with many_looks(changed) as looks:
            for path, verdict in zip(changed, looks, strict=True):
                found[path] = verdict
    finally:
        if changed or len(known) != len(found):
            _write(place, root, states, found)
    return found


def manifest_place(root: str) -> Path:
    """Return the file in which it is kept what was found of a folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = hashlib.blake2b(os.fsencode(os.path.realpath(root)), digest_size=8).hexdigest()
    return cache / "keras_cnns" / f"{name}.json"


def _state(path: str) -> State:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def _read(place: Path) -> dict[str, tuple[State, Verdict]]:
    try:
        kept = json.loads(place.read_text(encoding="ascii"))
        if kept["version"] != VERSION:
            return {}
        return {
            name: ((size, changed), _verdict(row))
            for name, ((size, changed), row) in kept["files"].items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        # Torn or of another program: it is only a memory of what can be looked at again.
        return {}


def _verdict(row: Mapping[str, Any]) -> Verdict:
    findings = tuple((kind, why) for kind, why in row["findings"])
    return Verdict(**{**row, "findings": findings})


def _write(
    place: Path, root: str, states: Mapping[str, State], found: Mapping[str, Verdict]
) -> None:
    files = {
        os.path.relpath(path, root): (states[path], verdict._asdict())
        for path, verdict in found.items()
        # What cannot be read now may be once it is allowed, or there is more memory.
        if states[path] and not any(kind == "unreadable" for kind, _ in verdict.findings)
    }
    temporary = place.with_name(f".{os.getpid()}.{place.name}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"version": VERSION, "folder": root, "files": files})
        temporary.write_text(text, encoding="ascii")
        os.replace(temporary, place)
    except OSError as error:
        reason = error.strerror or error
        print(
            f"cannot keep what was found of {shown(root)} in {place.parent} ({reason}): "
            "it will be looked at again",
            file=sys.stderr,
        )
    finally:
        if temporary.exists():
            temporary.unlink()
