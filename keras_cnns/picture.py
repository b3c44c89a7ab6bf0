"""A page that draws a network: its maps, its blocks, and where its cost sits.

It loads nothing, as the pages of `keras_cnns.report`, whose style it shares.
"""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Polygon, Rectangle

from keras_cnns import memory, sketch
from keras_cnns.cost import Cost
from keras_cnns.paths import gates, trunk
from keras_cnns.report import AMBER, BLUE, INK, MUTED, RULE, short, svg, write_page
from keras_cnns.sketch import Block, Box

WIDTH = 980
SMALL = 10  # of the smaller type, in pixels
LETTER = 5.6  # width of one such letter, about
LANE, GAP = 22, 16  # between the lanes of a block, between its columns
LONGEST = 30  # letters of a name
COLOURS = {"conv": BLUE, "dense": BLUE, "pool": AMBER, "junction": INK}


class Share(NamedTuple):
    """What a block costs: its weights, multiply-adds, and bytes of feature maps for one image.

    `kept` are the outputs of all its layers, `live` what inference needs at once while it runs.
    """

    params: int
    macs: int
    kept: int
    live: int


def write(path: Path, found: Cost, *, batch_size: int = 32) -> None:
    """Write the page about a network; an older page stays until it is complete."""
    blocks = sketch.sketch(found.layers, found.inputs, found.outputs)
    live = memory.live_bytes(found.layers, found.inputs, found.outputs)
    shares = [
        Share(
            sum(row.params for row in block.rows),
            sum(row.macs for row in block.rows),
            sum(row.activation_bytes for row in block.rows),
            max(live[row.name] for row in block.rows),
        )
        for block in blocks
    ]
    write_page(
        path,
        "picture.html",
        found=found,
        batch_size=batch_size,
        maps=_maps(found),
        blocks=_blocks(blocks, shares),
        widest=blocks[max(range(len(shares)), key=lambda i: shares[i].live)].title,
        cell=_cell,
        bytes=_bytes,
    )


def _cell(value: object) -> str:
    """Return a size as "7×7", a dash where it is not known.

    >>> _cell((56, 56, 64)), _cell(None)
    ('56×56×64', '–')
    """
    if value is None:
        return "–"
    return "×".join(map(str, value)) if isinstance(value, tuple) else f"{value:,}"


def _bytes(value: int) -> str:
    """Return bytes with their unit, on one line."""
    return memory.in_words(value).replace(" ", "\N{NO-BREAK SPACE}")


def _canvas(axes: Axes, height: float) -> None:
    """Make an axes the whole figure, in pixels from the upper left corner."""
    axes.get_figure(root=True).set_layout_engine("none")  # type: ignore[union-attr]
    axes.set_position((0, 0, 1, 1))
    axes.set(xlim=(0, WIDTH), ylim=(height, 0))
    axes.axis("off")


# The maps


def _sizes(found: Cost) -> list[tuple[tuple[int, ...], list[int]]]:
    """Return the sizes of the maps on the way, and the channels that maps of each have."""
    image = next(iter(found.inputs.values()))
    order = trunk(found.layers, found.outputs)
    start = next((i for i, row in enumerate(order) if row.macs), 0)
    rows = [order[i] for i in gates(order) if i >= start]
    shapes = [image, *(row.shape for row in rows if not row.kind.startswith("ZeroPadding"))]
    shapes = [shape if len(shape) == 3 and shape[:2] != (1, 1) else shape[-1:] for shape in shapes]
    sizes = [(shapes[0][:-1], [shapes[0][-1]])]
    for size, same in groupby(shapes[1:], lambda shape: shape[:-1]):
        channels = [n for n, _ in groupby(shape[-1] for shape in same)]
        if size:
            sizes.append((size, channels if len(channels) < 6 else [channels[0], max(channels)]))
        else:
            sizes += [((), [n]) for n in channels]
    return sizes


