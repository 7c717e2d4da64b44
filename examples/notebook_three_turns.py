#!/usr/bin/env python3
"""A notebook without a notebook: three cells, one after the other, in one interpreter that remembers.

    pip install ./sdk/python; sudo cella up -d; examples/notebook_three_turns.py [measurements.csv]

The last one draws ./notebook.png. CELLA_URL says where the daemon is.
"""

import sys
from pathlib import Path

from cella import Sandbox

CSV = "day,celsius\n" + "".join(f"2026-06-{day:02},{12 + day * 7 % 11}\n" for day in range(1, 31))

CELLS = [
    "import pandas as pd\ndata = pd.read_csv('data.csv', parse_dates=[0], index_col=0)\ndata.describe().round(1)",
    "weekly = data.resample('W').mean().round(2)\nweekly",
    "axes = data.plot(figsize=(8, 3), legend=False)\nweekly.plot(ax=axes, drawstyle='steps', legend=False)\nprint(len(weekly), 'weeks')",
]


def main() -> None:
    with Sandbox(metadata={"example": "notebook"}) as sandbox:
        sandbox.filesystem.write("data.csv", Path(sys.argv[1]).read_bytes() if len(sys.argv) > 1 else CSV)
        for code in CELLS:
            run = sandbox.run_code(code)
            print(f"In [{run.execution_count}]: " + code.replace("\n", "\n   ...: "))
            print(run.stdout, end="")
            if run.error:
                sys.exit(run.error.traceback)
            if run.png:
                print(f"Out[{run.execution_count}]: notebook.png, {Path('notebook.png').write_bytes(run.png)} bytes\n")
            elif run.text:
                print(f"Out[{run.execution_count}]:\n{run.text}\n")


if __name__ == "__main__":
    main()
