"""Everything that the README tells a reader to type works, in its order.

A block needs the files of those before it, so that one process runs them all: `--dist loadfile`.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"^```(sh|python)\n(.*?)^```", README.read_text(encoding="utf-8"), re.M | re.S)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("readme")
    Image.new("L", (32, 32)).save(place / "photo.png")
    return place


def test_make_has_the_two_commands_of_the_first_block():
    targets = re.findall(r"^make (\w+)", BLOCKS[0][1], re.M)
    makefile = (README.parent / "Makefile").read_text(encoding="utf-8")
    assert targets == ["run", "test"]
    assert all(re.search(rf"^{target}.*: ", makefile, re.M) for target in targets)


def test_the_table_of_networks_is_what_the_command_prints():
    command = [sys.executable, "-m", "keras_cnns", "list", "--markdown"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (between,) = re.findall(
        r"^<!-- (keras-cnns list --markdown) -->\n(.*?)^<!-- end -->",
        README.read_text(encoding="utf-8"),
        re.M | re.S,
    )
    assert between[1].strip() == printed.strip(), f"put what {between[0]} prints into README.md"


@pytest.mark.parametrize(
    ("language", "text"), BLOCKS[1:], ids=[text[:40] for _, text in BLOCKS[1:]]
)
def test_each_block_runs(language, text, folder, digits_dir):
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "TFDS_DATA_DIR": str(digits_dir),
    }
    command = ["bash", "-e", "-c", text] if language == "sh" else [sys.executable, "-c", text]
    result = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-3000:]
