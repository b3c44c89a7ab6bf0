"""What is wrong with a folder of images: by file, by class, and between train and test."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from keras_cnns.data.images import SUFFIXES, shown
from keras_cnns.data.verdict import Verdict
from keras_cnns.errors import suggest

UNBALANCED = 10
"""How many times as many images as another a class has before that is worth a warning."""
NAMED = 3

Splits = Mapping[str, Mapping[str, Sequence[str]]]


def usable(splits: Splits, verdicts: Mapping[str, Verdict]) -> dict[str, dict[str, list[str]]]:
    """Return the same splits and classes with the images that can be used."""
    return {
        split: {
            label: [path for path in paths if verdicts[path].usable]
            for label, paths in classes.items()
        }
        for split, classes in splits.items()
    }


def left_out(root: str, verdicts: Mapping[str, Verdict]) -> str:
    """Return a line on the images that cannot be used, or nothing."""
    bad = [
        f"{_name(root, path)} ({verdict.findings[0][1]})"
        for path, verdict in verdicts.items()
        if not verdict.usable
    ]
    if not bad:
        return ""
    return f"left out {len(bad):,} of {len(verdicts):,} images: {_some(bad)}"


def not_taken(root: str, ignored: Sequence[str]) -> str:
    """Return a line on the entries that are not used, but for hidden ones, or nothing."""
    seen = [path for path in ignored if not os.path.basename(path).startswith(".")]
    folders = [_name(root, path) + os.sep for path in seen if os.path.isdir(path)]
    files = [_name(root, path) for path in seen if not os.path.isdir(path)]
    if not seen:
        return ""
    taken = f"images are files in the folder of a class, named {', '.join(SUFFIXES)}"
    return f"not taken: {_some([*folders, *files])}; {taken}"


def unfit(splits: Splits) -> Iterator[str]:
    """Give what keeps a network from being trained on a folder, a line each."""
    train = splits["train"]
    if not train:
        yield "it is empty; it needs a sub-folder of images for each class"
    if len(train) == 1:
        yield (
            f'there is one class, "{next(iter(train))}"; '
            "to tell classes apart takes at least two sub-folders of images"
        )
    for split, classes in splits.items():
        if not classes and split != "train":
            yield f"the {split} folder is empty; fill it or remove it"
        for label, paths in classes.items():
            where = f'class "{label}"' + (f" ({split})" if len(splits) > 1 else "")
            if not paths:
                yield (
                    f"{where} has no images that can be used; "
                    f"add some ({', '.join(SUFFIXES)}) or remove it"
                )
            if label not in train:
                yield f"{where} is not a class of train{suggest(label, train)}"


def warnings(root: str, splits: Splits, verdicts: Mapping[str, Verdict]) -> list[str]:
    """Return what prevents or may spoil a training though every file can be used, a line each.

    Args:
        root: of the folder.
        splits: split -> label -> paths of the images that can be used.
        verdicts: path -> verdict.
    """
    found = list(unfit(splits))
    train = splits["train"]
    counts = Counter({label: len(paths) for label, paths in train.items() if paths})
    if counts:
        (most, many), *_, (least, few) = [*counts.most_common(), *counts.most_common()[-1:]]
        if many > UNBALANCED * few:
            found.append(f'unbalanced: "{most}" has {many:,} images to train on, "{least}" {few:,}')
    label_of = {
        path: label for part in splits.values() for label, ps in part.items() for path in ps
    }
    twice = [group for split in splits for group in _equal(_paths(splits, [split]), verdicts)]
    for what, groups in (
        ("is there more than once", [g for g in twice if len({label_of[p] for p in g}) == 1]),
        ("is in two classes", [g for g in twice if len({label_of[p] for p in g}) > 1]),
    ):
        if groups:
            pairs = [" = ".join(_name(root, path) for path in group) for group in groups]
            found.append(f"the same image {what}: {_some(pairs)}")
    for split in splits:
        if split != "train" and (both := leaks(splits, split, verdicts)):
            pairs = [" = ".join(_name(root, path) for path in pair) for pair in both]
            found.append(f"{len(both):,} {split} images stand in train too: {_some(pairs)}")
    return found


def leaks(splits: Splits, split: str, verdicts: Mapping[str, Verdict]) -> list[tuple[str, str]]:
    """Return the images of a split that are also in train, with their likes there."""
    trained = {verdicts[path].digest: path for path in _paths(splits, ["train"])}
    return [
        (path, trained[verdicts[path].digest])
        for path in _paths(splits, [split])
        if verdicts[path].digest in trained
    ]


def diagnose(
    root: str, splits: Splits, verdicts: Mapping[str, Verdict], ignored: Sequence[str]
) -> dict[str, Any]:
    """Return everything that is known of a folder, ready for JSON.

    Args:
        root: of the folder.
        splits: split -> label -> paths of all images.
        verdicts: path -> verdict.
        ignored: paths of what is not taken for an image.

    Returns:
        "data", "images", "usable"; "classes": split -> label -> usable images; "files": those of
        which something is to be said, [{file, usable, findings: [{kind, why}]}]; "duplicates" and
        "leaks": lists of files; "ignored": suffix -> files; "warnings"; "passed".
    """
    good = usable(splits, verdicts)
    lines = [*filter(None, [not_taken(root, ignored)]), *warnings(root, good, verdicts)]
    files = [
        {
            "file": _name(root, path),
            "usable": verdict.usable,
            "findings": [{"kind": kind, "why": why} for kind, why in verdict.findings],
        }
        for path, verdict in verdicts.items()
        if verdict.findings
    ]
    used = sum(verdict.usable for verdict in verdicts.values())
    same = _equal(_paths(good, good), verdicts)
    both = [pair for split in good if split != "train" for pair in leaks(good, split, verdicts)]
    return {
        "data": shown(root),
        "images": len(verdicts),
        "usable": used,
        "classes": {
            split: {label: len(paths) for label, paths in part.items()}
            for split, part in good.items()
        },
        "files": files,
        "duplicates": [[_name(root, path) for path in group] for group in same],
        "leaks": [[_name(root, path) for path in pair] for pair in both],
        "ignored": dict(Counter(os.path.splitext(path)[1].lower() or "other" for path in ignored)),
        "warnings": lines,
        "passed": used == len(verdicts) and not lines,
    }


def _paths(splits: Splits, names: Iterable[str]) -> Iterator[str]:
    return (path for name in names for paths in splits[name].values() for path in paths)


def _equal(paths: Iterable[str], verdicts: Mapping[str, Verdict]) -> list[list[str]]:
    """Return the groups of equal files."""
    groups: dict[str, list[str]] = {}
    for path in paths:
        groups.setdefault(verdicts[path].digest, []).append(path)
    return [group for group in groups.values() if len(group) > 1]


def _name(root: str, path: str) -> str:
    return shown(os.path.relpath(path, root))


def _some(items: Sequence[str]) -> str:
    more = f" and {len(items) - NAMED:,} more" if len(items) > NAMED else ""
    return ", ".join(items[:NAMED]) + more
