"""The vocabulary: paths of filters, TOML there and back, and what is said of a wrong key."""

import re
import tomllib
from typing import Any, NamedTuple

import pytest
import tomli_w
from hypothesis import given, strategies as st

from keras_cnns.errors import UsageError
from keras_cnns.spec import (
    Branches,
    Conv,
    Filters,
    Pool,
    filters,
    map_filters,
    merge,
    scale_filters,
    to_dict,
)


class Block(NamedTuple):
    """A row with one of everything."""

    conv: Conv
    mlp: tuple[Filters, ...]
    width: Filters = 4
    depth: int = 3
    dropout: float = 0.5
    lrn: bool = False
    kind: str = "paper"


COUNTS = st.integers(0, 512)
CONVS = st.builds(
    Conv,
    COUNTS,
    st.integers(1, 11) | st.tuples(st.integers(1, 7), st.integers(1, 7)),
    st.integers(1, 4),
    st.sampled_from(["same", "valid"]),
)
POOLS = st.builds(Pool, st.sampled_from(["max", "average"]), st.integers(1, 5), st.integers(1, 3))
BRANCHES = st.recursive(
    CONVS | POOLS,
    lambda steps: st.lists(st.lists(steps, min_size=1, max_size=3), min_size=1, max_size=3).map(
        lambda branches: Branches(*branches)
    ),
    max_leaves=8,
)
BLOCKS = st.builds(
    Block,
    CONVS,
    st.lists(COUNTS, min_size=1, max_size=3).map(tuple),
    COUNTS,
    st.integers(0, 9),
    st.floats(0, 1),
    st.booleans(),
    st.text(max_size=5),
)
PARTS = BRANCHES | BLOCKS | st.lists(BLOCKS | CONVS, min_size=1, max_size=3).map(tuple)
SPECS = st.dictionaries(st.text(min_size=1, max_size=5), PARTS, min_size=1, max_size=3) | BLOCKS


def kinds(spec: Any) -> Any:
    """The types of a spec, part by part: equality of tuples does not tell them apart."""
    if isinstance(spec, dict):
        return {key: kinds(value) for key, value in spec.items()}
    return (type(spec), [kinds(v) for v in spec]) if isinstance(spec, tuple) else type(spec)


def searchable(spec: Any) -> list[int]:
    """Every filter count that is not zero, found without looking at type hints."""
    if isinstance(spec, Conv):
        return [spec.filters] if spec.filters else []
    if isinstance(spec, Block):
        return [*searchable(spec.conv), *filter(None, spec.mlp), *filter(None, [spec.width])]
    if isinstance(spec, dict | tuple) and not isinstance(spec, Pool):
        parts = spec.values() if isinstance(spec, dict) else spec
        return [n for part in parts for n in searchable(part)]
    return []


@given(SPECS)
def test_the_identity_changes_nothing(spec):
    same = map_filters(lambda _, n: n, spec)
    assert same == spec
    assert kinds(same) == kinds(spec)


@given(SPECS)
def test_every_filter_count_has_a_path_of_its_own(spec):
    seen: list[tuple[str, int]] = []
    map_filters(lambda path, n: seen.append((path, n)) or n, spec)
    assert dict(seen) == filters(spec)
    assert len(dict(seen)) == len(seen)
    assert [n for _, n in seen] == searchable(spec)


@given(SPECS)
def test_a_change_reaches_every_filter_count_and_nothing_else(spec):
    changed = map_filters(lambda _, n: n + 1000, spec)
    assert filters(changed) == {path: n + 1000 for path, n in filters(spec).items()}
    assert map_filters(lambda _, n: n - 1000, changed) == spec


@given(SPECS)
def test_a_spec_survives_toml(spec):
    assert merge(spec, tomllib.loads(tomli_w.dumps(to_dict(spec)))) == spec


@given(SPECS, st.data())
def test_found_filters_come_back_through_toml(spec, data):
    found = map_filters(lambda path, _: data.draw(st.integers(1, 99), label=path), spec)
    back = merge(spec, tomllib.loads(tomli_w.dumps(to_dict(found))))
    assert back == found
    assert kinds(back) == kinds(found)


@given(SPECS)
def test_nothing_laid_over_changes_nothing(spec):
    assert merge(spec, {}) == spec


@given(SPECS)
def test_a_spec_can_be_laid_over_itself(spec):
    assert merge(spec, spec) == spec


@given(SPECS, st.sampled_from([1 / 16, 0.25, 0.75, 1.0, 2.0]))
def test_scaled_filters_are_multiples_of_eight(spec, width):
    before, after = filters(spec), filters(scale_filters(spec, width))
    assert before.keys() == after.keys()
    for path, n in before.items():
        assert after[path] >= 8
        assert after[path] % 8 == 0
        assert abs(after[path] - n * width) <= 4 or n * width < 8


def test_a_layer_that_the_paper_lacks_is_not_searched():
    spec = {"3a": Conv(0), "3b": Conv(8)}
    assert filters(spec) == {"3b.filters": 8}
    assert map_filters(lambda _, n: 2 * n, spec)["3a"].filters == 0


