"""What `show` says and draws of a network: its blocks, its page, its lines."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import keras
import pytest
from click.testing import CliRunner

from keras_cnns import builder, picture, zoo
from keras_cnns.cli import main
from keras_cnns.cost import cost
from keras_cnns.sketch import sketch


def blocks_of(name, **arguments):
    return sketch(builder.trace(name, **arguments).rows, {"image": zoo.get(name).input_shape})


def texts(block):
    return [box.text for box in block.boxes]


def test_a_row_of_googlenets_table_is_its_figure():
    block = next(block for block in blocks_of("inception_v1") if block.title == "3a")
    # Szegedy et al. 2014, table 1, row 3a, and figure 2 (b).
    assert texts(block) == [
        "1×1 64", "1×1 96", "3×3 128", "1×1 16", "5×5 32", "max 3×3", "1×1 32", "",
    ]  # fmt: skip
    assert [box.lane for box in block.boxes] == [0, 1, 1, 2, 2, 3, 3, 1.5]
    assert [box.column for box in block.boxes] == [0, 0, 1, 0, 1, 0, 1, 2]
    assert block.boxes[-1].sources == ((0, 0), (2, 1), (4, 2), (6, 3))
    assert block.lanes == 4
    assert block.shape == (28, 28, 256)


def test_repeated_blocks_are_drawn_once():
    found = [(block.title, block.repeats) for block in blocks_of("resnet152")]
    # He et al. 2015, table 1: 3, 8, 36 and 3 blocks, of which the first has a projection.
    assert found == [
        ("conv1", 1), ("conv2_1", 1), ("conv2_2–3", 2), ("conv3_1", 1), ("conv3_2–8", 7),
        ("conv4_1", 1), ("conv4_2–36", 35), ("conv5_1", 1), ("conv5_2–3", 2), ("logits", 1),
    ]  # fmt: skip
    bottleneck = next(block for block in blocks_of("resnet152") if block.title == "conv4_2–36")
    assert texts(bottleneck) == ["1×1 256", "3×3 256", "1×1 1024", "+"]
    assert bottleneck.boxes[-1].sources == ((-1, 1), (2, 0)), "the shortcut has its own lane"


def test_blocks_in_turn_are_one_where_they_come_again():
    assert [(block.title, block.repeats) for block in blocks_of("mixer_s16")] == [
        ("patches_conv", 1), ("mixer1–8", 8), ("logits", 1),
    ]  # fmt: skip
    assert len(blocks_of("resnet1202_cifar")) == 7


def test_a_chain_of_one_name_is_one_block():
    found = blocks_of("vgg16")
    assert [block.title for block in found] == [
        "conv1", "conv2", "conv3", "conv4", "conv5", "fc6–7", "logits",
    ]  # fmt: skip
    assert texts(found[2]) == ["3×3 256", "3×3 256", "3×3 256", "max 2×2/2"]
    assert texts(found[5]) == ["dense 4096"]
    assert [texts(block) for block in blocks_of("lenet5")[:3]] == [
        ["5×5 6", "mean 2×2/2"], ["5×5 16", "mean 2×2/2"], ["5×5 120"],
    ]  # fmt: skip


def test_auxiliary_heads_come_last():
    found = blocks_of("inception_v1", auxiliary=True)
    assert (found[-1].title, found[-1].repeats) == ("auxiliary1–2", 2)
    assert texts(found[-1]) == ["mean 5×5/3", "1×1 128", "dense 1024", "dense 1000"]


@pytest.mark.parametrize("name", zoo.NETS)
def test_every_network_has_a_figure_that_can_be_read(name):
    rows = builder.trace(name).rows
    found = blocks_of(name)
    assert sorted(row.name for block in found for row in block.rows) == sorted(
        row.name for row in rows
    )
    assert 2 < len(found) <= 18
    for block in found:
        places = [(box.column, box.lane) for box in block.boxes]
        assert len(set(places)) == len(places) > 0, "two boxes in one place"
        for i, box in enumerate(block.boxes):
            assert all(source < i for source, _ in box.sources)
            assert all(0 <= lane < block.lanes for _, lane in box.sources)
            for source, lane in box.sources:
                start = block.boxes[source].column if source >= 0 else -1
                assert start < box.column
                crossed = [(column, lane) for column in range(start + 1, box.column)]
                assert not set(crossed) & set(places), "a line runs through a box"


def test_a_block_of_too_many_layers_is_told():
    conv = builder.trace("vgg11").rows[0]
    wide = [conv._replace(name=f"c{i}") for i in range(50)]
    joined = conv._replace(name="all", kind="Add", macs=0, inputs=tuple(r.name for r in wide))
    (block,) = sketch([*wide, joined], {"image": (224, 224, 3)})
    assert block.boxes == ()
    assert len(block.rows) == 51


class Page(HTMLParser):
    """A page's tags and text; complains of tags that do not match."""

    def __init__(self, path):
        super().__init__()
        self.open, self.tags, self.words = [], [], []
        self.html = path.read_text("utf-8")
        self.feed(self.html)
        self.close()
        assert self.open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.words.append(data)