def _maps(found: Cost) -> Markup:
    """Draw the maps on their way: as high as they are, as thick as they have channels."""
    sizes = _sizes(found)
    largest = max((max(size) for size, _ in sizes if size), default=1)
    boxes: list[tuple[float, float, list[float]]] = []  # how high, how deep, how thick
    for size, channels in sizes:
        if size:
            high, deep = (118 * (n / largest) ** 0.6 + 6 for n in size[:2])
            boxes.append((high, 0.42 * deep, [2.5 + 0.75 * n**0.5 for n in channels]))
        else:
            boxes.append((min(10 + 1.9 * channels[0] ** 0.5, 130), 0.0, [6.0]))
    wide = sum(deep + sum(thick) for _, deep, thick in boxes) + 64 * (len(boxes) - 1)
    scale = min(1.0, (WIDTH - 60) / wide)

    def paint(axes: Axes) -> None:
        _canvas(axes, 226)
        x = (WIDTH - scale * wide) / 2
        for i, ((size, channels), (high, deep, thick)) in enumerate(zip(sizes, boxes, strict=True)):
            if i:
                _arrow(axes, (x + 6, 104), (x + 64 * scale - 6, 104))
                x += 64 * scale
            start, y = x, 104 - high / 2 + deep * 0.3
            x = _cuboid(axes, x, y, [scale * part for part in thick], high, deep * scale)
            many = "–".join(f"{n:,}" for n in dict.fromkeys((min(channels), max(channels))))
            kind = ("channel" if size else "number") + "s" * (max(channels) > 1)
            first, second = (_cell(size), f"{many} {kind}") if size else (many, kind)
            axes.text((start + x) / 2, 194, first, ha="center", color=INK)
            axes.text((start + x) / 2, 210, second, ha="center", color=MUTED, fontsize=SMALL)

    words = "; ".join(
        f"{_cell(size)} with {_cell(tuple(channels))} channels"
        if size
        else f"{channels[0]} numbers"
        for size, channels in sizes
    )
    return svg("Maps", WIDTH, 226, paint, alt=f"The maps, from image to output: {words}")


def _cuboid(
    axes: Axes, x: float, y: float, thick: Sequence[float], high: float, deep: float
) -> float:
    """Draw maps behind each other, from their left; return where they end."""
    up = deep * 0.6
    for part in thick:
        _face(axes, [(x, y), (x + part, y), (x + part, y + high), (x, y + high)], 0.42)
        if deep:
            top = [(x, y), (x + deep, y - up), (x + part + deep, y - up), (x + part, y)]
            _face(axes, top, 0.22)
        x += part
    if deep:
        side = [(x, y), (x + deep, y - up), (x + deep, y + high - up), (x, y + high)]
        _face(axes, side, 0.1)
    return x + deep


def _face(axes: Axes, corners: list[tuple[float, float]], alpha: float) -> None:
    axes.add_patch(Polygon(corners, facecolor=BLUE, alpha=alpha, linewidth=0))
    axes.add_patch(Polygon(corners, fill=False, edgecolor=BLUE, linewidth=0.8))


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    arrow = FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=7, shrinkA=0, shrinkB=0)
    arrow.set(color=MUTED, linewidth=1)
    axes.add_patch(arrow)


# The blocks


def _blocks(blocks: Sequence[Block], shares: Sequence[Share]) -> Markup:
    """Draw each block, and beside it what it costs."""
    names = [f"{b.title[:LONGEST]}…" if len(b.title) > LONGEST else b.title for b in blocks]
    heights = [max(44, block.lanes * LANE + 20) for block in blocks]
    tops = [30 + sum(heights[:i]) for i in range(len(blocks))]
    drawn_at = 64 + max(7.2 * max(map(len, names)), 70)
    drawn = max(_columns(block)[-1] for block in blocks)
    scale = min(1.0, 430 / drawn)
    bars_at = drawn_at + max(drawn * scale, 120) + 34
    step = (WIDTH - bars_at) / 3
    params = max(share.params for share in shares) or 1
    macs = max(share.macs for share in shares) or 1
    maps = max(max(share.kept, share.live) for share in shares)

    def row(axes: Axes, block: Block, share: Share, y: float) -> None:
        axes.text(0, y + 8, _cell(block.shape), va="center", color=MUTED, fontsize=SMALL)
        if block.repeats > 1:
            times = f"{block.repeats} ×"
            axes.text(drawn_at - 14, y, times, va="center", ha="right", color=AMBER)
        _boxes(axes, block, (drawn_at, y), scale)
        for i, (value, most, words, colour, up, thick) in enumerate(
            [
                (share.params, params, short(share.params), BLUE, 0, 10),
                (share.macs, macs, short(share.macs), BLUE, 0, 10),
                (share.live, maps, _bytes(share.live), BLUE, -6, 6),
                (share.kept, maps, _bytes(share.kept), MUTED, 6, 6),
            ]
        ):
            x, long = bars_at + min(i, 2) * step, max(value / most * (step - 66), 1)
            bar = Rectangle((x, y + up - thick / 2), long, thick, facecolor=colour, linewidth=0)
            axes.add_patch(bar)
            ink = colour if up else INK
            axes.text(x + long + 6, y + up, words, va="center", fontsize=SMALL, color=ink)

    def paint(axes: Axes) -> None:
        _canvas(axes, height)
        for i, title in enumerate(("parameters", "multiply-adds", "feature maps")):
            axes.text(bars_at + i * step, 14, title, color=MUTED, va="center")
        for i, (top, high) in enumerate(zip(tops, heights, strict=True)):
            axes.plot([0, WIDTH], [top, top], color=RULE, linewidth=1)
            y = top + high / 2
            axes.text(0, y - 8, names[i], va="center", weight="bold", gid=f"tip{i}")
            row(axes, blocks[i], shares[i], y)

    height = tops[-1] + heights[-1]
    tips = [_tip(block, share) for block, share in zip(blocks, shares, strict=True)]
    words = "; ".join(tip.replace("\n", ", ") for tip in tips)
    return svg("Blocks", WIDTH, height, paint, tips, f"The blocks and their costs: {words}")


