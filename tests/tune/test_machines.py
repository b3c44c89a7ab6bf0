"""A search on several machines: who may take part, and what happens when one of them dies."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from click.testing import CliRunner

from keras_cnns.cli import main
from keras_cnns.errors import UsageError
from keras_cnns.tune import machines, wire
from keras_cnns.tune.book import Book
from keras_cnns.tune.engine import Search
from keras_cnns.tune.trainer import Trainer

sys.path.insert(0, str(Path(__file__).parent))
import driver


@pytest.fixture
def started(monkeypatch):
    """Return what starts chiefs and workers, all of which are gone in the end."""
    processes = []
    monkeypatch.delenv(wire.SECRET, raising=False)

    def start(*words):
        command = [sys.executable, driver.__file__, *map(str, words)]
        processes.append(subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stderr.close()


def records(folder):
    return len(list((folder / "trials").glob("0*.json")))


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def nobodys():
    """Return an address on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return wire.Address(*free.getsockname())


def listens(place):
    with socket.socket() as probe:
        return probe.connect_ex(place) == 0


def test_chief_and_workers_survive_the_killing_of_each(tmp_path, started, monkeypatch):
    monkeypatch.setenv("STUB", json.dumps({"seconds": 0.4, "log": str(tmp_path / "log")}))
    out = tmp_path / "search"
    out.mkdir()
    place = nobodys()
    # In whatever order: the first worker finds neither a chief nor its secret.
    workers = [started(out, 10, "worker", place, "one")]
    chief = started(out, 10, "chief", place)
    workers.append(started(out, 10, "worker", place, "two"))

    wait_for(lambda: records(out) >= 3)
    workers[0].send_signal(signal.SIGKILL)  # its trial is the other's, or the next one's
    wait_for(lambda: records(out) >= 5)
    chief.send_signal(signal.SIGKILL)
    chief.wait()
    time.sleep(0.5)  # the worker that is left finds nobody
    chief = started(out, 10, "chief", place)
    workers[0] = started(out, 10, "worker", place, "three")
    wait_for(lambda: records(out) >= 7)
    workers[1].send_signal(signal.SIGKILL)

    assert chief.wait(60) == 0
    assert workers[0].wait(60) == 0
    plan = driver.plan(10)
    trials = Book(out / "trials").trials()
    assert [trial["id"] for trial in trials] == [f"{i:04d}" for i in range(10)]
    assert {trial["status"] for trial in trials} == {"completed"}
    assert trials[0]["values"] == plan.market.space.default
    assert len({plan.market.key(trial["values"]) for trial in trials}) == 10
    assert max(trial["macs"] for trial in trials) <= 416_520
    trained = [line.split()[0] for line in (tmp_path / "log").read_text().splitlines()]
    assert set(trained) == {trial["id"] for trial in trials}
    assert len(trained) <= 10 + 2  # again, what the workers that were killed had at work


def test_a_finished_search_needs_no_workers(tmp_path, monkeypatch):
    monkeypatch.delenv(wire.SECRET, raising=False)
    search = Search(driver.plan(1), Book(tmp_path / "trials"), lease=0.2)
    search.take("gone")
    search.finish("0000", {"score": 0.5})
    machines.direct(search, wire.Address("127.0.0.1", 0), tmp_path, {}, patience=60)


def test_a_chief_without_workers_gives_up(tmp_path):
    search = Search(driver.plan(1), Book(tmp_path / "trials"), lease=0.2)
    with pytest.raises(UsageError, match="no worker was heard of for 0.3 s; the same command"):
        machines.direct(search, wire.Address("127.0.0.1", 0), tmp_path, {}, patience=0.3)


def test_a_chief_does_not_give_up_on_a_worker_that_is_busy(tmp_path, monkeypatch):
    monkeypatch.setenv(wire.SECRET, "a word")
    monkeypatch.setenv("STUB", json.dumps({"seconds": 1.0}))
    search = Search(driver.plan(1), Book(tmp_path / "trials"), lease=2.0)
    place = nobodys()

    def work():
        with Trainer(driver.STUB) as trainer:
            machines.serve(driver.recipe(), place, tmp_path, driver.ABOUT, 20, trainer)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    machines.direct(search, place, tmp_path, driver.ABOUT, patience=0.1)
    thread.join(20)
    assert search.book.records["0000"]["status"] == "completed"