@pytest.fixture
def page(tmp_path):
    def draw(found, **options):
        picture.write(tmp_path / "page.html", found, **options)
        assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
        return Page(tmp_path / "page.html")

    return draw


def test_the_page_says_what_the_network_costs(page):
    found = page(cost("inception_v1"), batch_size=8)
    for words in (
        "6,998,552 parameters", "1,582,671,872 multiply-adds", "224×224×3", "17×17 pixels",
        "32.8 MB", "142 layers", "for training, 8 images", "28×28×256", "5×5 32", "3a",
    ):  # fmt: skip
        assert words in found.text
    rows = [tag for tag, _ in found.tags].count("tr")
    assert rows == 1 + len(cost("inception_v1").layers)


def test_the_page_loads_nothing_and_speaks_to_those_who_do_not_see(page):
    found = page(cost("resnet18"))
    links = [v for _, attrs in found.tags for k, v in attrs.items() if k in ("src", "href")]
    links += re.findall(r"url\(['\"]?(.*?)['\"]?\)", found.html)
    assert [link for link in links if not link.startswith("#")] == []
    assert not {"script", "link", "iframe", "img"} & {tag for tag, _ in found.tags}
    alts = [attrs["aria-label"] for tag, attrs in found.tags if tag == "svg"]
    assert len(alts) == 2
    assert alts[0].startswith("The maps, from image to output: 224×224 with 3 channels; 112×112")
    assert "conv2_1–2: 14 layers to 56×56×64, 3×3 64, 3×3 64, +, 2 times" in alts[1]
    assert "prefers-color-scheme: dark" in found.html
    assert "var(--blue)" in found.html
    assert "#0a0b0" not in found.html, "a colour that the page's style does not know"


def test_ids_are_of_one_figure_each(page):
    ids = [attrs["id"] for _, attrs in page(cost("lenet5")).tags if "id" in attrs]
    assert len(ids) == len(set(ids)) > 10


@pytest.mark.parametrize("name", ["lenet5", "resnet1202_cifar", "inception_v3", "mixer_s32"])
def test_equal_networks_have_equal_pages_of_a_size_that_can_be_sent(name, page):
    found = cost(name)
    assert page(found).html == page(found).html
    assert len(page(found).html) < 1_000_000


def test_names_are_text(page):
    found = cost("lenet5")
    layers = (found.layers[0]._replace(name="<script>a"), *found.layers[1:])
    layers = (layers[0], layers[1]._replace(inputs=("<script>a",)), *layers[2:])
    name = "<script>alert(1)</script>"
    text = page(found._replace(name=name, layers=layers))
    assert "<script>alert(1)</script>" in text.text
    assert "script" not in {tag for tag, _ in text.tags}


def test_what_takes_no_image_has_a_page_too(page):
    import keras

    vector = keras.Input((10,))
    x = keras.layers.Dense(3, name="b")(keras.layers.Dense(20, name="a")(vector))
    found = page(cost(keras.Model(vector, x, name="perceptron")))
    assert "dense 20" in found.text
    signal = keras.Input((64, 2))
    x = keras.layers.GlobalAveragePooling1D()(keras.layers.Conv1D(4, 5, strides=2)(signal))
    assert "5/2 4" in page(cost(keras.Model(signal, x, name="sound"))).text


# The command


def shown(*words):
    done = CliRunner().invoke(main, ["show", *map(str, words)])
    assert done.exit_code == 0, done.output
    return done.stdout


def refused(*words):
    done = CliRunner().invoke(main, ["show", *map(str, words)])
    assert done.exit_code == 2
    return done.stderr


def test_show_says_what_is_needed():
    assert shown("lenet5").splitlines() == [
        "lenet5: 61,706 parameters, 416,520 MACs",
        "  takes 32x32x1, at least 32x32",
        "  inference needs 270.3 kB for one image: 246.8 kB of weights, "
        "23.5 kB of feature maps at once",
        "  training needs about 4.2 MB at a batch of 32, with AdamW",
        "  c1 = 6",
        "  c3 = 16",
        "  c5 = 120",
        "  f6 = 84",
    ]
    assert "at a batch of 256" in shown("lenet5", "--batch-size", 256)
    layers = shown("mixer_s32", "--layers").splitlines()
    mixed = next(line for line in layers if line.startswith("mixer1_tokens_flat"))
    assert mixed.split()[-2:] == ["224x224", "-"]


