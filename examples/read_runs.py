"""Mean test metric of each optimizer by round, with pandas: `python examples/read_runs.py runs/digits/runs.csv`."""

import sys

import pandas

runs = pandas.read_csv(sys.argv[1])
results = runs[(runs["phase"] == "final") & runs["selected"]]
tests = results.groupby(["optimizer", "round"])["test"]
# A round in which a run diverged is lost: it has no mean. Where every trial diverged, there is no run either.
means = tests.agg(lambda values: values.mean(skipna=False)).unstack("round")
print(means.reindex(runs["optimizer"].unique()).to_string())