def test_branches_nest():
    inner = Branches((Conv(384, (1, 3)),), (Conv(384, (3, 1)),))
    figure = {"8x8": Branches((Pool("average", 3, 1), Conv(192)), (Conv(384), inner))}
    assert filters(figure) == {
        "8x8.0.1.filters": 192,
        "8x8.1.0.filters": 384,
        "8x8.1.1.0.0.filters": 384,
        "8x8.1.1.1.0.filters": 384,
    }
    halved = map_filters(lambda _, n: n // 2, figure)
    assert isinstance(halved["8x8"][1][1], Branches)
    assert halved["8x8"][1][1][1] == (Conv(192, (3, 1)),)
    one = merge(figure, {"8x8": {"1": {"1": {"0": {"0": {"filters": 7}}}}}})
    assert one["8x8"][1][1] == Branches((Conv(7, (1, 3)),), (Conv(384, (3, 1)),))
    assert isinstance(one["8x8"][1][1], Branches)
    assert one["8x8"][0] == figure["8x8"][0]


def test_keys_that_are_not_named_keep_their_value():
    spec = merge({"a": Conv(96, 11, 4), "b": Conv(256, 5)}, {"a": {"filters": 48}})
    assert spec == {"a": Conv(48, 11, 4), "b": Conv(256, 5)}


def test_a_list_replaces_a_tuple_and_may_be_longer_or_shorter():
    block = Block(Conv(192, 5), (160, 96))
    assert merge(block, {"mlp": [64]}).mlp == (64,)
    assert merge(block, {"mlp": [1, 2, 3]}).mlp == (1, 2, 3)
    longer = merge((Conv(8, 3), Conv(16, 3, 2)), [{}, {}, {"filters": 32}])
    assert longer == (Conv(8, 3), Conv(16, 3, 2), Conv(32, 3, 2))


def test_one_item_of_a_tuple_is_reached_by_its_index():
    assert merge(Block(Conv(192, 5), (160, 96)), {"mlp": {"1": 7}}).mlp == (160, 7)


def test_a_row_or_a_figure_can_be_given_whole():
    naive = Branches((Conv(64),), (Conv(128, 3),))
    default = {"3a": Branches((Conv(8),), (Pool("max"),)), "conv1": Conv(64, 7, 2)}
    assert merge(default, {"3a": naive, "conv1": Conv(32)}) == {"3a": naive, "conv1": Conv(32)}


def test_an_empty_list_over_an_empty_tuple_is_no_change():
    assert merge(Block(Conv(8), ()), {"mlp": []}).mlp == ()


def test_a_kernel_may_become_a_pair_and_back():
    assert merge(Conv(64, 3), {"kernel_size": [1, 7]}).kernel_size == (1, 7)
    assert merge(Conv(64, (1, 7)), {"kernel_size": 3}).kernel_size == 3


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"convv": {}}, 'spec: unknown key "convv"; allowed are conv, mlp, .*did you mean "conv"'),
        ({"conv": {"filter": 1}}, 'spec.conv: unknown key "filter".*did you mean "filters"'),
        ({"conv": {"filters": "many"}}, "spec.conv.filters: received 'many'.*whole number"),
        ({"conv": {"filters": 1.5}}, "spec.conv.filters: received 1.5.*whole number"),
        ({"conv": {"filters": -1}}, "spec.conv.filters: received -1.*not negative"),
        ({"conv": {"filters": True}}, "spec.conv.filters: received True.*whole number"),
        ({"conv": {"filters": None}}, "spec.conv.filters: received None.*whole number"),
        ({"conv": {"padding": 3}}, "spec.conv.padding: received 3.*text"),
        ({"conv": 96}, "spec.conv: received 96.*filters, kernel_size, strides, padding"),
        ({"conv": [96]}, r"spec.conv: received \[96\]"),
        ({"mlp": 5}, "spec.mlp: received 5.*list"),
        ({"mlp": "ab"}, "spec.mlp: received 'ab'.*list"),
        ({"mlp": [1, "x"]}, "spec.mlp.1: received 'x'"),
        ({"mlp": {"2": 1}}, 'spec.mlp: unknown key "2"; allowed are 0, 1'),
        ({"dropout": "half"}, "spec.dropout: received 'half'.*number"),
        ({"dropout": True}, "spec.dropout: received True.*number"),
        ({"lrn": 1}, "spec.lrn: received 1.*true or false"),
        ({"lrn": "yes"}, "spec.lrn: received 'yes'.*true or false"),
        ({"kind": 5}, "spec.kind: received 5.*text"),
        ("narrow", "spec: received 'narrow'"),
        (["narrow"], r"spec: received \['narrow'\]"),
    ],
)
def test_a_mistake_is_said_in_one_line_that_names_the_key(changes, said):
    with pytest.raises(UsageError) as caught:
        merge(Block(Conv(192, 5), (160, 96)), changes)
    assert re.match(said, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)


def test_where_the_paper_has_nothing_nothing_can_be_put():
    with pytest.raises(UsageError, match=r"spec\.mlp: .*nothing here"):
        merge(Block(Conv(8), ()), {"mlp": [1]})
