"""Which branch of a network wants more filters, by what a search has tried.

    python experiments/search/branches.py experiments/search/inception_v1_cifar10.toml [--page FILE]

Reads the JSON beside the recipe. Spearman's rank correlation of each dimension with the validation
accuracy, and how often chance alone makes so strong a one; then the filters as the paper has them,
and of the best quarter of the trials on average. The page is the report that `tune` wrote.
"""

import argparse
import json
from pathlib import Path

from scipy.stats import spearmanr

from keras_cnns import recipe as recipes
from keras_cnns.tune import pictures
from keras_cnns.tune.answer import ranked


def main() -> None:
    """Print both tables, and write the page where one is wanted."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--page", type=Path)
    words = parser.parse_args()
    found = json.loads(words.recipe.with_suffix(".json").read_text())
    done = ranked(found["trials"])
    scores = [trial["score"] for trial in done]
    for name in done[0]["values"]:
        tested = spearmanr([trial["values"][name] for trial in done], scores)
        print(f"{name:12} {tested.statistic:6.2f}  p = {tested.pvalue:.3f}")
    for path, (paper, _, best) in pictures.shifts(found).items():
        print(f"{path:12} {paper:4} {best:6.1f}  {best / paper:.2f}")
    if words.page:
        pictures.write(words.page, recipes.load(words.recipe), found)


if __name__ == "__main__":
    main()