@pytest.fixture
def chief(tmp_path, monkeypatch):
    """Return the address of a chief that has one trial, and its search."""
    monkeypatch.setenv(wire.SECRET, "a word")
    search = Search(driver.plan(1), Book(tmp_path / "trials"), lease=0.2)
    place = nobodys()
    thread = threading.Thread(
        target=machines.direct, args=(search, place, tmp_path, driver.ABOUT, 30), daemon=True
    )
    thread.start()
    wait_for(lambda: listens(place))
    yield place, search
    search.exhausted = True
    for name in list(search.book.records):
        search.finish(name, {"score": 0.5})
    thread.join(20)
    assert not thread.is_alive()


def test_a_worker_of_another_search_is_told_so(chief, tmp_path):
    with (
        Trainer(driver.STUB) as trainer,
        pytest.raises(UsageError, match="another search: recipe is \"LeNet-5's\" there and 'x'"),
    ):
        machines.serve(driver.recipe(), chief[0], tmp_path, {"recipe": "x"}, 5, trainer)


def test_a_worker_that_cannot_train_ends_and_burns_no_trial(chief, tmp_path, monkeypatch):
    monkeypatch.setenv("STUB", json.dumps({"0000": "stop"}))
    place, search = chief
    with (
        Trainer(driver.STUB) as trainer,
        pytest.raises(UsageError, match="0000 cannot be trained here: OSError: no space left"),
    ):
        machines.serve(driver.recipe(), place, tmp_path, driver.ABOUT, 5, trainer)
    assert search.book.records["0000"]["status"] == "running"


@pytest.mark.parametrize("topic", ["take", "beat", "finish"])
def test_a_chief_on_a_full_disk_ends_with_that_reason(topic, tmp_path, monkeypatch):
    monkeypatch.setenv(wire.SECRET, "a word")
    search, place = Search(driver.plan(1), Book(tmp_path / "trials"), lease=0.2), nobodys()

    def full(*_):
        raise OSError(28, "No space left on device")

    message = {"worker": "w", "id": "0000", "outcome": {"score": 0.5}}
    with ThreadPoolExecutor(1) as pool:
        chief = pool.submit(machines.direct, search, place, tmp_path, driver.ABOUT, 30)
        wait_for(lambda: listens(place))
        wire.ask(place, "a word", "take", message)
        monkeypatch.setattr(search, topic, full)
        with pytest.raises(ConnectionError, match="does not answer: UNKNOWN: OSError"):
            wire.ask(place, "a word", topic, message)
        with pytest.raises(OSError, match="No space left on device"):
            chief.result(20)


@pytest.mark.parametrize("there", ["id", "data/source.json"])
def test_a_folder_with_another_searchs_images_is_refused(there, chief, tmp_path):
    place = tmp_path / "other" / there
    place.parent.mkdir(parents=True)
    place.write_text("another's")
    with (
        Trainer(driver.STUB) as trainer,
        pytest.raises(UsageError, match="other has the images of another search; choose another"),
    ):
        machines.serve(driver.recipe(), chief[0], tmp_path / "other", driver.ABOUT, 5, trainer)


def test_workers_of_one_hosts_name_are_not_the_same(chief, tmp_path, monkeypatch, capsys):
    names = []

    def ask(place, word, topic, message):
        names.append(message["worker"])
        return {"done": True, "search": "x", "lease": 1.0}

    monkeypatch.setattr(wire, "ask", ask)
    for _ in range(2):  # of one process too
        machines.serve(driver.recipe(), chief[0], tmp_path / "w", {}, 5, Trainer(driver.STUB))
    assert len(set(names)) == 2
    told = [f"training for the chief at {chief[0]}, as {name}" for name in dict.fromkeys(names)]
    assert [line for line in capsys.readouterr().err.splitlines() if line[:8] == "training"] == told