def test_show_says_the_same_in_json():
    found = json.loads(shown("lenet5", "--json", "--batch-size", 4))
    of_lenet = cost("lenet5")
    assert {key: found[key] for key in found if key not in ("layers", "inputs")} == {
        "name": "lenet5",
        "params": 61_706,
        "macs": 416_520,
        "min_size": 32,
        "weights_bytes": 4 * 61_706,
        "peak_activation_bytes": 23_520,
        "inference_bytes": 4 * 61_706 + 23_520,
        "batch_size": 4,
        "training_bytes": of_lenet.training_bytes(4),
        "spec": {"c1": 6, "c3": 16, "c5": 120, "f6": 84},
    }


def test_show_reads_recipes(tmp_path):
    recipe = tmp_path / "best.toml"
    recipe.write_text(
        '[model]\nname = "inception_v1"\nwidth = 0.25\nspec.stem.kind = "small"\n'
        "[data]\nsize = 32\nchannels = 1\n"
    )
    found = json.loads(shown(recipe, "--json"))
    assert found["inputs"] == {"image": [32, 32, 1]}
    assert found["spec"]["3a"]["conv1"] == 16
    spec = {"stem": {"kind": "small"}}
    assert found["params"] < cost("inception_v1", input_shape=(32, 32, 1), spec=spec).params / 10


def test_show_takes_settings(tmp_path):
    found = json.loads(
        shown("lenet5", "--set", "model.spec.c3=8", "--set", "data.size=40", "--json")
    )
    assert found["inputs"] == {"image": [40, 40, 1]}
    assert found["spec"]["c3"] == 8
    (tmp_path / "a.toml").write_text('[model]\nname = "lenet5"\nspec.c1 = 3\n')
    found = json.loads(shown(tmp_path / "a.toml", "--set", "model.spec.c3=8", "--json"))
    assert (found["spec"]["c1"], found["spec"]["c3"]) == (3, 8)
    assert "c33" in refused("lenet5", "--set", "model.spec.c33=8")
    said = refused(tmp_path / "model.keras", "--set", "model.spec.c3=8")
    assert "settings are for a name or a recipe; this is made already" in said


@pytest.mark.parametrize(
    ("network", "said"),
    [
        ("", '"" is nothing to show; give a network\'s name'),
        ("README.md", "README.md\" is nothing to show; give a network's name, a RECIPE.toml"),
        ("missing.toml", "missing.toml: there is no such file; give a network's name"),
        ("missing.keras", "missing.keras: there is no such file"),
        ("missing.md", 'unknown network "missing.md"'),
    ],
)
def test_what_is_none_of_these_is_refused(network, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "README.md").write_text("# Read me")
    assert said in refused(network)


def test_a_model_that_does_nothing_is_not_drawn(tmp_path):
    image = keras.Input((8, 8, 3))
    keras.Model(image, image, name="nothing").save(tmp_path / "model.keras")
    assert "nothing: 0 parameters" in shown(tmp_path / "model.keras")
    page = tmp_path / "new" / "page.html"
    assert "nothing has no layers" in refused(tmp_path / "model.keras", "--html", page)
    assert not page.parent.exists()


def test_show_draws(tmp_path):
    assert (
        shown("lenet5", "--html", tmp_path / "new" / "page.html")
        .splitlines()[-1]
        .endswith("page.html shows it")
    )
    assert "416,520 multiply-adds" in Page(tmp_path / "new" / "page.html").text
    json.loads(shown("lenet5", "--json", "--html", tmp_path / "page.html"))
    assert f"{tmp_path} is a folder; --html is a file" in refused("lenet5", "--html", tmp_path)
    assert 'did you mean "lenet5"' in refused("lenet6", "--html", tmp_path / "other" / "page.html")
    assert not (tmp_path / "other").exists()
    (tmp_path / "file").touch()
    assert "cannot be written to" in refused("lenet5", "--html", tmp_path / "file" / "page.html")


def test_show_needs_no_keras(tmp_path):
    code = (
        "import sys\n"
        "from keras_cnns.cli import main\n"
        f"words = ['show', 'resnet50', '--html', {str(tmp_path / 'a.html')!r}]\n"
        "main(words, standalone_mode=False)\n"
        "print({'keras', 'tensorflow', 'jax'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
