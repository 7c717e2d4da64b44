#!/usr/bin/env python3
"""Tree of thought: load a dataset once, fork the live interpreter eight times, try a model in each branch, keep the best.

    pip install ./sdk/python; sudo cella up -d; examples/tree_of_thought.py [--rows 200000]

Nothing is loaded twice: every branch begins with the parent's arrays in memory, shared until somebody writes. The winner takes the
parent's place under the parent's id. CELLA_URL says where the daemon is.
"""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable, Dict, List, Tuple, TypeVar

try:
    from cella import Sandbox
except ImportError:  # from a checkout
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "sdk" / "python"))
    from cella import Sandbox

T = TypeVar("T")

GENERATE = """
import numpy as np, pandas as pd
rng = np.random.default_rng(7)
x = rng.uniform(-3, 3, size=({rows}, 4))
y = np.sin(2 * x[:, 0]) * x[:, 1] + 0.4 * x[:, 2] ** 2 + np.maximum(x[:, 3], 0) + rng.normal(0, 0.3, len(x))
pd.DataFrame(np.column_stack([x, y]), columns=["a", "b", "c", "d", "y"]).to_csv("measurements.csv", index=False, float_format="%.5f")
del x, y
"""

LOAD = """
import numpy as np, pandas as pd
from scipy import interpolate, spatial
data = pd.read_csv("measurements.csv")
order = np.random.default_rng(1).permutation(len(data))
X, y = data[list("abcd")].to_numpy()[order], data["y"].to_numpy()[order]
cut = [int(len(y) * f) for f in (0.6, 0.8)]
(train, valid, test), (y_train, y_valid, y_test) = np.split(X, cut), np.split(y, cut)
mean, deviation = train.mean(0), train.std(0)

def solve(features, penalty=1e-3):
    "Ridge regression on whatever features(x) makes of the columns, a block of rows at a time."
    n = features(train[:1]).shape[1]
    gram, right = penalty * np.eye(n), np.zeros(n)
    for i in range(0, len(train), 20_000):
        f = features(train[i:i + 20_000])
        gram += f.T @ f
        right += f.T @ y_train[i:i + 20_000]
    weights = np.linalg.solve(gram, right)
    return lambda x: np.concatenate([features(x[i:i + 20_000]) @ weights for i in range(0, len(x), 20_000)])

def rmse(x, truth):
    return float(np.sqrt(np.mean((predict(x) - truth) ** 2)))
"""

POLYNOMIAL = """
from itertools import combinations_with_replacement
powers = [p for d in range({degree} + 1) for p in combinations_with_replacement(range(4), d)]
predict = solve(lambda x: np.column_stack([np.prod(((x - mean) / deviation)[:, p], axis=1) if p else np.ones(len(x)) for p in powers]))
"""

#: name -> code that leaves predict(x) behind
MODELS: Dict[str, str] = {
    "linear": "predict = solve(lambda x: np.column_stack([np.ones(len(x)), x]))",
    "polynomial, degree 2": POLYNOMIAL.format(degree=2),
    "polynomial, degree 5": POLYNOMIAL.format(degree=5),
    "additive cubic splines": """
knots = np.r_[[-3.01] * 3, np.linspace(-3.01, 3.01, 15), [3.01] * 3]
spline = lambda column: interpolate.BSpline.design_matrix(column, knots, 3).toarray()
predict = solve(lambda x: np.hstack([spline(np.clip(c, -3, 3)) for c in x.T]))
""",
    "products of splines": """
knots = np.r_[[-3.01] * 3, np.linspace(-3.01, 3.01, 9), [3.01] * 3]
spline = lambda column: interpolate.BSpline.design_matrix(np.clip(column, -3, 3), knots, 3).toarray()
def features(x):
    s = [spline(c) for c in x.T]
    return np.hstack([*s, *(np.einsum("ni,nj->nij", s[i], s[j]).reshape(len(x), -1) for i in range(4) for j in range(i))])
predict = solve(features)
""",
    "random Fourier features": """
g = np.random.default_rng(3)
directions, phases = g.normal(0, 1.0, size=(4, 400)), g.uniform(0, 2 * np.pi, 400)
predict = solve(lambda x: np.cos(x @ directions + phases))
""",
    "kernel ridge on 500 landmarks": """
landmarks = train[np.random.default_rng(4).choice(len(train), 500, replace=False)]
predict = solve(lambda x: np.exp(-spatial.distance.cdist(x, landmarks, "sqeuclidean") / 3), penalty=1e-2)
""",
    "nearest neighbours": """
tree = spatial.cKDTree(train)
predict = lambda x: y_train[tree.query(x, k=12)[1]].mean(1)
""",
}