def test_a_worker_without_the_secret_is_refused(chief, tmp_path, monkeypatch):
    place, search = chief
    with pytest.raises(wire.Refused, match="another secret"):
        wire.ask(place, "another word", "take", {"worker": "w"})
    assert not search.book.records
    monkeypatch.delenv(wire.SECRET)
    with Trainer(driver.STUB) as trainer, pytest.raises(UsageError, match="KERAS_CNNS_SECRET"):
        machines.serve(driver.recipe(), place, tmp_path / "other", driver.ABOUT, 0.2, trainer)


def test_nonsense_is_refused_and_harms_nothing(chief):
    place, search = chief
    message = {"worker": "w", "id": "../x", "outcome": {"score": 1.0}}
    for topic, content, code in (
        ("take", b"[]", "INVALID_ARGUMENT"),
        ("take", b"not JSON", "INVALID_ARGUMENT"),
        ("take", b"{}", "INVALID_ARGUMENT"),
        ("nonsense", b"{}", "UNIMPLEMENTED"),
        ("take", b" " * (wire.LARGEST + 1), "RESOURCE_EXHAUSTED"),
        ("finish", json.dumps(message | {"outcome": 3}).encode(), "INVALID_ARGUMENT"),
        ("finish", json.dumps(message).encode(), "OK"),
    ):
        with grpc.insecure_channel(str(place)) as channel:
            call = channel.unary_unary(f"/{wire.SERVICE}/{topic}")
            words = [("authorization", "Bearer a word")]
            given = call.future(content, timeout=10, metadata=words)
            assert given.code().name == code
    assert not search.book.records


def test_a_worker_waits_for_its_chief_and_not_for_ever(tmp_path, monkeypatch):
    monkeypatch.setenv(wire.SECRET, "a word")
    place = nobodys()
    start = time.monotonic()
    with (
        Trainer(driver.STUB) as trainer,
        pytest.raises(UsageError, match=r"does not answer: .*; gave up after 0.5 s"),
    ):
        machines.serve(driver.recipe(), place, tmp_path, driver.ABOUT, 0.5, trainer)
    assert 0.5 < time.monotonic() - start < 10


