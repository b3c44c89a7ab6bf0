"""Which branch of a network wants more filters, by what a search has tried.

    python experiments/search/branches.py experiments/search/inception_v1_cifar10.json [--page FILE]

Reads what a search left in its trials.json. Of each branch its part of its rows' filters, and of
each reduction its filters: the paper's, the mean of all trials and of the best quarter, the ratio
of these two means, and Spearman's rank correlation with the validation accuracy. A search that
moves towards the best is no random sample, so that no p-value is told, but how the accuracy rose
with the number of the trial. The page is the report that `tune` wrote, for a record that has its
best recipe beside it.
"""

import argparse
import json
from pathlib import Path
from statistics import mean

from scipy.stats import spearmanr

from keras_cnns import recipe as recipes
from keras_cnns.tune import pictures
from keras_cnns.tune.answer import ranked

ENDS = ("conv1", "conv3", "conv5", "pool")  # of a row's branches


def parts(spec, dimension):
    """Return of a dimension such as "4*.conv5" the part of its rows' filters, mean of the rows."""
    start, _, name = dimension.partition("*.")
    rows = [row for key, row in spec.items() if key.startswith(start) and "conv5" in row]
    if name not in ENDS:
        return mean(row[name] for row in rows)
    return mean(row[name] / sum(row[end] for end in ENDS) for row in rows)


def main():
    """Print the table, and write the page where one is wanted."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("record", type=Path)
    parser.add_argument("--page", type=Path)
    words = parser.parse_args()
    found = json.loads(words.record.read_text())
    done = ranked(found["trials"])
    scores, count = [trial["score"] for trial in done], len(pictures.quarter(found))
    order = spearmanr([int(trial["id"]) for trial in done], scores).statistic
    print(f"accuracy with the number of the trial {order:+.2f}\n")
    print(f"{'':12} {'paper':>7} {'all':>7} {'best':>7} {'best/all':>8} {'rank':>6}")
    for name in done[0]["values"]:
        told = [parts(trial["spec"], name) for trial in done]
        paper, best = parts(found["given"], name), mean(told[:count])
        print(
            f"{name:12} {paper:7.3g} {mean(told):7.3g} {best:7.3g} {best / mean(told):8.2f} "
            f"{spearmanr(told, scores).statistic:+6.2f}"
        )
    if words.page:
        best = words.record.with_name(f"{words.record.stem}_best.toml")
        pictures.write(words.page, recipes.load(best), found)


if __name__ == "__main__":
    main()
