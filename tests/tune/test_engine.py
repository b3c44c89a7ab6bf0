"""A search on one machine: budgets, failures, kills. Its trials are stub.py's, but for the last."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random

import pytest

from keras_cnns import runs, tune
from keras_cnns.errors import UsageError
from keras_cnns.tune import here, kerastuner
from keras_cnns.tune.book import Book, name_of
from keras_cnns.tune.engine import LOSSES, TOO_SLOW, Search
from keras_cnns.tune.oracles import ORACLES
from keras_cnns.tune.steps import Wait
from keras_cnns.tune.trainer import Trainer

sys.path.insert(0, str(Path(__file__).parent))
import driver


def searched(folder, plan):
    folder.mkdir(exist_ok=True)
    search = Search(plan, Book(folder / "trials"))
    here.train(search, plan.recipe, folder, command=driver.STUB)
    return Book(folder / "trials")


def distinct(records, plan):
    return {plan.market.key(record["values"]) for record in records}


def test_all_trials_are_new_and_within_the_budget_and_the_first_is_the_papers(tmp_path):
    plan = driver.plan(12)
    trials = searched(tmp_path, plan).trials()
    assert [trial["id"] for trial in trials] == [f"{i:04d}" for i in range(12)]
    assert {trial["status"] for trial in trials} == {"completed"}
    assert trials[0]["values"] == plan.market.space.default
    assert max(trial["macs"] for trial in trials) == trials[0]["macs"] == 416_520
    assert len(distinct(trials, plan)) == 12
    again = searched(tmp_path, plan._replace(trials=14)).trials()
    assert again[:12] == trials
    assert len(distinct(again, plan)) == 14


def test_the_same_seed_is_the_same_search(tmp_path):
    one, other = (searched(tmp_path / name, driver.plan(6)).trials() for name in "ab")
    assert one == other


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("kill", "killed by SIGKILL, as a system does that is out of memory"),
        ("exit", "ended with status 3: a library's last words"),
        ("crash", "killed by SIGSEGV"),
        ("nan", "the score is no number"),
        ("chatter", "ended with status 0"),
        ("fail", "out of memory: 3 GB"),
    ],
)
def test_a_failure_is_its_trials_own(what, why, tmp_path, monkeypatch):
    monkeypatch.setenv("STUB", json.dumps({"0001": what}))
    trials = searched(tmp_path, driver.plan(3)).trials()
    assert [trial["status"] for trial in trials] == ["completed", "failed", "completed"]
    assert trials[1]["why"] == why
    assert trials[1]["score"] is None
    assert trials[1]["macs"] > 0


def test_the_machines_trouble_is_no_trials_failure(tmp_path, monkeypatch):
    monkeypatch.setenv("STUB", json.dumps({"0001": "stop"}))
    with pytest.raises(UsageError, match=r"0001 cannot be trained here: OSError: no space left .*"):
        searched(tmp_path, driver.plan(3))
    statuses = [trial["status"] for trial in Book(tmp_path / "trials").trials()]
    assert statuses == ["completed", "running"]
    monkeypatch.delenv("STUB")
    trials = searched(tmp_path, driver.plan(3)).trials()
    assert [trial["status"] for trial in trials] == ["completed"] * 3


def test_a_process_that_dies_while_it_waits_costs_no_trial():
    job = {"id": "0000", "seed": 0, "split": "validation", "load": None, "epochs": 1, "spec": {}}
    with Trainer(driver.STUB) as trainer:
        trainer.run(job, more=True)
        trainer.spare.popen.kill()
        trainer.spare.popen.wait()
        assert "score" in trainer.run(job, more=True)
        trainer.spare.popen.kill()


def test_what_is_too_slow_is_measured_and_not_counted(tmp_path, monkeypatch):
    monkeypatch.setenv("STUB", json.dumps({"0000": "slow", "0002": "slow"}))
    plan = driver.plan(3, max_latency_ms=10.0)
    book = searched(tmp_path, plan)
    statuses = [trial["status"] for trial in book.trials()]
    assert statuses == ["refused", "completed", "refused", "completed", "completed"]
    assert book.records["0002"]["why"] == "12.3 ms as tflite, above --max-latency-ms 10"
    found = tune.answer.summary(book.trials(), plan.market)
    assert [trial["id"] for trial in found["trials"]] == ["0001", "0003", "0004"]
    assert [trial["id"] for trial in found["refused"]] == ["0000", "0002"]
    assert found["paper"] is None


def test_a_limit_that_none_keeps_ends_the_search(tmp_path, monkeypatch):
    monkeypatch.setenv("STUB", json.dumps({f"{i:04d}": "slow" for i in range(99)}))
    with pytest.raises(UsageError, match=r"none of 20 networks in a row .* the fastest took 12.3"):
        searched(tmp_path, driver.plan(3, max_latency_ms=10.0))


def test_a_limit_is_not_judged_before_the_first_trial_has_ended(tmp_path):
    search = Search(driver.plan(9, max_latency_ms=10.0), Book(tmp_path / "trials"))
    search.take("long at work")
    for _ in range(TOO_SLOW):
        search.finish(search.take("w")["id"], {"refused": "12.3 ms", "latency_ms": 12.3})
    assert search.take("w") == Wait()
    search.finish("0000", {"score": 0.5})
    assert search.take("w") is None


def test_a_search_that_is_killed_loses_and_repeats_nothing(tmp_path, monkeypatch):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    plan = driver.plan(12)
    expected = searched(whole, plan).trials()
    killed.mkdir()
    monkeypatch.setenv("STUB", json.dumps({"seconds": 0.15, "log": str(tmp_path / "log")}))
    command = [sys.executable, driver.__file__, str(killed), "12", "here"]
    seen = 0
    for _ in range(3):
        process = subprocess.Popen(command, stderr=subprocess.PIPE)
        deadline = time.monotonic() + 60
        while len(list(killed.glob("trials/*.json"))) < seen + 2:
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stderr.close()
        seen = len(list(killed.glob("trials/*.json")))
        assert seen < 12
    subprocess.run(command, check=True, capture_output=True)
    found = Book(killed / "trials").trials()
    assert found == expected
    # What was at work when the kill came is all that was trained twice.
    trained = [line.split()[0] for line in (tmp_path / "log").read_text().splitlines()]
    assert len(trained) - len(set(trained)) <= 3
    assert not list(killed.glob("trials/.*"))


def test_a_trial_does_not_outlive_its_search(tmp_path, monkeypatch):
    log = tmp_path / "log"
    monkeypatch.setenv("STUB", json.dumps({"seconds": 60, "log": str(log)}))
    command = [sys.executable, driver.__file__, str(tmp_path), "2", "here"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not log.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    threads = Path(f"/proc/{process.pid}/task").glob("*/children")
    children = [child for thread in threads for child in thread.read_text().split()]
    assert children
    process.kill()
    process.wait()
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{child}").exists() for child in children):
        assert time.monotonic() < deadline
        time.sleep(0.05)


two_cores = pytest.mark.skipif(len(here.cores()) < 2, reason="each of two jobs wants a core")


@two_cores
def test_jobs_share_the_trials_and_the_cores(tmp_path, monkeypatch):
    cores = here.cores()
    log = tmp_path / "log"
    monkeypatch.setenv("STUB", json.dumps({"seconds": 0.3, "log": str(log), "0002": "kill"}))
    plan = driver.plan(9, repeat=2)
    search = Search(plan, Book(tmp_path / "trials"))
    here.train(search, plan.recipe, tmp_path, jobs=2, command=driver.STUB)
    trials = search.book.trials()
    assert [trial["id"] for trial in trials] == [f"{i:04d}" for i in range(9)]
    assert [trial["status"] for trial in trials].count("completed") == 8
    assert len(distinct(trials, plan)) == 9
    lines = [line.split() for line in log.read_text().splitlines()]
    names, used = [line[0] for line in lines], {line[-1] for line in lines}
    assert len(names) == len(set(names)) == 9 + 4  # none is trained twice
    assert used == {"-".join(map(str, share)) for share in here.shares(2)}
    assert here.cores() == cores  # of the search itself


def test_two_jobs_propose_what_one_does(tmp_path):
    one = searched(tmp_path / "one", driver.plan(6)).trials()
    plan = driver.plan(6)
    search = Search(plan, Book(tmp_path / "trials"))
    here.train(search, plan.recipe, tmp_path, len(here.cores()), driver.STUB)
    assert search.book.trials() == one


@two_cores
def test_an_error_in_one_job_ends_the_others(tmp_path, monkeypatch):
    monkeypatch.setenv("STUB", json.dumps({"seconds": 60}))
    plan = driver.plan(9)
    search = Search(plan, Book(tmp_path / "trials"))
    taken = iter([search.take("job 0")])

    def take(name):
        for order in taken:
            return order
        raise UsageError("the disk is full")

    monkeypatch.setattr(search, "take", take)
    began = time.monotonic()
    with pytest.raises(UsageError, match="the disk is full"):
        here.train(search, plan.recipe, tmp_path, 2, driver.STUB)
    assert time.monotonic() - began < 30


def test_ctrl_c_ends_all_jobs(tmp_path, monkeypatch):
    log = tmp_path / "log"
    monkeypatch.setenv("STUB", json.dumps({"seconds": 60, "log": str(log)}))
    words = [driver.__file__, tmp_path, 9, "here", "", "", len(here.cores())]
    code = "import signal, runpy, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-c", code, *map(str, words)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not log.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert b"KeyboardInterrupt" in process.communicate(timeout=30)[1]


@pytest.mark.parametrize("jobs", [0, -1, 10_000])
def test_more_jobs_than_cores_are_refused(jobs, tmp_path):
    with pytest.raises(UsageError, match=f"received {jobs} jobs, but each has cores of its own"):
        tune.tune(driver.recipe(), tmp_path / "out", trials=1, jobs=jobs)
    assert not (tmp_path / "out").exists()


def test_a_chief_has_no_jobs(tmp_path):
    with pytest.raises(UsageError, match="2 jobs for a chief, which trains nothing"):
        tune.tune(driver.recipe(), tmp_path / "out", trials=1, jobs=2, chief="127.0.0.1:0")


@pytest.mark.parametrize("oracle", ["evolutoin", lambda **options: None])
def test_what_is_no_oracle_is_refused_in_a_line(oracle, tmp_path):
    with pytest.raises(UsageError, match=r"unknown oracle .* allowed are random, evolution, ") as e:
        tune.tune(driver.recipe(), tmp_path / "out", trials=1, oracle=oracle)
    assert "\n" not in str(e.value)
    assert not (tmp_path / "out").exists()


def test_hyperband_wants_as_many_trials_as_train_one_to_its_end(tmp_path):
    with pytest.raises(UsageError, match=r"20 trials, .* none for all 30 epochs; give at least 51"):
        tune.tune(driver.recipe(), tmp_path / "out", trials=20, oracle="hyperband")
    assert not (tmp_path / "out").exists()


def test_weights_to_start_from_are_refused(tmp_path):
    recipe = driver.recipe()
    recipe = replace(recipe, model=replace(recipe.model, weights="imagenet"))
    with pytest.raises(UsageError, match=r"model.weights: they fit only the network as it stands"):
        tune.tune(recipe, tmp_path / "out", trials=1)
    assert not (tmp_path / "out").exists()


def test_a_folder_is_one_searchs(tmp_path):
    with runs.alone(tmp_path):
        command = [sys.executable, driver.__file__, str(tmp_path), "1", "here"]
        process = subprocess.run(command, capture_output=True, text=True)
    assert "another process" in process.stderr
    assert not (tmp_path / "trials").exists()


@pytest.fixture
def tuned(pictures, tmp_path, monkeypatch):
    """Return what searches over the pictures, with trials that the stub answers."""
    monkeypatch.setattr(here, "train", partial(here.train, command=driver.STUB))
    recipe = driver.recipe()
    recipe = replace(recipe, data=replace(recipe.data, name=str(pictures)))

    def search(**options):
        return tune.tune(recipe, tmp_path / "out", **{"trials": 2, **options})

    return search


def test_a_search_goes_on_only_with_the_images_that_it_began_with(tuned, pictures):
    begun = tuned()
    assert tuned() == begun
    shutil.copy(pictures / "a" / "0.png", pictures / "a" / "one more.png")
    with pytest.raises(UsageError, match="pictures has changed: .* choose another --out"):
        tuned(repeat=2)


def test_a_search_that_did_not_note_its_images_does_not_go_on(tuned, tmp_path):
    tuned()
    place = tmp_path / "out" / "search.json"
    kept = json.loads(place.read_text())
    kept.pop("digests")
    place.write_text(json.dumps(kept))
    with pytest.raises(UsageError, match="not those that the search began with"):
        tuned()


def test_a_network_above_the_budget_is_told_to_be_left_out(tuned, tmp_path, capsys):
    said = "he network as it stands has 415,848 MACs, outside the budget: left out"
    found = tuned(max_macs=400_000)
    assert found["paper"] is None
    assert found["left_out"] == f"t{said}"
    assert f"T{said}" in (tmp_path / "out" / "report.html").read_text()
    assert f"t{said}" in capsys.readouterr().err


def test_a_limit_that_no_other_keeps_ends_the_trials_and_not_the_search(
    tuned, tmp_path, monkeypatch, capsys
):
    fates = {f"{i:04d}": "slow" for i in range(99) if i not in (0, 3)}
    monkeypatch.setenv("STUB", json.dumps(fates))
    found = tuned(trials=9, max_latency_ms=10.0, repeat=2)
    assert "the fastest took 12.3; no more are tried" in capsys.readouterr().err
    assert [trial["id"] for trial in found["trials"]] == ["0000", "0003"]
    assert len(found["refused"]) == 2 + TOO_SLOW
    assert [row["id"] for row in found["repeats"]["networks"]] == ["paper", "0003"]
    assert (tmp_path / "out" / "report.html").is_file()
    assert tuned(trials=9, max_latency_ms=10.0, repeat=2) == found


def test_weights_of_unfinished_trainings_are_not_left(tuned, tmp_path):
    left = tmp_path / "out" / "weights" / "0001.npz"
    tuned()
    left.parent.mkdir()
    left.touch()
    tuned()
    assert not left.exists()


def test_a_kill_between_the_first_two_files_is_no_end(tuned, tmp_path, monkeypatch):
    written = []

    def write(*words, of=runs.write_text):
        if written:
            raise KeyboardInterrupt
        written.append(of(*words))

    with monkeypatch.context() as patch:
        patch.setattr(runs, "write_text", write)
        with pytest.raises(KeyboardInterrupt):
            tuned()
    tuned()
    assert (tmp_path / "out" / "recipe.toml").is_file()


def test_a_torn_record_is_named(tmp_path):
    searched(tmp_path, driver.plan(1))
    (tmp_path / "trials" / "0000.json").write_text('{"id": ')
    with pytest.raises(UsageError, match=r"0000.json is no record of a trial; remove it to go on"):
        Book(tmp_path / "trials")


def test_the_ten_thousandth_trial_follows_the_one_before_it(tmp_path):
    book = Book(tmp_path)
    for number in (9998, 9999, 10_000):
        book.write({"id": name_of(number)})
    book.write({"id": "repeat-paper-1", "of": "paper"})
    assert Book(tmp_path).records.keys() == book.records.keys()
    assert [trial["id"] for trial in Book(tmp_path).trials()] == ["9998", "9999", "10000"]


@pytest.mark.parametrize("oracle", ["random", "hyperband"])
def test_the_search_goes_on_without_a_record_that_was_removed(oracle, tmp_path):
    recipe = driver.recipe()
    recipe = replace(recipe, train=replace(recipe.train, epochs=3))  # three of Hyperband's for one
    plan = driver.plan(3, oracle=oracle)._replace(recipe=recipe)
    before = {trial["id"]: trial for trial in searched(tmp_path, plan).trials()}
    (tmp_path / "trials" / "0001.json").unlink()
    del before["0001"]
    after = {trial["id"]: trial for trial in searched(tmp_path, plan._replace(trials=4)).trials()}
    assert list(after) == ["0000", "0002", "0003", "0004"]
    assert before.items() <= after.items()


def test_the_space_ends(tmp_path):
    shop = driver.market("resnet20_cifar", 32, "depths")
    shop.space.choices["stages.0.depth"] = shop.space.choices["stages.1.depth"] = (1.0,)
    plan = driver.plan(99, market=shop)
    trials = searched(tmp_path, plan).trials()
    assert len(trials) == 4  # 1 to 4 blocks
    assert Search(plan, Book(tmp_path / "trials")).take("here") is None


def test_an_oracle_that_has_run_dry_does_not_end_the_search(tmp_path, monkeypatch):
    monkeypatch.setitem(ORACLES, "dry", lambda space, trials, draw: iter(()))
    plan = driver.plan(3, oracle="dry")
    assert len(distinct(searched(tmp_path, plan).trials(), plan)) == 3


def test_a_lost_workers_trial_is_anothers_and_not_for_ever(tmp_path):
    search = Search(driver.plan(1), Book(tmp_path / "trials"), lease=0.0)
    for i in range(LOSSES):
        order = search.take(f"worker {i}")
        assert order["id"] == "0000"
        time.sleep(0.001)
    assert search.take("worker") is None
    assert search.book.records["0000"]["why"] == f"{LOSSES} workers were lost with it"


def test_a_long_proposal_costs_no_lease(tmp_path, monkeypatch):
    search = Search(driver.plan(3), Book(tmp_path / "trials"), lease=0.2)
    search.take("a")
    following = search._next
    monkeypatch.setattr(search, "_next", lambda: (time.sleep(0.3), following())[1])
    assert search.take("b")["id"] == "0001"
    assert search.beat("a", "0000")
    assert search.take("c")["id"] == "0002"
    assert "losses" not in search.book.records["0000"]


def test_a_worker_that_asks_twice_gets_the_same_trial(tmp_path):
    search = Search(driver.plan(2), Book(tmp_path / "trials"))
    first = search.take("a")
    assert search.take("a") == first
    assert search.take("b")["id"] == "0001"
    assert search.take("c") == Wait()
    assert not search.beat("b", "0000")
    assert search.beat("a", "0000")
    search.finish("0000", {"score": 0.5})
    search.finish("0000", {"score": 0.9})  # another's, too late
    assert search.book.records["0000"]["score"] == 0.5
    assert not search.beat("a", "0000")


def together(search, workers, came_of):
    """Train all trials of a search by several workers; what was begun first ends first."""
    at_work = {}
    for _ in range(1000):
        for worker in set(map(str, range(workers))) - set(at_work):
            order = search.take(worker)
            if order is None:
                assert not at_work
                return search.book.trials()
            if not isinstance(order, Wait):
                at_work[worker] = order
        worker = min(at_work, key=lambda worker: at_work[worker]["id"])
        order = at_work.pop(worker)
        search.finish(order["id"], came_of(order))
    raise AssertionError("the search has no end")


def hyperband(tmp_path, trials, **options):
    plan = driver.plan(trials, oracle="hyperband", **options)
    recipe = replace(plan.recipe, train=replace(plan.recipe.train, epochs=9))
    return Search(plan._replace(recipe=recipe), Book(tmp_path / "trials"))


def check_promotions(trials):
    by_name = {trial["id"]: trial for trial in trials}
    promoted = [trial for trial in trials if trial["after"]]
    parents = [by_name[trial["after"]] for trial in promoted]
    assert {parent["status"] for parent in parents} == {"completed"}
    assert [parent["values"] for parent in parents] == [trial["values"] for trial in promoted]
    assert [parent["epochs"] for parent in parents] == [t["initial_epoch"] for t in promoted]
    assert len({parent["id"] for parent in parents}) == len(parents)


@pytest.mark.parametrize("workers", [1, 2, 9])
@pytest.mark.parametrize("slow", [range(2, 99, 3), ()], ids=["some refused", "none refused"])
def test_hyperband_trains_one_to_its_end_within_the_trials_it_asks_for(slow, workers, tmp_path):
    search = hyperband(tmp_path, kerastuner.least_trials(9), max_latency_ms=10.0)

    def came_of(order):
        if int(order["id"]) in slow and order["max_latency_ms"]:
            return {"refused": "12.3 ms", "latency_ms": 12.3}
        return {"score": Random(order["id"]).random()}

    trials = together(search, workers, came_of)
    check_promotions(trials)
    kept = [trial for trial in trials if trial["status"] != "refused"]
    assert Counter(trial["epochs"] for trial in kept) == {1: 9, 3: 3, 9: 1}
    assert bool(slow) == (len(kept) < len(trials))


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("broken", [(2, 5, 8), (11,)], ids=["first", "promoted"])
def test_others_are_promoted_in_place_of_those_that_fail(broken, workers, tmp_path):
    def came_of(order):
        if int(order["id"]) in broken:
            return {"why": "broke"}
        return {"score": Random(order["id"]).random()}

    trials = together(hyperband(tmp_path, 20), workers, came_of)
    check_promotions(trials)
    failed = [trial for trial in trials if trial["status"] == "failed"]
    assert {bool(trial["after"]) for trial in failed} == {broken[0] > 8}
    twice = [trial for trial in trials if trial["after"] and trials[int(trial["after"])]["after"]]
    assert "completed" in {trial["status"] for trial in twice}


@pytest.mark.parametrize("workers", [1, 2])
def test_another_is_trained_to_its_end_where_the_first_of_them_fails(workers, tmp_path):
    ends = []

    def came_of(order):
        ends.extend([order["id"]] * (order["epochs"] == 9))
        if [order["id"]] == ends:
            return {"why": "broke"}
        return {"score": Random(order["id"]).random()}

    trials = together(hyperband(tmp_path, 20), workers, came_of)
    check_promotions(trials)
    twice = [trial for trial in trials if trial["after"] and trials[int(trial["after"])]["after"]]
    assert [trial["status"] for trial in twice] == ["failed", "completed"]


def test_repeats_have_fresh_seeds_and_end_on_the_test_split(tmp_path, monkeypatch):
    monkeypatch.setenv("STUB", json.dumps({"log": str(tmp_path / "log")}))
    plan = driver.plan(4, repeat=3, finalists=2)
    book = searched(tmp_path, plan)
    assert len(book.trials()) == 4
    repeats = [record for record in book.records.values() if "of" in record]
    best = [trial["id"] for trial in tune.answer.finalists(book.trials(), plan.market, 2)]
    assert "0000" not in best
    assert {(r["of"], r["seed"]) for r in repeats} == {
        (of, seed) for of in ("paper", *best) for seed in (1, 2, 3)
    }
    lines = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    assert {split for name, _, split, *_ in lines if name.startswith("0")} == {"validation"}
    assert {split for name, _, split, *_ in lines if name.startswith("repeat")} == {"test"}
    found = tune.answer.compared(repeats, "test", 2)
    assert [row["id"] for row in found["networks"]] == ["paper", *sorted(best)]
    assert all(row["seeds"] == [1, 2, 3] for row in found["networks"])
