"""What each space may change, that the paper's network is in it, and which networks have which."""

from random import Random

import pytest

from keras_cnns import spec as specs, zoo
from keras_cnns.cost import cost
from keras_cnns.errors import UsageError
from keras_cnns.tune import spaces
from keras_cnns.tune.structure import joints, rows

NETWORKS = ("inception_v1", "inception_v3", "vgg11", "resnet20_cifar", "densenet40_cifar")
# How many dimensions there are, counted in the papers' tables: 9 rows of 6 numbers, 2 of them
# reductions, and a stem of 3; 94 convolutions, 45 of them within branches and 5 in the stem; 8
# convolutions in 5 blocks, and 2 dense layers; 3 stages or blocks, and the first convolution.
SIZES = {
    "inception_v1": {"ratios": 54, "widths": 57, "rows": 10, "reductions": 18},
    "inception_v3": {"ratios": 89, "widths": 94, "rows": 12, "reductions": 45},
    "vgg11": {"widths": 10, "rows": 7, "depths": 5},
    "resnet20_cifar": {"widths": 4, "rows": 4, "depths": 3},
    "densenet40_cifar": {"widths": 4, "rows": 4, "depths": 3},
}


def points(space, count=5):
    draw = Random(0)
    return [
        {name: draw.choice(options) for name, options in space.choices.items()}
        for _ in range(count)
    ]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("kind", spaces.KINDS)
def test_a_space_is_around_the_papers_network(name, kind):
    paper = zoo.spec_of(name)
    if kind not in SIZES[name]:
        with pytest.raises(UsageError, match=f"has no {kind} to search"):
            spaces.make(paper, kind)
        return
    space = spaces.make(paper, kind)
    assert len(space.choices) == SIZES[name][kind]
    assert space.spec_of(space.default) == space.spec_of({}) == paper
    assert all(1.0 in options for options in space.choices.values())
    for values in points(space):
        spec = space.spec_of(values)
        assert spec != paper
        assert specs.merge(paper, specs.to_dict(spec)) == spec  # what TOML makes of it
        assert cost(name, spec=spec).macs > 0
        paths = specs.filters(spec)
        if kind != "depths":
            before = specs.filters(paper)
            assert list(paths) == list(before)
            assert not any(paths[path] % 8 for path, n in before.items() if n >= 32)


@pytest.mark.parametrize("name", ["inception_v1", "inception_v2", "inception_v3", "inception_v4"])
def test_ratios_keep_the_width_of_each_row(name):
    paper = zoo.spec_of(name)
    space = spaces.make(paper, "ratios")
    for values in points(space, 20):
        spec = space.spec_of(values)
        now, before = specs.filters(spec), specs.filters(paper)
        for joint in joints(paper):
            assert sum(now[path] for path in joint.ends) == sum(before[path] for path in joint.ends)
        outside = set(before) - {p for joint in joints(paper) for p in (*joint.ends, *joint.inner)}
        assert all(now[path] == before[path] for path in outside)


def test_a_branch_gets_its_part_of_what_the_others_leave():
    space = spaces.make(zoo.spec_of("inception_v1"), "ratios")
    spec = space.spec_of({"3a.conv5": 0.5, "3a.reduce3": 0.5})
    # 64, 128, 16 and 32 of 240, times 256: 68.3, 136.5, 17.1, 34.1, in multiples of 8.
    assert tuple(spec["3a"]) == (72, 48, 136, 16, 16, 32)


def test_totals_may_be_set_free():
    paper = zoo.spec_of("inception_v1")
    space = spaces.make(paper, "ratios", free_totals=True)
    assert len(space.choices) == 63
    row = space.spec_of({"4a.total": 0.5})["4a"]
    assert row.conv1 + row.conv3 + row.conv5 + row.pool == 256
    assert space.spec_of(space.default) == paper
    with pytest.raises(UsageError, match="only the space ratios"):
        spaces.make(paper, "rows", free_totals=True)


def test_narrow_networks_are_cut_in_single_filters():
    narrow = specs.scale_filters(zoo.spec_of("inception_v1"), 0.125)
    space = spaces.make(narrow)
    assert space.spec_of(space.default) == narrow
    assert tuple(narrow["3a"]) == (8, 16, 16, 8, 8, 8)
    # 8, 16, 2 and 8 of 34, times 40: 9.4, 18.8, 2.4, 9.4.
    assert tuple(space.spec_of({"3a.conv5": 0.25})["3a"]) == (10, 16, 19, 8, 2, 9)