def _tip(block: Block, share: Share) -> str:
    """Say in words what a row of the figure shows."""
    parts = ", ".join(box.text or "joined" for box in block.boxes)
    times = f", {block.repeats} times" if block.repeats > 1 else ""
    return (
        f"{block.title}: {len(block.rows)} layers to {_cell(block.shape)}\n{parts}{times}\n"
        f"{share.params:,} parameters, {share.macs:,} MACs, "
        f"{_bytes(share.live)} of maps at once, {_bytes(share.kept)} in all"
    )


def _size(box: Box) -> float:
    """Return how wide a box is."""
    sign = box.role == "junction" and len(box.text) < 2
    return 12.0 if sign else len(box.text) * LETTER + 12


def _columns(block: Block) -> list[float]:
    """Return where each column of a block begins, and where the last ends."""
    count = 1 + max((box.column for box in block.boxes), default=-1)
    wide = [
        max((_size(box) for box in block.boxes if box.column == i), default=0.0)
        for i in range(count)
    ]
    places = [1.5 * GAP]
    for width in wide:
        places.append(places[-1] + width + GAP)
    return places


def _boxes(axes: Axes, block: Block, start: tuple[float, float], scale: float) -> None:
    """Draw what is in a block: boxes in lanes, and the lines between them."""
    columns, ends = _columns(block), [(0.0, start[1])]  # where the input comes in, each box ends

    def x_of(value: float) -> float:
        return start[0] + value * scale

    def y_of(lane: float) -> float:
        return start[1] + (lane - (block.lanes - 1) / 2) * LANE

    if not block.boxes:
        words = f"{len(block.rows)} layers"
        axes.text(x_of(GAP), start[1], words, va="center", color=MUTED, fontsize=SMALL)
    for box in block.boxes:
        wide = _size(box)
        left = (columns[box.column] + columns[box.column + 1] - GAP - wide) / 2
        y, lanes = y_of(box.lane), [y_of(lane) for _, lane in box.sources]
        for (source, _), lane in zip(box.sources, lanes, strict=True):
            x, level = ends[source + 1]
            turn = x_of(x + GAP / 2)
            axes.plot(
                [x_of(x), turn, turn, x_of(left)], [level, level, lane, lane],
                color=MUTED, linewidth=1, solid_joinstyle="round",
            )  # fmt: skip
        bar = box.role == "junction" and len(box.text) < 2
        low, high = (min(lanes) - 8, max(lanes) + 8) if bar else (y - 8, y + 8)
        corner, style = (x_of(left), low), "round,pad=0,rounding_size=3"
        shape = FancyBboxPatch(corner, wide * scale, high - low, boxstyle=style, linewidth=0)
        shape.set(facecolor=COLOURS[box.role], alpha=0.16)
        axes.add_patch(shape)
        text = axes.text(x_of(left + wide / 2), y, box.text, color=INK, ha="center", va="center")
        text.set_fontsize(SMALL * max(scale, 0.8))
        ends.append((left + wide, y))
    if block.boxes:
        x, y = ends[-1]
        _arrow(axes, (x_of(x), y), (x_of(x) + 13, y))
