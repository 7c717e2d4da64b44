#!/usr/bin/env python3
"""Fails when a source file includes a header of a floor above its own (docs/architecture.md, "Floors")."""
import pathlib
import re
import sys

# Each floor may include itself and what is listed: nothing else.
MAY_USE = {
    "base": [],
    "wire": ["base"],
    "jail": ["base"],
    "keeper": ["wire", "jail", "base"],
    "vmm": ["wire", "base"],
    "guest": ["wire", "jail", "base"],
    "contexts": ["wire", "base"],
    "driver": ["wire", "base"],
    "store": ["base"],
    "cell": ["store", "driver", "wire", "base"],
    "tenant": ["cell", "store", "base"],
    "api": ["tenant", "cell", "store", "driver", "wire", "base"],
    "cli": ["base"],
}
INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.M)


def main() -> int:
    src = pathlib.Path(sys.argv[1])
    wrong = []
    for path in sorted(src.rglob("*.[ch]")):
        floor = path.relative_to(src).parts[0]
        for name in INCLUDE.findall(path.read_text(errors="replace")):
            target = name.split("/")[0]
            if "/" in name and target != floor and target not in MAY_USE[floor]:
                wrong.append(f"{path}: floor {floor} may not include {name}")
    print("\n".join(wrong) if wrong else "floors: ok")
    if len(sys.argv) > 2 and not wrong:
        pathlib.Path(sys.argv[2]).write_text("ok\n")
    return 1 if wrong else 0


sys.exit(main())
