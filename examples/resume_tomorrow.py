#!/usr/bin/env python3
"""Work that waits: today an interpreter with its variables goes to the disk, tomorrow it goes on where it was.

    pip install ./sdk/python; sudo cella up -d
    examples/resume_tomorrow.py              # the first time: begins, and puts it away
    examples/resume_tomorrow.py              # any time later, also after a reboot: goes on
    examples/resume_tomorrow.py --forget     # deletes it

What is in memory is kept: open files, generators in the middle of a loop, trained models. The id of its Space is written to
./tomorrow.txt. CELLA_URL says where the daemon is.
"""

import sys
from pathlib import Path

from cella import Sandbox, Space

NOTE = Path("tomorrow.txt")

BEGIN = """
def primes():
    "Endless, and stops in the middle whenever nobody asks."
    found = []
    n = 1
    while True:
        n += 1
        if all(n % p for p in found):
            found.append(n)
            yield n

numbers = primes()
days = []
"""

TODAY = "days.append([next(numbers) for _ in range(5)])\nprint(f'day {len(days)}: {days[-1]}')"


def main() -> None:
    if "--forget" in sys.argv[1:]:
        Space.get(NOTE.read_text()).delete()
        NOTE.unlink()
        print("forgotten")
        return
    if NOTE.exists():
        sandbox = Sandbox.resume(NOTE.read_text())
    else:
        sandbox = Sandbox(persistent=True, metadata={"example": "resume tomorrow"})
        NOTE.write_text(str(sandbox.space_id))
        sandbox.run_code(BEGIN, check=True)
    with sandbox:  # leaving it puts a persistent sandbox to the disk
        print(sandbox.run_code(TODAY, check=True).stdout, end="")


if __name__ == "__main__":
    main()
