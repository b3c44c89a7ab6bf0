"""The ways through a network's layers: in which order they run, and which of them all ways share.

A layer names those that it takes the outputs of; a name that is no layer's is an input's.
"""

from collections.abc import Iterable, Sequence

from keras_cnns.trace import Row


def ends(rows: Iterable[Row], outputs: Iterable[str] = ()) -> list[str]:
    """Return the layers whose output nobody takes, and `outputs`, which others may take as well."""
    taken = {name for row in rows for name in row.inputs}
    return sorted({*outputs, *(row.name for row in rows if row.name not in taken)})


def schedule(rows: Iterable[Row], wanted: Iterable[str]) -> list[Row]:
    """Return the layers that `wanted` ones come from, and these, in the order that is assumed.

    Depth first, a layer's inputs in their order: that depends on the graph alone, not on the order
    in which the layers were made.
    """
    by_name = {row.name: row for row in rows}
    waiting = [name for name in wanted if name in by_name][::-1]
    done: dict[str, Row] = {}
    while waiting:
        row = by_name[waiting[-1]]
        missing = [name for name in row.inputs if name in by_name and name not in done]
        if row.name in done:
            waiting.pop()
        elif missing:
            waiting.extend(reversed(missing))
        else:
            done[waiting.pop()] = row
    return list(done.values())


def trunk(rows: Sequence[Row], outputs: Iterable[str] = ()) -> list[Row]:
    """Return the layers that the deepest output comes from, in their order; auxiliary heads go."""
    return max((schedule(rows, [end]) for end in ends(rows, outputs)), key=len)


def gates(order: Sequence[Row]) -> list[int]:
    """Return the places in an order, as of `schedule`, of the layers that every path goes through.

    >>> from keras_cnns import builder
    >>> order = trunk(builder.trace("resnet18").rows)
    >>> [order[i].name for i in gates(order)][5:8]
    ['conv1_pool', 'conv2_1_add', 'conv2_1_relu']
    """
    names = {row.name for row in order}
    last = {name: i for i, row in enumerate(order) for name in row.inputs}  # that takes its output
    furthest = max((i for name, i in last.items() if name not in names), default=0)
    found = []
    for i, row in enumerate(order):
        if furthest <= i:  # nothing from before is taken after it
            found.append(i)
        furthest = max(furthest, last.get(row.name, i))
    return found
