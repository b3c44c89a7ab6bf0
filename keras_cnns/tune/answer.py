"""What a search found: the best, the front, what survives being repeated; as data and as TOML."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from keras_cnns import recipe as recipes, runs, spec as specs
from keras_cnns.recipe import Recipe
from keras_cnns.tune.book import Record
from keras_cnns.tune.budget import Market
from keras_cnns.tune.oracles import fronts
from keras_cnns.tune.sampler import finished

SURE = 0.05  # a difference is called one where chance alone makes such in fewer cases

Found = dict[str, Any]


def row(record: Record, market: Market) -> Found:
    """Return what is told of a trial."""
    told = ("id", "values", "params", "macs", "score", "status", "why", "seconds", "latency_ms")
    found = {key: record.get(key) for key in told}
    schedule = {key: record[key] for key in ("epochs", "after") if record.get(key) is not None}
    return {**found, "spec": specs.to_dict(market.space.spec_of(record["values"])), **schedule}


def ranked(trials: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the trials that were trained to their end, the best first; of equal ones the cheapest.

    Where some were trained for fewer epochs than others, only those with the most count.
    """
    done = finished(trials)
    longest = max((trial.get("epochs") or 0 for trial in done), default=0)
    full = [trial for trial in done if (trial.get("epochs") or 0) == longest]
    return sorted(full, key=lambda trial: (-trial["score"], trial["macs"]))


def shortened(found: Mapping[str, Any], epochs: int) -> int | None:
    """Return after how many epochs the best trial ended, where these are not all."""
    (best,) = (trial for trial in found["trials"] if trial["id"] == found["best"])
    trained = best.get("epochs") or epochs
    return trained if trained < epochs else None


def finalists(
    trials: Sequence[Mapping[str, Any]], market: Market, count: int
) -> list[Mapping[str, Any]]:
    """Return the best trials, the network as it stands aside."""
    paper = market.key(market.space.default)
    others = [trial for trial in ranked(trials) if market.key(trial["values"]) != paper]
    return others[:count]


def summary(records: Sequence[Record], market: Market) -> Found:
    """Name the best trial, those that no other beats in accuracy and MACs, and the paper's."""
    trials = [record for record in records if "of" not in record]
    kept = [trial for trial in trials if trial["status"] != "refused"]
    order = ranked(kept)
    front = fronts(order)[0] if order else []
    paper = market.key(market.space.default)
    same = [trial for trial in kept if market.key(trial["values"]) == paper]
    as_it_stands = max(same, key=lambda trial: trial.get("epochs") or 0, default=None)
    return {
        "trials": [row(record, market) for record in kept],
        "best": order[0]["id"] if order else None,
        "pareto": [trial["id"] for trial in sorted(front, key=lambda trial: trial["macs"])],
        "paper": as_it_stands["id"] if as_it_stands else None,
        "space": market.space.kind,
        "rejected": sum(trial["rejected"] for trial in trials),
        "refused": [row(trial, market) for trial in trials if trial["status"] == "refused"],
        "given": specs.to_dict(market.space.spec_of({})),
        "objective": "validation accuracy",
        "max_macs": market.budget.max_macs,
    }


def compared(records: Sequence[Record], split: str, repeat: int) -> Found | None:
    """Compare what was repeated with the network as it stands, seed by seed.

    The test is Student's, paired, two-sided, and none where a training failed or is still to come.
    Holm's step-down over all that was ever repeated, so also before a search went on with more
    trials, keeps the chance of any false winner below `SURE` at each look; over many looks it adds
    up. A winner is one that is better by it.

    Args:
        records: of a search.
        split: that the repeats were measured on.
        repeat: how many there are to be of each.
    """
    repeats: dict[str, list[Record]] = {}
    for record in records:
        if record.get("of") and record["status"] != "running":
            repeats.setdefault(record["of"], []).append(record)
    if not repeats:
        return None
    paper = repeats.pop("paper", [])
    others = [_compared(name, repeats[name], paper, repeat) for name in sorted(repeats)]
    rest = sorted((row for row in others if row["p"] is not None), key=lambda row: row["p"])
    sure = True
    for i, found in enumerate(rest):
        sure = sure and found["p"] * (len(others) - i) < SURE
        found["survives"] = sure and found["difference"] > 0
    winners = [found for found in rest if found["survives"]]
    winner = max(winners, key=lambda found: found["mean"])["id"] if winners else None
    rows = [_compared("paper", paper, [], repeat), *others]
    return {"split": split, "networks": rows, "winner": winner}


