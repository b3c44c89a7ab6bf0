"""A network as a paper's figure has it: its blocks in a row, in each block boxes in lanes."""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby, pairwise, takewhile
from typing import NamedTuple

from keras_cnns.arithmetic import Shape, Size, Window
from keras_cnns.paths import ends, gates, schedule, trunk
from keras_cnns.trace import Row

SHOWN = ("MaxPooling", "AveragePooling", "Adaptive", "Global", "UpSampling")
HEADS = ("Global", "Flatten")
SIGNS = {"Add": "+", "Subtract": "−", "Multiply": "×", "Concatenate": ""}
MOST_BOXES = 40  # a block of more is not drawn, but told
LONGEST_CHAIN = 5

Seen = dict[str, tuple[Window | None, Size | None]]  # receptive field and stride of each map


class Box(NamedTuple):
    """A layer that is drawn: a convolution, a pooling, a junction.

    `sources` are the places of the boxes whose output it takes, -1 for the block's input, with the
    lane in which each comes. `role` is "conv", "pool", "dense" or "junction".
    """

    name: str
    text: str
    role: str
    column: int
    lane: float
    sources: tuple[tuple[int, float], ...]


class Block(NamedTuple):
    """Layers between two that every path goes through; `repeats` such blocks look the same."""

    title: str
    rows: tuple[Row, ...]
    boxes: tuple[Box, ...]
    lanes: int
    repeats: int = 1

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of what comes out."""
        return self.rows[-1].shape


def sketch(
    rows: Sequence[Row], inputs: Mapping[str, Shape], outputs: Iterable[str] = ()
) -> list[Block]:
    """Return a network's blocks in their order, those of auxiliary heads last.

    A block has one convolution or dense layer, or the branches between two layers that every path
    goes through. What has no window, as an activation, belongs to it but is not drawn. Blocks in a
    row that look the same become one.

    >>> from keras_cnns import builder
    >>> blocks = sketch(builder.trace("resnet18").rows, {"image": (224, 224, 3)})
    >>> [block.title for block in blocks][:4]
    ['conv1', 'conv2_1–2', 'conv3_1', 'conv3_2']
    """
    points = {name: (1,) * (len(shape) - 1) or None for name, shape in inputs.items()}
    seen: Seen = {name: (point, point) for name, point in points.items()}
    seen |= {row.name: (row.receptive_field, row.stride) for row in rows}
    order = trunk(rows, outputs)
    groups = _groups(order)
    names = {row.name for row in order}
    for end in ends(rows, outputs):
        head = [row for row in schedule(rows, [end]) if row.name not in names]
        names |= {row.name for row in head}
        groups += [head] if head else []
    blocks = _chained([_block(group, seen) for group in groups])
    for period in (1, 2, 3):
        blocks = _repeated(blocks, period)
    return blocks


def _groups(order: Sequence[Row]) -> list[list[Row]]:
    """Cut an order into blocks at the layers that every path goes through."""
    bounds = [-1, *gates(order), len(order) - 1]
    pieces = [list(order[a + 1 : b + 1]) for a, b in pairwise(bounds) if b > a]
    groups: list[list[Row]] = [[]]
    waiting: list[Row] = []  # layers that cost nothing, until it is known to which block they go
    for piece in pieces:
        if not any(row.macs for row in piece):
            waiting += piece
            continue
        if any(row.macs for row in groups[-1]):
            mine = _share(groups[-1][-1], waiting, piece[0])
            groups[-1] += waiting[:mine]
            groups.append(waiting[mine:])
        else:
            groups[-1] += waiting
        groups[-1] += piece
        waiting = []
    groups[-1] += waiting
    return groups


def _share(before: Row, waiting: Sequence[Row], after: Row) -> int:
    """Return how many of the layers between two blocks go to the first; their names tell."""
    for i, row in enumerate(waiting):
        if row.kind.startswith(HEADS):
            return i
        if _alike(row.name, after.name) > _alike(row.name, before.name):
            return i
    return len(waiting)


def _alike(one: Iterable[object], other: Iterable[object]) -> int:
    """Return how much two sequences have in common from their start."""
    return sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(one, other, strict=False)))


def _block(rows: list[Row], seen: Seen) -> Block:
    """Lay out a block: a column for each box on the longest way in, a lane for each branch."""
    place: dict[str, int] = {}  # of the box that a layer's output comes from, by its name
    boxes: list[Box] = []
    lanes = 0
    continued: set[int] = set()
    drawn = [row for row in rows if row.macs or len(row.inputs) > 1 or row.kind.startswith(SHOWN)]
    many = len(drawn) > MOST_BOXES
    for row in [] if many else rows:
        sources = [place.get(name, -1) for name in row.inputs]
        if row not in drawn:
            place[row.name] = sources[0]
            continue
        column = 1 + max(boxes[i].column if i >= 0 else -1 for i in sources)
        arriving = []
        for i in sources:
            if i >= 0 and i not in continued:
                arriving.append((i, boxes[i].lane))
            else:
                arriving.append((i, float(lanes)))
                lanes += 1
            continued |= {i} - {-1}
        lane = sum(lane for _, lane in arriving) / len(arriving)
        place[row.name] = len(boxes)
        boxes.append(Box(row.name, _text(row, seen), _role(row), column, lane, tuple(arriving)))
    return Block(_title(rows, drawn), tuple(rows), tuple(boxes), max(lanes, 1))


def _role(row: Row) -> str:
    if len(row.inputs) > 1 and not row.macs:
        return "junction"
    return "pool" if not row.macs else "dense" if len(row.shape) == 1 else "conv"


def _text(row: Row, seen: Seen) -> str:
    """Return what a box says: window, stride and filters, where they are known."""
    if len(row.inputs) > 1 and not row.macs:
        return SIGNS.get(row.kind, row.kind.lower())
    window = _window(row, seen[row.inputs[0]])
    channels = f"{row.shape[-1]:d}" if row.macs else ""
    if row.kind == "Dense":
        words = ["dense"]
    elif row.kind.startswith("Global"):
        words = ["mean" if "Average" in row.kind else "max"]
    elif window.startswith("1×1/") and not row.macs:
        words = ["pick", window[3:]]
    elif row.kind.startswith("UpSampling") or row.kind.endswith("Transpose"):
        words = ["up"]
    else:
        kinds = {"Max": "max", "Ave": "mean", "Dep": "dw", "Sep": "sep", "Con": ""}
        words = [kinds.get(row.kind[:3], row.kind.lower()), window]
    return " ".join(filter(None, [*words, channels]))


def _window(row: Row, before: tuple[Window | None, Size | None]) -> str:
    """Return "3×3/2" for a window of 3x3 and a stride of 2, as far as they are known."""
    (field, stride), (now, step) = before, (row.receptive_field, row.stride)
    if not field or not stride or not now or not step or len(now) != len(field):
        return ""
    sides = [(b - a) // s + 1 for a, b, s in zip(field, now, stride, strict=True)]
    steps = [b // a for a, b in zip(stride, step, strict=True)]
    moved = "" if set(steps) == {1} else f"/{'×'.join(map(str, dict.fromkeys(steps)))}"
    return "×".join(map(str, sides)) + moved


def _title(rows: Sequence[Row], drawn: Sequence[Row]) -> str:
    """Return what a block's layers have in common in their names, else the name of one."""
    costly = [row for row in drawn if row.macs]
    if len(costly) == 1:
        (row,) = costly
        shared = [_common([row.name, other.name]) for other in rows if other is not row]
        return max(shared, key=len, default="") or row.name
    last = drawn[-1] if drawn else rows[-1]
    return _common([row.name for row in rows]) or last.name