def test_reductions_are_what_no_row_ends_in():
    space = spaces.make(zoo.spec_of("inception_v3"), "reductions")
    ends = {path for joint in joints(zoo.spec_of("inception_v3")) for path in joint.ends}
    assert not ends & set(space.choices)
    # Figure 7's third branch: 448, then 384, then 384 and 384 side by side.
    assert [p for p in space.choices if p.startswith("7b.2.")] == [
        "7b.2.0.filters",
        "7b.2.1.filters",
    ]


def test_rows_are_stages_blocks_or_rows_of_a_table():
    assert rows(zoo.spec_of("vgg11"))[:7] == [*(f"conv{i}" for i in range(1, 6)), "fc6", "fc7"]
    vgg = spaces.make(zoo.spec_of("vgg11"), "rows").spec_of({"conv3": 0.5, "fc6": 0.25})
    assert [conv.filters for conv in vgg.conv3] == [128, 128]
    assert (vgg.fc6, vgg.fc7) == (1024, 4096)
    net = spaces.make(zoo.spec_of("resnet20_cifar"), "rows").spec_of({"stages.1": 1.5})
    assert [stage.filters for stage in net.stages] == [16, 48, 64]


def test_depths_are_blocks_and_equal_convolutions():
    net = spaces.make(zoo.spec_of("resnet20_cifar"), "depths").spec_of({"stages.2.depth": 1.25})
    assert [stage.depth for stage in net.stages] == [3, 3, 4]
    vgg = spaces.make(zoo.spec_of("vgg11"), "depths").spec_of({"conv3.depth": 1.5})
    assert len(vgg.conv3) == 3
    assert len(set(vgg.conv3)) == 1


def test_what_a_prefix_ties_shares_its_values():
    paper = zoo.spec_of("inception_v1")
    space = spaces.make(paper, tied=["4", "5"])
    assert len(space.choices) == 2 * 6 + 6 + 6
    spec = space.spec_of({"4*.reduce3": 0.5})
    reductions = [spec[row].reduce3 for row in ("4a", "4b", "4c", "4d", "4e", "5a")]
    assert reductions == [48, 56, 64, 72, 80, 160]
    assert space.spec_of(space.default) == paper
    together = spaces.make(zoo.spec_of("resnet20_cifar"), "rows", tied=["stages"])
    assert list(together.choices) == ["stages*", "conv1"]
    with pytest.raises(UsageError, match='nothing to tie begins with "6"'):
        spaces.make(paper, tied=["6"])


@pytest.mark.parametrize("prefixes", [["4a", "4"], ["4", "4a"], ["4", "4", "4a"]])
def test_of_two_prefixes_the_longer_ties(prefixes):
    paper = zoo.spec_of("inception_v1")
    space = spaces.make(paper, tied=prefixes)
    assert len(space.choices) == 54 - 5 * 6 + 2 * 6
    spec = space.spec_of({"4*.reduce3": 0.5})
    assert spec["4a"] == paper["4a"]
    assert [spec[row].reduce3 for row in ("4b", "4c", "4d", "4e")] == [56, 64, 72, 80]


def test_the_usual_space_is_ratios_where_there_are_branches():
    assert spaces.make(zoo.spec_of("googlenet")).kind == "ratios"
    assert spaces.make(zoo.spec_of("vgg16")).kind == "rows"
    with pytest.raises(UsageError, match='did you mean "ratios"'):
        spaces.make(zoo.spec_of("vgg16"), "ratio")


@pytest.mark.parametrize("name", sorted({net.path: net.name for net in zoo.NETS.values()}.values()))
def test_every_network_has_spaces_that_toml_can_hold(name):
    paper = zoo.spec_of(name)
    found = 0
    for kind in spaces.KINDS:
        try:
            space = spaces.make(paper, kind)
        except UsageError:
            continue
        found += 1
        assert space.spec_of(space.default) == paper
        (values,) = points(space, 1)
        assert specs.merge(paper, specs.to_dict(space.spec_of(values))) == space.spec_of(values)
    assert found >= 2