def _compared(name: str, records: Sequence[Record], paper: Sequence[Record], repeat: int) -> Found:
    scores, theirs = _by_seed(records), _by_seed(paper)
    values = list(scores.values())
    pairs = [(scores[seed], theirs[seed]) for seed in scores if seed in theirs]
    whole = len(pairs) == len(records) == len(paper) >= repeat
    failed = [record for record in records if record["status"] == "failed"]
    return {
        "id": name,
        "seeds": list(scores),
        "scores": values,
        "failed": [{"seed": record["seed"], "why": record["why"]} for record in failed],
        "mean": mean(values) if values else None,
        "deviation": stdev(values) if len(values) > 1 else None,
        "difference": mean(a - b for a, b in pairs) if pairs else None,
        "p": _paired(pairs) if whole else None,
        "survives": False,
    }


def _by_seed(records: Sequence[Record]) -> dict[int, float]:
    done = finished(records)
    return {trial["seed"]: trial["score"] for trial in sorted(done, key=lambda t: t["seed"])}


def _paired(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Return how often chance alone makes pairs that differ so; None where there is no spread.

    >>> round(_paired([(0.92, 0.90), (0.93, 0.90), (0.91, 0.90)]), 3)
    0.074
    """
    from scipy.stats import ttest_rel

    if len({round(a - b, 12) for a, b in pairs}) < 2:
        return None
    return float(ttest_rel(*zip(*pairs, strict=True)).pvalue)


def importance(records: Sequence[Record]) -> Found | None:
    """Return how much each dimension matters for the score; None for fewer than ten trials.

    After Breiman 2001, https://doi.org/10.1023/A:1010933404324: what a random forest loses, as a
    part of the variance, when the values of a dimension are shuffled; but in the trials that it was
    fitted to, so that the order counts, not the size. And what it explains of the trials that its
    trees have not seen.
    """
    done = ranked(records)
    if len(done) < 10 or len({trial["score"] for trial in done}) < 2:
        return None
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance

    names = list(done[0]["values"])
    points = [[trial["values"][name] for name in names] for trial in done]
    scores = [trial["score"] for trial in done]
    forest = RandomForestRegressor(100, min_samples_leaf=2, oob_score=True, random_state=0)
    forest.fit(points, scores)
    lost = permutation_importance(forest, points, scores, n_repeats=3, random_state=0)
    of = dict(zip(names, (round(float(x), 4) for x in lost.importances_mean), strict=True))
    return {"of": of, "explained": round(float(forest.oob_score_), 4)}


def write_recipes(out: Path, recipe: Recipe, found: Found) -> None:
    """Write best.toml and pareto/ID.toml: recipes that train, show and export take as a network."""
    rows = {trial["id"]: trial for trial in found["trials"]}
    if found["best"] is None:
        return
    (out / "pareto").mkdir(exist_ok=True)
    wanted = {out / "pareto" / f"{name}.toml": rows[name] for name in found["pareto"]}
    for place in set((out / "pareto").glob("*.toml")) - set(wanted):
        place.unlink()
    for place, trial in {**wanted, out / "best.toml": rows[found["best"]]}.items():
        model = replace(recipe.model, spec=trial["spec"])
        runs.write_text(place, recipes.to_toml(replace(recipe, model=model)))