@pytest.mark.parametrize("said", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"])
def test_who_answers_and_is_no_chief(said):
    def answer():
        connection, _ = listening.accept()
        connection.recv(2**16)
        connection.sendall(said)
        connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        with pytest.raises(ConnectionError, match="does not answer"):
            wire.ask(wire.Address(*listening.getsockname()), "a word", "take", {})
        thread.join(5)


def test_a_proxy_is_not_asked(chief, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    given = wire.ask(chief[0], "a word", "hello", {"worker": "w", "about": driver.ABOUT})
    assert given["lease"] == 0.2


def test_an_address_that_is_taken_is_told(chief):
    with (
        pytest.raises(UsageError, match="cannot listen on"),
        wire.server(chief[0], "a word", lambda *_: {}),
    ):
        pass


@pytest.mark.parametrize(
    "text",
    [
        "8.8.8.8:80",
        "0.0.0.0:80",
        "0.0.0.1:80",
        "240.0.0.1:80",
        "224.0.0.1:80",
        "255.255.255.255:80",
        "100.128.0.1:80",
        "[::]:80",
        "[::ffff:0.0.0.0]:80",
        "[::ffff:8.8.8.8]:80",
        "[ff02::1]:80",
        "[2001:4860::8888]:80",
    ],
)
def test_public_addresses_are_refused(text):
    with pytest.raises(UsageError, match="neither a loopback nor a private address"):
        wire.address(text)


@pytest.mark.parametrize(
    "text",
    [
        "127.0.0.1",
        "localhost:x",
        "localhost:²",
        ":80",
        "10.0.0.1:70000",
        f"10.0.0.1:{'7' * 5000}",
        "a..b:80",
        f"{'a' * 64}.org:80",
    ],
)
def test_what_is_no_address_is_refused(text):
    with pytest.raises(UsageError, match="HOST:PORT"):
        wire.address(text)


def test_loopback_and_private_addresses_are_taken():
    assert wire.address("localhost:70").host in ("127.0.0.1", "::1")
    assert wire.address("192.168.1.5:70") == ("192.168.1.5", 70)
    assert wire.address("100.101.102.103:70").host == "100.101.102.103"  # a tunnel's
    assert str(wire.address("[::1]:70")) == "[::1]:70"
    assert str(wire.address("[::ffff:10.0.0.1]:70")) == "10.0.0.1:70"
    assert wire.address("[fd00::1]:70").host == "fd00::1"


def test_a_worker_wants_its_chiefs_own_port(tmp_path):
    place = wire.Address("127.0.0.1", 0)
    with (
        Trainer(driver.STUB) as trainer,
        pytest.raises(UsageError, match=":0, which no chief listens on"),
    ):
        machines.serve(driver.recipe(), place, tmp_path, driver.ABOUT, 0.2, trainer)


def test_the_secret_is_the_owners_alone(tmp_path, monkeypatch):
    monkeypatch.delenv(wire.SECRET, raising=False)
    word = wire.secret(tmp_path, make=True)
    assert len(word) == 32
    assert wire.secret(tmp_path) == word
    assert os.stat(tmp_path / "secret").st_mode & 0o077 == 0


def test_spaces_around_a_secret_are_none_of_it(chief, tmp_path, monkeypatch):
    monkeypatch.setenv(wire.SECRET, " a word\n")
    assert wire.ask(chief[0], wire.secret(tmp_path), "take", {"worker": "w"})["order"]


@pytest.mark.parametrize("word", ["pässword", "two\nlines", "\x7f"])
def test_a_secret_that_cannot_be_sent_is_refused(word, tmp_path, monkeypatch):
    monkeypatch.setenv(wire.SECRET, word)
    with pytest.raises(UsageError, match="KERAS_CNNS_SECRET .* printable ASCII") as told:
        wire.secret(tmp_path)
    assert not isinstance(told.value, wire.NoSecret)  # which a worker waits for
    assert word not in str(told.value)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", "pässword".encode()])
def test_a_file_that_is_no_secret_is_named(content, tmp_path, monkeypatch):
    monkeypatch.delenv(wire.SECRET, raising=False)
    (tmp_path / "secret").write_bytes(content)
    with pytest.raises(UsageError, match="secret has no .* printable ASCII"):
        wire.secret(tmp_path)


def test_kerastuners_variables_are_heeded(tmp_path, monkeypatch):
    words = ["tune", "lenet5", "--data", "digits", "--out", str(tmp_path / "x")]
    monkeypatch.setenv("KERASTUNER_TUNER_ID", "chief")
    result = CliRunner().invoke(main, words)
    assert result.exit_code == 2
    assert "KERASTUNER_ORACLE_PORT" in result.stderr
    monkeypatch.setenv("KERASTUNER_ORACLE_IP", "8.8.8.8")
    monkeypatch.setenv("KERASTUNER_ORACLE_PORT", "80")
    for name in ("chief", "tuner0"):
        monkeypatch.setenv("KERASTUNER_TUNER_ID", name)
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 2
        assert "8.8.8.8 is neither a loopback nor a private address" in result.stderr
        assert "KERASTUNER_TUNER_ID is set: this is " in result.stderr
    result = CliRunner().invoke(main, [*words, "--chief", "a:1", "--worker", "a:1"])
    assert "--chief and --worker" in result.stderr


@pytest.mark.parametrize("role", ["--chief", "--worker"])
def test_jobs_are_of_one_machine(role, tmp_path):
    words = ["tune", "lenet5", "--data", "digits", "--out", str(tmp_path / "x"), "--jobs", "2"]
    result = CliRunner().invoke(main, [*words, role, "127.0.0.1:70"])
    assert result.exit_code == 2
    assert "start more workers instead" in result.stderr
    assert not (tmp_path / "x").exists()
