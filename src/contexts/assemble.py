#!/usr/bin/env python3
"""Puts the contexts' files together as a cell sees them: assemble.py DEST STAMP (DIRECTORY FILE...)...

An argument without a path separator in front of files that exist is a directory below DEST; the files after it go
there. DEST is made anew each time, next to the old one, so that no file of an older build stays behind."""
import os
import shutil
import sys


def main():
    dest, stamp, rest = sys.argv[1], sys.argv[2], sys.argv[3:]
    fresh = dest + ".new"
    shutil.rmtree(fresh, ignore_errors=True)
    directory = None
    for argument in rest:
        if os.path.isfile(argument):
            shutil.copy2(argument, directory)
        else:
            directory = os.path.join(fresh, argument)
            os.makedirs(directory)
    # A running zygote has these files open at most while it starts: replacing the directory does not disturb it.
    shutil.rmtree(dest, ignore_errors=True)
    os.rename(fresh, dest)
    with open(stamp, "w") as out:
        out.write("ok\n")


main()
