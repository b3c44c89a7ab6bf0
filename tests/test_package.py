"""The package as others get it: what importing costs, what it needs, and what the wheel holds."""

import ast
import configparser
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import entry_points, packages_distributions, version
from pathlib import Path

import pytest

import keras_cnns

ROOT = Path(__file__).parent.parent
HEAVY = {"tensorflow", "keras", "jax", "tensorflow_datasets", "keras_tuner", "sklearn"}
# What is imported by others, without their saying so: see setup.cfg.
FOR_OTHERS = {"importlib-resources", "tensorboard"}
# What a user may do without: the package says what for, once it is missing.
OPTIONAL = {"jax", "torch"}


def run(*command, **options):
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)


def test_importing_the_package_costs_nothing():
    done = run(sys.executable, "-c", "import sys, keras_cnns; print(*sys.modules)")
    assert not HEAVY & set(done.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "exit_code"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["list"], 0),
        (["list", "vgg*", "--json"], 0),
        (["train", "--help"], 0),
        (["nonsense"], 2),
        (["show", "vgg61"], 2),
    ],
    ids=str,
)
def test_what_needs_no_tensorflow_does_not_import_it(arguments, exit_code):
    code = (
        "import atexit, sys\n"
        "atexit.register(lambda: print('MODULES', *sys.modules))\n"
        "from keras_cnns.cli import main\n"
        f"sys.argv = ['keras-cnns', *{arguments!r}]\n"
        "sys.exit(main())\n"
    )
    done = run(sys.executable, "-c", code)
    assert done.returncode == exit_code, done.stderr
    assert not HEAVY & set(done.stdout.split("MODULES")[1].split())


def test_version_and_command_are_those_of_the_installed_package():
    assert version("keras_cnns") == keras_cnns.__version__
    (command,) = entry_points(group="console_scripts", name="keras-cnns")
    assert command.value == "keras_cnns.cli:main"


def requirements():
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg", encoding="utf-8")
    lines = settings["options"]["install_requires"].split("\n")
    return {normal(re.match(r"[\w.-]+", line)[0]) for line in lines if line}


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def imported_distributions():
    """Return the distributions that the package imports, as setup.cfg would name them."""
    modules = set()
    for path in (ROOT / "keras_cnns").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules.add(node.module.partition(".")[0])
    foreign = modules - set(sys.stdlib_module_names) - {"keras_cnns"} - OPTIONAL
    names = packages_distributions()
    found = {normal(names[module][0]) for module in foreign}
    return {"tensorflow" if name == "tensorflow-cpu" else name for name in found}


def test_dependencies_are_declared_and_used():
    assert requirements() == imported_distributions() | FOR_OTHERS


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel built from a copy, so that what an earlier build left here cannot get into it."""
    source = tmp_path_factory.mktemp("source")
    shutil.copytree(
        ROOT,
        source,
        dirs_exist_ok=True,
        ignore=shutil.ignore_patterns(".*", "*.egg-info", "build", "dist", "__pycache__", "demo"),
    )
    command = (sys.executable, "-m", "build", "--wheel", "--no-isolation", str(source))
    done = run(*command, cwd=source)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = (source / "dist").glob("*.whl")
    return path


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    package = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "keras_cnns").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert names == package
    assert {name.partition("/")[0] for name in names} == {"keras_cnns"}


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The wheel, installed by itself into a folder that comes before the checkout."""
    target = tmp_path_factory.mktemp("installed")
    command = ("pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target))
    done = run(sys.executable, "-m", *command, str(wheel))
    assert done.returncode == 0, done.stderr
    return {**os.environ, "PYTHONPATH": str(target)}, target


def test_the_installed_wheel_works_from_another_folder(installed, tmp_path):
    environment, target = installed
    for name in ("conftest.py", "test_recipe.py"):
        shutil.copy(ROOT / "tests" / name, tmp_path)
    code = "import keras_cnns as k; print(k.__file__, k.build('lenet5').count_params())"
    done = run(sys.executable, "-c", code, cwd=tmp_path, env=environment)
    assert done.stdout.split() == [str(target / "keras_cnns/__init__.py"), "61706"], done.stderr
    done = run(sys.executable, "-m", "keras_cnns", "list", cwd=tmp_path, env=environment)
    assert "vgg16" in done.stdout, done.stderr
    done = run(sys.executable, "-m", "pytest", "-q", cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr


def test_make_refuses_another_python_in_one_line(tmp_path):
    old = tmp_path / "python2"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    done = run("make", "run", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}", cwd=ROOT)
    assert done.returncode != 0
    assert "Python 3.11, 3.12 or 3.13 is needed" in done.stderr
    assert not (tmp_path / "venv").exists()