PSS = "print(next(int(l.split()[1]) for l in open('/proc/self/smaps_rollup') if l.startswith('Pss:')))"


def timed(what: str, work: Callable[[], T], timings: List[Tuple[str, float]]) -> T:
    start = time.perf_counter()
    result = work()
    timings.append((what, (time.perf_counter() - start) * 1000))
    return result


def memory(family: List[Sandbox]) -> List[Tuple[float, float]]:
    """(PSS of the interpreter, what the cell is charged for), in MB, of each. PSS counts a shared page by its share, so the sum is
    what the family takes."""
    return [(int(s.run_code(PSS, check=True).stdout) / 1024, s.stats()["memory_bytes"] / 1e6) for s in family]


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rows", type=int, default=200_000)
    rows = options.parse_args().rows
    timings: List[Tuple[str, float]] = []
    with Sandbox(metadata={"example": "tree of thought"}) as parent:
        timed("write the CSV", lambda: parent.run_code(GENERATE.format(rows=rows), check=True), timings)
        timed("load it, split it", lambda: parent.run_code(LOAD, check=True), timings)
        [(alone, _)] = memory([parent])

        branches = timed("fork 8", lambda: parent.fork(len(MODELS)), timings)
        for error in branches.errors:
            raise error
        print(f"forked {len(branches)} branches; the parent stood still for {branches.frozen_ms:.1f} ms")
        timed("first line of code in each of the 8", lambda: [b.run_code("len(train)", check=True) for b in branches], timings)
        shared = memory([parent, *branches])

        def attempt(name: str, branch: Sandbox) -> Tuple[float, float]:
            start = time.perf_counter()
            branch.run_code(MODELS[name] + f"\nmodel_name = {name!r}\nscore = rmse(valid, y_valid)", check=True)
            return float(branch.run_code("print(score)", check=True).stdout), (time.perf_counter() - start) * 1000

        with ThreadPoolExecutor(len(MODELS)) as pool:
            tried = timed("try 8 models side by side", lambda: list(pool.map(attempt, MODELS, branches)), timings)
        worked = memory([parent, *branches])

        print(f"\n{'model':<32} {'error':>8} {'took':>10} {'memory':>10}")
        for name, (score, took), (pss, _) in zip(MODELS, tried, worked[1:]):
            print(f"{name:<32} {score:8.4f} {took:7.0f} ms {pss:7.1f} MB")
        best = min(range(len(MODELS)), key=lambda i: tried[i][0])
        name, winner = list(MODELS)[best], branches[best]
        diff = timed("compare with the parent", lambda: winner.diff(), timings)
        print(f"\nbest: {name}. What it has that the parent has not:\n{diff}")
        print(f"\nthe family before the merge:\n{parent.tree()}")

        timed("merge the winner", lambda: parent.merge_into(winner), timings)
        timed("close the others", branches.close, timings)
        final = timed("test error, in the parent", lambda: parent.run_code("print(model_name, rmse(test, y_test))", check=True), timings)
        print(f"\nand after it:\n{parent.tree()}\n\nthe parent now answers: {final.stdout.strip()}")

        print(f"\n{'memory (PSS of the interpreters)':<44} {'MB':>8}")
        for what, mb in (
            ("the parent alone", alone),
            ("parent and 8 branches, after the fork", sum(p for p, _ in shared)),
            ("parent and 8 branches, after the models", sum(p for p, _ in worked)),
            ("9 interpreters that load it themselves", 9 * alone),
        ):
            print(f"{what:<44} {mb:8.1f}")
        print(f"{'charged to the family, after the models':<44} {sum(c for _, c in worked):8.1f}")
    print(f"\n{'what':<44} {'ms':>8}")
    for what, ms in timings:
        print(f"{what:<44} {ms:8.1f}")


if __name__ == "__main__":
    main()