def _common(names: Sequence[str]) -> str:
    """Return the words that all names begin with."""
    words = [name.split("_") for name in names]
    return "_".join(words[0][: min(_alike(words[0], other) for other in words)])


def _joined(blocks: Sequence[Block]) -> Block:
    """Return blocks, one after another, as one."""
    boxes: list[Box] = []
    for block in blocks:
        start, last = len(boxes), len(boxes) - 1
        column = boxes[-1].column + 1 if boxes else 0
        boxes += [
            box._replace(
                column=box.column + column,
                sources=tuple((i + start if i >= 0 else last, lane) for i, lane in box.sources),
            )
            for box in block.boxes
        ]
    rows = tuple(row for block in blocks for row in block.rows)
    title = _common([block.title for block in blocks]) or blocks[0].title
    return Block(title, rows, tuple(boxes), max(block.lanes for block in blocks))


def _chained(blocks: Sequence[Block]) -> list[Block]:
    """Join blocks without branches that one name begins, as VGG's, where they are not too many."""
    found: list[Block] = []
    for (_, lanes), group in groupby(blocks, lambda b: (b.title.split("_")[0], b.lanes)):
        run = list(group)
        short = lanes == 1 and sum(len(block.boxes) for block in run) <= LONGEST_CHAIN
        found += [_joined(run)] if short and all(block.boxes for block in run) else run
    return found


def _looks(block: Block) -> tuple[object, ...]:
    """Return what two blocks have in common that look the same."""
    drawn = tuple((box.text, box.role, box.column, box.lane, box.sources) for box in block.boxes)
    return drawn, block.shape[:-1], bool(drawn) or block.title


def _repeated(blocks: Sequence[Block], period: int) -> list[Block]:
    """Make one block of such as look the same, or of so many that come again and again."""
    found: list[Block] = []
    start = 0
    while start < len(blocks):
        unit = list(blocks[start : start + period])
        times = 1
        while list(map(_looks, blocks[start + times * period :][:period])) == list(
            map(_looks, unit)
        ):
            times += 1
        if times == 1 or any(block.repeats > 1 for block in unit):
            found.append(blocks[start])
            start += 1
            continue
        run = list(blocks[start : start + times * period])
        block = _joined(unit) if period > 1 else unit[0]
        last = _joined(run[-period:]) if period > 1 else run[-1]
        rows = tuple(row for each in run for row in each.rows)
        found.append(block._replace(title=_span(block.title, last.title), rows=rows, repeats=times))
        start += times * period
    return found


def _span(first: str, last: str) -> str:
    """Return the names of a first and a last block as one, as "conv2_1–3".

    >>> _span("conv2_1", "conv2_3"), _span("a", "b")
    ('conv2_1–3', 'a–b')
    """
    stem, number = re.fullmatch(r"(.*?)(\d*)", last).groups()  # type: ignore[union-attr]
    return f"{first}–{number if number and first.startswith(stem) else last}"
