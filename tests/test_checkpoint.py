"""A checkpoint is whole or not there; what is damaged is said, and what came before is used."""

import errno
import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from keras_cnns import runs
from keras_cnns.errors import UsageError
from keras_cnns.recipe import Recipe
from keras_cnns.training import checkpoint

ARRAYS = {
    "model/0000": np.arange(6, dtype="float32").reshape(2, 3).T,  # not as it lies in memory
    "model/0001": np.float32(7),
    "model/0002": np.array([3, 4], "int64"),
    "optimizer/0000": np.zeros((0, 2), "float32"),
}


@pytest.fixture
def folder(tmp_path):
    for step in (1, 2, 3):
        checkpoint.write(tmp_path, step, ARRAYS, {"step": step, "best": None})
    return tmp_path


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_is_written_is_read(folder):
    found = checkpoint.newest(folder)
    assert found.state == {"step": 3, "best": None}
    assert found.arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert found.arrays[name].dtype == np.asarray(array).dtype
        assert np.array_equal(found.arrays[name], array)


def test_the_newest_two_are_kept(folder):
    assert files(folder) == [f"checkpoint-{n:09d}.safetensors" for n in (2, 3)]


def test_a_run_that_has_not_begun_has_none(tmp_path):
    assert checkpoint.newest(tmp_path) is None


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.99, -1])
def test_a_torn_one_is_said_and_the_one_before_is_used(folder, kept):
    newest = folder / "checkpoint-000000003.safetensors"
    content = newest.read_bytes()
    torn = content[: int(kept * len(content))] if kept >= 0 else content[:-1] + b"?"
    newest.write_bytes(torn)
    said = []
    assert checkpoint.newest(folder, said.append).state["step"] == 2
    assert "checkpoint-000000003.safetensors" in said[0]
    assert "going on from checkpoint-000000002" in said[0]
    checkpoint.write(folder, 2, ARRAYS, {"step": 2})
    assert files(folder) == ["checkpoint-000000002.safetensors"]  # the damaged one is gone


def test_both_torn_is_an_error_that_says_what_to_do(folder):
    for path in folder.iterdir():
        path.write_bytes(b"")
    with pytest.raises(UsageError, match="no checkpoint can be read .* or choose another --out"):
        checkpoint.newest(folder)


@pytest.mark.parametrize("call", ["save_file", "fsync", "replace"])
def test_a_full_disk_is_one_line_and_loses_nothing(folder, monkeypatch, call):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(checkpoint if call == "save_file" else os, call, full)
    with (
        pytest.raises(UsageError, match="the disk is full; .* goes on from there"),
        runs.full_disk(folder),
    ):
        checkpoint.write(folder, 4, ARRAYS, {"step": 4})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("Can't write data (errno = 28, error message = 'No space left on device')"),
    ],
)
def test_a_full_disk_is_known_by_number_and_by_what_libraries_say(tmp_path, error):
    with pytest.raises(UsageError, match="the disk is full"), runs.full_disk(tmp_path):
        raise error


def test_other_errors_pass(tmp_path):
    with pytest.raises(PermissionError), runs.full_disk(tmp_path):
        raise PermissionError(errno.EACCES, "denied")


def test_a_folder_is_held_by_one_process(tmp_path):
    (tmp_path / ".123.model.keras").touch()
    with runs.alone(tmp_path):
        assert files(tmp_path) == []  # what a killed process left
        held = pytest.raises(UsageError, match="is being trained by another process")
        with held, runs.alone(tmp_path):
            pass
    with pytest.raises(BlockingIOError), runs.alone(tmp_path):
        raise BlockingIOError  # not the folder's


def test_what_was_started_before_a_kill_lets_go_of_the_folder_in_time(tmp_path):
    """Until it is a program of its own, a child holds what its parent held."""
    fcntl = pytest.importorskip("fcntl", reason="holding a folder is POSIX's")
    handle = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with subprocess.Popen(["sleep", "0.5"], pass_fds=[handle]) as child:
        os.close(handle)
        with pytest.raises(BlockingIOError), runs.held(tmp_path, wait=False):
            pass
        with runs.alone(tmp_path):
            assert child.wait(1) == 0


def test_two_results_at_once_are_both_kept(tmp_path, monkeypatch):
    (tmp_path / "recipe.toml").touch()
    run, read = runs.Run(tmp_path, Recipe(), ()), runs.read_metrics

    def slowly(run):
        found = read(run)
        time.sleep(0.1)
        return found

    monkeypatch.setattr(runs, "read_metrics", slowly)
    # As a training does, which ends with its own.
    with runs.alone(tmp_path), ThreadPoolExecutor() as pool:
        list(pool.map(lambda part: runs.write_metrics(run, part, {}), "abc"))
    assert set(read(run)) == set("abc")


def test_windows_opens_no_folder_and_flushes_only_what_can_be_written(tmp_path, monkeypatch):
    opened, flush = os.open, os.fsync

    def never_a_folder(path, flags):
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(path, flags)

    def only_to_write(handle):
        os.write(handle, b"")  # EBADF where it is only to be read
        flush(handle)

    monkeypatch.delattr(os, "O_DIRECTORY")
    monkeypatch.setattr(os, "open", never_a_folder)
    monkeypatch.setattr(os, "fsync", only_to_write)
    with checkpoint.lasting(tmp_path / "model.keras") as temporary:
        temporary.write_bytes(b"weights")
    assert (tmp_path / "model.keras").read_bytes() == b"weights"
