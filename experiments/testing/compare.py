"""One crop, ten crops, the dense test and an ensemble of the same runs, side by side.

    python experiments/testing/compare.py RUN RUN... --out experiments/testing/NAME.json

Each way of testing is run once on the test split, for each run and, of several runs, for all of
them together; the numbers stand as they come out. A way that the network does not have, as the
dense test of an MLP-Mixer, is left out and its reason kept. How long the runs were trained is in
the record. Takes about 1 + 5 + 10 + 2 x 1.3 times the time of `keras-cnns evaluate` for each run.
"""

import argparse
import datetime
import json
import os
import platform
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
from keras_cnns import crops, evaluate, runs
from keras_cnns.errors import UsageError

WAYS = {
    "1 crop": crops.views(),
    "1 crop at 256": crops.views("1", [256]),  # what the scale alone does
    "5 crops": crops.views("5"),
    "10 crops": crops.views("10"),
    "dense": crops.views("dense"),
    "dense, mirrored too": crops.views("dense", flip=True),
}
KEPT = (*evaluate.BRIEF, "precision")


def measured(members: list[runs.Run], sources: list, views: crops.Views) -> list[dict]:
    """Return the numbers of each run in turn and, of several, of all together."""
    if len(members) == 1:
        found = evaluate.evaluate(members[0], sources[0], views=views)["metrics"]
        return [{"run": members[0].path.name, **{key: found[key] for key in KEPT}}]
    found = evaluate.ensemble(members, sources, views=views)["metrics"]
    each = [{**one, "run": Path(one["run"]).name} for one in found["members"]]
    together = {"run": "together", **{key: found[key] for key in KEPT}}
    return [{key: one[key] for key in ("run", *KEPT)} for one in (*each, together)]


def main() -> None:
    """Measure, print a table, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("runs", nargs="+", type=runs.open_run)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--note", default="", help="What a reader must know of the runs.")
    words = parser.parse_args()
    members = words.runs
    sources = evaluate.open_sources(members)
    record = {
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "note": words.note,
        "runs": [
            {
                "run": run.path.name,
                "network": run.recipe.model.name,
                "data": Path(run.recipe.data.name).name,
                "image": run.image_shape,
                "seed": run.recipe.seed,
                "epochs": run.recipe.train.epochs,
            }
            for run in members
        ],
        "ways": {},
    }
    for way, views in WAYS.items():
        start = time.perf_counter()
        try:
            results = measured(members, sources, views)
        except UsageError as error:
            record["ways"][way] = {"left_out": str(error)}
            print(f"{way}: {error}")
            continue
        seconds = round(time.perf_counter() - start, 1)
        sides = [crops.sides(views, run.image_shape[0]) for run in members]
        record["ways"][way] = {"sides": sides, "seconds": seconds, "results": results}
        line = ", ".join(f"{one['run']} {one['accuracy']:.2%}" for one in results)
        print(f"{way:20} {line} ({seconds} s)", flush=True)
        words.out.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
