#!/usr/bin/env python3
"""Builds every fuzz target beside this file and runs each for a while: run.py [SECONDS [NAME...]]. Last line: N passed, N failed.

CELLA_FUZZ_SEED is the seed of the random choices, the same in every run unless it is set; 0: another one each time.

A target is NAME_fuzz.c with its build line in the comment at its top ("clang ... -o /tmp/NAME_fuzz") and its corpus in
NAME_corpus/. New finds go to a temporary directory, so the kept corpus changes only by hand."""
import os
import pathlib
import re
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SEED = os.environ.get("CELLA_FUZZ_SEED", "1")


def build_line(source):
    comment = source.read_text().split("*/", 1)[0]
    text = re.sub(r"\\?\n \*\s*", " ", comment)
    found = re.search(r"(clang .*?-o) /tmp/\S+", text)
    if not found:
        raise SystemExit(f"{source.name}: no build line in its first comment")
    return found.group(1)


def run(source, seconds, scratch):
    name = source.stem
    program = scratch / name
    built = subprocess.run(f"{build_line(source)} {program}", shell=True, cwd=ROOT, capture_output=True, text=True)
    if built.returncode:
        return f"does not build:\n{built.stderr[-2000:]}"
    finds = scratch / (name + ".finds")
    finds.mkdir()
    corpus = HERE / name.replace("_fuzz", "_corpus")
    ran = subprocess.run([program, f"-max_total_time={seconds}", f"-seed={SEED}", "-timeout=10", "-rss_limit_mb=2048", f"-artifact_prefix={scratch}/", finds,
                          *([corpus] if corpus.is_dir() else [])], cwd=scratch, capture_output=True, text=True, errors="replace")
    if ran.returncode and "libFuzzer: timeout" in ran.stderr and stalled(program, scratch):
        print(f"{name}: one input took 10 s once and not again: the machine stood still", flush=True)
        return None
    if ran.returncode:
        at = max(ran.stderr.find("ERROR"), ran.stderr.find("runtime error"), 0)
        return f"failed:\n{ran.stderr[at:at + 3000]}"
    runs = re.search(r"Done (\d+) runs", ran.stderr)
    if not runs or int(runs.group(1)) < 100:
        return f"ran no inputs:\n{ran.stderr[-2000:]}"
    print(f"{name}: {runs.group(1)} inputs", flush=True)
    return None


def stalled(program, scratch):
    """The input that took too long is quick when it runs alone: not the target was slow."""
    slow = sorted(scratch.glob("timeout-*"), key=lambda path: path.stat().st_mtime)
    return bool(slow) and subprocess.run([program, "-timeout=10", slow[-1]], cwd=scratch, capture_output=True).returncode == 0


def main():
    seconds = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    names, failed, passed = sys.argv[2:], 0, 0
    with tempfile.TemporaryDirectory(prefix="cella-fuzz-") as scratch:
        for source in sorted(HERE.glob("*_fuzz.c")):
            if names and source.stem not in names:
                continue
            why = run(source, seconds, pathlib.Path(scratch))
            passed, failed = passed + (why is None), failed + (why is not None)
            if why:
                print(f"{source.stem}: {why}", flush=True)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


sys.exit(main())
