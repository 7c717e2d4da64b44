#include "cli/help_topics.h"

#include <stddef.h>

static const char exit_codes[] =
    "Exit codes\n\n"
    "    0  done\n"
    "    1  the code in the cell raised an error; `doctor` found something missing\n"
    "    2  wrong usage, or a request with a wrong field\n"
    "    3  no daemon answers at CELLA_URL\n"
    "    4  no such cell, file, template or key; or the cell has ended\n"
    "    5  refused: a limit, a permission, a conflict, a full disk, a missing API key\n"
    "  124  the time limit was reached\n"
    "  125  Cella itself failed, or the outcome was lost: nobody knows whether the code ran to its end\n"
    "  130  interrupted (Ctrl-C)\n"
    "  137  the cell ran out of memory, or the code was killed\n\n"
    "`cella exec` ends with the command's own exit code (128 + n when signal n ended it), `cella run` with that of "
    "sys.exit()\n"
    "or of the shell. A command of yours that itself ends with 3 or 125 looks like Cella's: -o json tells them "
    "apart.\n";

static const char environment[] =
    "Environment\n\n"
    "  CELLA_URL       where the daemon answers (default: http://127.0.0.1:7070); --url wins\n"
    "  CELLA_API_KEY   key for a daemon that asks for one; --key wins\n"
    "  CELLA_STATE     state directory of `up`, `down`, `doctor` and `template build` (default: /var/lib/cella)\n\n"
    "The SDKs read CELLA_URL and CELLA_API_KEY too.\n";

static const char recipe[] =
    "Recipes\n\n"
    "A recipe is a TOML file. `cella template build ./geo.toml` makes a template of it; `--check` only reads it.\n\n"
    "  name = \"geo\"                          lower-case letters, digits, '.', '_', '-'\n"
    "  aliases = [\"maps\"]                    more names\n"
    "  description = \"maps and geometry\"\n"
    "  base = \"debian:bookworm\"\n"
    "  apt = [\"python3\", \"python3-ipython\", \"python3-shapely\", \"python3-pip\"]\n"
    "  leave_out = []                        packages to replace by an empty one\n"
    "  pip = [\"geopy==2.4.1\"]                needs python3-pip in apt\n"
    "  npm = []                              needs npm in apt\n"
    "  preload = \"import shapely\"            runs once; every cell starts with it done\n\n"
    "  [env]                                 environment of everything in the cell\n"
    "  LANG = \"C.UTF-8\"\n\n"
    "  [limits]                              what a cell gets when its maker asks for nothing else\n"
    "  memory_mb = 1024\n"
    "  cpus = 1\n"
    "  pids = 256\n"
    "  disk_mb = 2048\n"
    "  open_files = 4096\n\n"
    "  [[files]]\n"
    "  path = \"/workspace/countries.csv\"     absolute, inside the cell\n"
    "  source = \"countries.csv\"              beside the recipe; or: content = \"text\"\n"
    "  owner = \"user\"                        or \"root\" (default)\n"
    "  mode = \"0644\"\n\n"
    "A python context needs python3 and python3-ipython, a shell context bash. Packages come from the mirrors that "
    "this host's\n"
    "apt uses. The template's identity is made of the recipe and of the versions that were installed: the same recipe "
    "built\n"
    "again is found and not built twice, unless --rebuild asks for new versions.\n";

static const char cells[] =
    "Cells\n\n"
    "A cell is an isolated Linux of its own: own processes, files, users, host name, and no network unless it is given "
    "some.\n"
    "It starts as a copy, on write, of its template's interpreter, so its libraries are imported before it begins to "
    "exist.\n\n"
    "  create     a cell with a Python context ready in it\n"
    "  run        code in a context: variables, imports and open figures stay between runs (--cell ID)\n"
    "  exec       a process beside it, with its own exit code\n"
    "  cp         files in and out\n"
    "  rm         the end: memory, processes and files are gone\n"
    "  fork       a copy of it as it is now, with everything in memory (`cella help branches`)\n"
    "  freeze     to the disk; its memory is free, its objects are not lost\n\n"
    "A cell ends by `rm`, when its --ttl is over, when nothing asked for it during its --idle time, or with `cella "
    "down`.\n"
    "Code runs as the user `user` (1000) in /workspace.\n";

static const char branches[] =
    "Branches, snapshots, Spaces\n\n"
    "  fork       copies of a live cell, in milliseconds: variables, open files, threads, what runs\n"
    "  tree       the family\n"
    "  diff       files and variables that differ\n"
    "  merge      a branch takes its parent's place, under the parent's id\n"
    "  promote    a winner is named, its siblings end\n\n"
    "  snapshot   a copy on the disk, for any number of cells to start from\n"
    "  freeze     the cell itself to the disk; the next request to it wakes it\n"
    "  spaces     what `create --persistent` made: cells that freeze when their time is over\n\n"
    "Branches share memory and files until somebody writes: ten branches of a cell with a gigabyte of data take one "
    "gigabyte,\n"
    "and what each of them changes. Not copied are connections, pipes to other processes, and processes that are no "
    "context:\n"
    "`fork` and `snapshot` name them.\n\n"
    "A first try:\n"
    "  cell=$(cella create); cella run --cell $cell -c 'import pandas as pd; df = pd.DataFrame({\"x\": range(5)})'\n"
    "  child=$(cella fork $cell); cella run --cell $child -c 'df[\"y\"] = df.x ** 2'\n"
    "  cella diff --variables $child; cella tree $cell\n"
    "  cella merge $cell $child; cella run --cell $cell -c 'df'\n";

const struct help_topic help_topics[] = {{"cells", "what a cell is and how long it lives", cells},
                                         {"branches", "fork, merge, snapshots, Spaces", branches},
                                         {"exit-codes", "what the exit status of cella means", exit_codes},
                                         {"environment", "variables that cella reads", environment},
                                         {"recipe", "how a template's recipe is written", recipe},
                                         {NULL, NULL, NULL}};
