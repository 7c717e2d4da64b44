"""The commands against a daemon."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from .conftest import CELLA, Run

ID = re.compile(r"sbx_[0-9a-f]{32}")
NO_CELL = "sbx_" + "0" * 32


def test_life_of_a_cell(cella: Run):
    made = cella("create", "-m", "test=life", "--ttl", "600", "--memory", "256", "-e", "COLOUR=blue")
    assert made.returncode == 0, made.stderr
    cell = made.stdout.strip()
    assert ID.fullmatch(cell)
    try:
        listed = json.loads(cella("ps", "-o", "json", "-m", "test=life").stdout)
        assert [c["id"] for c in listed] == [cell]
        assert listed[0]["metadata"] == {"test": "life"} and listed[0]["memory_mb"] == 256
        assert cella("ps", "-q", "-m", "test=life").stdout == cell + "\n"
        assert cella("ps", "-q", "-m", "test=other").stdout == ""
        table = cella("ps").stdout
        assert re.search(rf"^{cell} +\S+ +running +\d+ s +\d+ s", table, re.M) and "test=life" in table
        assert cella("exec", cell, "echo $COLOUR").stdout == "blue\n"
    finally:
        gone = cella("rm", cell)
    assert gone.stdout == cell + "\n"
    again = cella("rm", cell)
    assert again.returncode == 4 and again.stderr.startswith("cella: ")
    assert cella("rm", "-f", cell).returncode == 0
    assert cella("exec", cell, "true").returncode == 4


def test_create_json_and_refusals(cella: Run):
    cell = json.loads(cella("create", "-o", "json").stdout)
    assert ID.fullmatch(cell["id"]) and cell["status"] == "running"
    assert json.loads(cella("rm", "-o", "json", cell["id"]).stdout) == {"deleted": [cell["id"]]}
    unknown = cella("create", "no-such-template")
    assert unknown.returncode == 4 and "no-such-template" in unknown.stderr
    assert cella("create", "-e", "NOVALUE").returncode == 2


# ---- run ----


def test_run_shows_output_result_and_state(cella: Run, cell: str):
    first = cella("run", "--cell", cell, "-c", "import sys; x = 41; print('out'); print('err', file=sys.stderr)")
    assert (first.returncode, first.stdout, first.stderr) == (0, "out\n", "err\n")
    second = cella("run", "--cell", cell, "-c", "x + 1")
    assert (second.returncode, second.stdout) == (0, "42\n")
    assert cella("run", "--cell", cell, "-c", "print('no newline', end=''); 7").stdout == "no newline\n7\n"


def test_run_in_a_cell_of_its_own_leaves_none(cella: Run, tmp_path: Path):
    program = tmp_path / "program.py"
    program.write_text("import os\nprint(sorted(os.listdir('.')), open('data.txt').read())")
    (tmp_path / "data.txt").write_text("data")
    before = cella("ps", "-q").stdout
    done = cella("run", "-u", str(tmp_path / "data.txt"), "-m", "test=own", str(program))
    assert (done.returncode, done.stdout) == (0, "['data.txt'] data\n")
    failed = cella("run", "-m", "test=own", "-c", "1/0")
    assert failed.returncode == 1 and "ZeroDivisionError: division by zero" in failed.stderr
    assert cella("ps", "-q", "-m", "test=own").stdout == "" and cella("ps", "-q").stdout == before


def test_run_keep(cella: Run):
    done = cella("run", "--keep", "-c", "y = 5")
    kept = re.search(r"kept: (sbx_\w+)", done.stderr)
    assert kept and cella("run", "--cell", kept[1], "-c", "y").stdout == "5\n"
    assert cella("rm", kept[1]).returncode == 0


@pytest.mark.parametrize("code, exit_code", [("import sys; sys.exit(7)", 7), ("raise ValueError('x')", 1), ("1", 0), ("import os; os._exit(3)", None)])
def test_run_exit_codes(cella: Run, code: str, exit_code):
    done = cella("run", "-c", code)
    if exit_code is None:
        assert done.returncode not in (0, 2, 3, 4), "a context that ended by itself is no success"
    else:
        assert done.returncode == exit_code, done.stderr


def test_run_timeout_keeps_the_state(cella: Run, cell: str):
    done = cella("run", "--cell", cell, "--timeout", "0.5", "-c", "z = 1\nwhile True: pass")
    assert done.returncode == 124 and "time limit" in done.stderr
    assert cella("run", "--cell", cell, "-c", "z").stdout == "1\n"


@pytest.mark.needs_isolation
def test_run_out_of_memory(cella: Run):
    done = cella("run", "--memory", "200", "-c", "x = bytearray(10**9)")
    assert done.returncode == 137 and "out of memory" in done.stderr


def test_run_languages(cella: Run, tmp_path: Path):
    assert cella("run", "-l", "shell", "-c", "echo $((6 * 7))").stdout == "42\n"
    for name, text in (("a.sh", "echo $0 >/dev/null; echo shell"), ("noending", "#!/bin/bash\necho shell")):
        (tmp_path / name).write_text(text)
        done = cella("run", str(tmp_path / name))
        assert (done.returncode, done.stdout) == (0, "shell\n"), done.stderr
    assert cella("run", "-l", "shell", "-c", "exit 9").returncode == 9
    unknown = cella("run", "-l", "cobol", "-c", "x")
    assert unknown.returncode in (2, 5) and "cobol" in unknown.stderr


def test_run_from_stdin_and_input(cella: Run, cell: str):
    assert cella("run", "-", stdin="print('from stdin')").stdout == "from stdin\n"
    asked = cella("run", "--cell", cell, "-c", "n = input('name? '); print('hi', n)", stdin="Ann\n")
    assert asked.stdout == "hi Ann\n" and "name? " in asked.stderr
    nobody = cella("run", "--cell", cell, "-c", "input()", stdin="")
    assert nobody.returncode == 1 and "EOFError" in nobody.stderr


def test_run_json(cella: Run, cell: str):
    done = cella("run", "--cell", cell, "-o", "json", "-c", "print('a'); 1 + 1")
    execution = json.loads(done.stdout)
    assert done.returncode == 0
    assert execution["stdout"] == "a\n" and execution["text"] == "2" and execution["exit"] == "ok" and execution["error"] is None
    failed = cella("run", "--cell", cell, "-o", "json", "-c", "1/0")
    assert failed.returncode == 1 and json.loads(failed.stdout)["error"]["name"] == "ZeroDivisionError"


def test_run_saves_figures(cella: Run, tmp_path: Path):
    code = "import matplotlib.pyplot as plt\nplt.plot([1, 2]); plt.show()\nplt.plot([2, 1]); plt.show()"
    out = tmp_path / "figures"
    done = cella("run", "--save-figures", str(out), "-c", code)
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in out.iterdir()) == ["figure-1.png", "figure-2.png"]
    assert all(p.read_bytes().startswith(b"\x89PNG\r\n") for p in out.iterdir())
    unsaved = cella("run", "-c", code)
    assert "--save-figures" in unsaved.stderr
    nowhere = cella("run", "--save-figures", "/proc/nowhere", "-c", code)
    assert nowhere.returncode != 0 and "/proc/nowhere" in nowhere.stderr


def test_run_streams_while_it_runs(server):
    process = subprocess.Popen([CELLA, "run", "-c", "import time\nfor i in range(3):\n  print(i, flush=True); time.sleep(0.6)"], stdout=subprocess.PIPE,
                               text=True, env=dict(os.environ, CELLA_URL=server.url))  # fmt: skip
    assert process.stdout.readline() == "0\n"
    assert process.poll() is None, "the first line came only with the end"
    assert process.stdout.read() == "1\n2\n"
    assert process.wait(30) == 0


def test_ctrl_c_ends_the_cell_too(cella: Run, server):
    process = subprocess.Popen([CELLA, "run", "-m", "test=ctrl-c", "-c", "print('on', flush=True)\nwhile True: pass"], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True, env=dict(os.environ, CELLA_URL=server.url))  # fmt: skip
    assert process.stdout.readline() == "on\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 130
    assert cella("ps", "-q", "-m", "test=ctrl-c").stdout == ""


def test_run_refuses_what_is_no_program(cella: Run, cell: str, tmp_path: Path):
    (tmp_path / "binary").write_bytes(b"\x7fELF\0\0")
    assert cella("run", str(tmp_path / "binary")).returncode == 2
    assert cella("run", str(tmp_path / "missing.py")).returncode == 4
    assert cella("run", "--cell", NO_CELL, "-c", "1").returncode == 4


# ---- exec ----


def test_exec_passes_everything_on(cella: Run, cell: str):
    done = cella("exec", cell, "--", "sh", "-c", "echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")
    assert cella("exec", cell, "echo a | tr a b").stdout == "b\n"
    assert cella("exec", cell, "--", "printf", "%s|", "a b", "", "-x", "*").stdout == "a b||-x|*|"
    assert cella("exec", "-w", "/tmp", "-e", "A=1", cell, "pwd; echo $A").stdout == "/tmp\n1\n"
    assert cella("exec", "-i", cell, "--", "wc", "-l", stdin="1\n2\n3\n").stdout.strip() == "3"


def test_exec_streams_stdin(cella: Run, server, cell: str):
    process = subprocess.Popen([CELLA, "exec", "-i", cell, "--", "sh", "-c", "while read x; do echo got $x; done; exit 3"], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True, env=dict(os.environ, CELLA_URL=server.url))  # fmt: skip
    process.stdin.write("one\n")
    process.stdin.flush()
    assert process.stdout.readline() == "got one\n", "the first line was not passed on before the end of stdin"
    process.stdin.write("ä€😀\n")
    process.stdin.close()
    assert process.stdout.read() == "got ä€😀\n"
    assert process.wait(30) == 3
    many = "".join(f"{i} ü\n" for i in range(400_000))
    assert cella("exec", "-i", cell, "--", "md5sum", stdin=many).stdout.split()[0] == hashlib.md5(many.encode()).hexdigest()
    # a program that does not read its input
    assert cella("exec", "-i", cell, "--", "sh", "-c", "exit 5", stdin=many).returncode == 5
    assert cella("exec", "-i", NO_CELL, "--", "cat", stdin="x").returncode == 4


def test_exec_refuses_stdin_that_is_no_text(server, cell: str):
    done = subprocess.run([CELLA, "exec", "-i", cell, "--", "cat"], input=b"\xff\xfe", capture_output=True, env=dict(os.environ, CELLA_URL=server.url))
    assert done.returncode == 2 and b"not UTF-8" in done.stderr


def test_exec_exit_codes(cella: Run, cell: str):
    assert cella("exec", cell, "kill -TERM $$").returncode == 128 + signal.SIGTERM
    timeout = cella("exec", "--timeout", "0.5", cell, "sleep 60")
    assert timeout.returncode == 124 and "time limit" in timeout.stderr
    assert cella("exec", NO_CELL, "true").returncode == 4
    missing = cella("exec", cell, "--", "/no/such/program")
    assert missing.returncode not in (0, 3) and "/no/such/program" in missing.stderr


def test_exec_json_and_background(cella: Run, cell: str):
    done = cella("exec", "-o", "json", cell, "echo x; exit 2")
    assert done.returncode == 2
    answer = json.loads(done.stdout)
    assert answer["stdout"] == "x\n" and answer["exit_code"] == 2
    started = cella("exec", "-d", cell, "--", "sleep", "1000")
    assert started.returncode == 0 and started.stdout.startswith("proc_")
    assert "sleep" in cella("exec", cell, "cat /proc/[0-9]*/comm").stdout


def test_exec_says_when_bytes_are_replaced(cella: Run, cell: str):
    done = cella("exec", cell, r"printf '\377\376'")
    assert "cella cp" in done.stderr


def test_exec_on_a_terminal(server, cell: str):
    words = f"{CELLA} exec -t {cell} -- sh -c 'tty; stty size; exit 9'"
    done = subprocess.run(["script", "-qec", words, "/dev/null"], input="", capture_output=True, text=True, env=dict(os.environ, CELLA_URL=server.url), timeout=60)
    assert "/dev/pts/" in done.stdout and re.search(r"\d+ \d+", done.stdout)
    assert done.returncode == 9


# ---- cp ----


def test_cp_files(cella: Run, cell: str, tmp_path: Path):
    data = os.urandom(3_000_000)
    (tmp_path / "a b.bin").write_bytes(data)
    (tmp_path / "a b.bin").chmod(0o750)
    assert cella("cp", str(tmp_path / "a b.bin"), f"{cell}:dir/ä.bin").returncode == 0
    assert cella("exec", cell, "stat -c '%s %a %U' /workspace/dir/ä.bin").stdout == "3000000 750 user\n"
    assert cella("cp", f"{cell}:/workspace/dir/ä.bin", str(tmp_path / "back")).returncode == 0
    assert (tmp_path / "back").read_bytes() == data
    assert cella("cp", f"{cell}:dir/ä.bin", str(tmp_path)).returncode == 0
    assert (tmp_path / "ä.bin").read_bytes() == data
    assert cella("cp", "-", f"{cell}:note", stdin="hello").returncode == 0
    assert cella("cp", f"{cell}:note", "-").stdout == "hello"


def test_cp_trees(cella: Run, cell: str, tmp_path: Path):
    tree = tmp_path / "tree"
    (tree / "sub" / "empty").mkdir(parents=True)
    (tree / "a").write_text("A")
    (tree / "sub" / "big").write_bytes(os.urandom(500_000))
    (tree / "link").symlink_to("a")
    assert cella("cp", str(tree), f"{cell}:").returncode == 0
    assert cella("exec", cell, "find tree | sort").stdout.split() == ["tree", "tree/a", "tree/link", "tree/sub", "tree/sub/big", "tree/sub/empty"]
    assert cella("cp", f"{cell}:tree", str(tmp_path / "back")).returncode == 0
    assert subprocess.run(["diff", "-r", "--no-dereference", tree, tmp_path / "back"]).returncode == 0
    assert (tmp_path / "back" / "sub" / "empty").is_dir()


def test_cp_refusals(cella: Run, cell: str, tmp_path: Path):
    assert cella("cp", f"{cell}:missing", str(tmp_path / "x")).returncode == 4
    assert not (tmp_path / "x").exists(), "a copy that failed left a file"
    assert cella("cp", str(tmp_path / "missing"), f"{cell}:x").returncode == 4
    assert cella("cp", f"{NO_CELL}:x", str(tmp_path / "x")).returncode == 4
    (tmp_path / "f").write_text("x")
    denied = cella("cp", str(tmp_path / "f"), f"{cell}:/etc/f")
    assert denied.returncode == 5, denied.stderr
    assert not list(tmp_path.glob("*.part-*"))


def test_a_cell_cannot_write_outside_the_target_of_cp(cella: Run, cell: str, tmp_path: Path):
    """The tar comes from the cell's files: a link to /tmp/… there must not become a way out here."""
    victim = tmp_path / "victim"
    victim.mkdir()
    code = f"""
import os, shutil
shutil.rmtree('evil', ignore_errors=True); os.mkdir('evil'); os.symlink({str(victim)!r}, 'evil/door')
os.mkdir('evil/z'); open('evil/z/x', 'w').write('x')"""
    assert cella("run", "--cell", cell, "-c", code).returncode == 0
    target = tmp_path / "target"
    target.mkdir()
    assert cella("cp", f"{cell}:evil", str(target / "one")).returncode == 0
    # a second tree with a directory where the first has the link
    assert cella("exec", cell, "rm evil/door; mkdir evil/door; echo owned > evil/door/file").returncode == 0
    cella("cp", f"{cell}:evil/.", str(target / "one"))
    assert list(victim.iterdir()) == []


# ---- the rest ----


def test_logs(cella: Run):
    cell = cella("create").stdout.strip()
    cella("run", "--cell", cell, "-c", "print('one')")
    cella("exec", cell, "echo two >&2")
    text = cella("logs", cell).stdout
    assert "one\n" in text and "two\n" in text
    assert "two" not in cella("logs", "-s", "stdout", cell).stdout
    assert cella("logs", "-s", "nothing", cell).returncode == 2
    assert "one" in json.loads(cella("logs", "-o", "json", cell).stdout)["text"]
    cella("rm", cell)


@pytest.mark.parametrize("form", [[], ["-o", "json"]], ids=["text", "json"])
def test_logs_are_followed_until_the_cell_ends(cella: Run, server, form):
    cell = cella("create").stdout.strip()
    cella("exec", cell, "echo before")
    process = subprocess.Popen([CELLA, "logs", "-f", *form, cell], stdout=subprocess.PIPE, text=True, env=dict(os.environ, CELLA_URL=server.url))
    read = (lambda: json.loads(process.stdout.readline())["line"]) if form else (lambda: process.stdout.readline().rstrip("\n"))
    assert read() == "before"
    cella("exec", cell, "echo after >&2")
    assert read() == "after"
    cella("rm", cell)
    assert process.stdout.read() == "" and process.wait(30) == 0


def test_templates(cella: Run):
    names = {t["name"]: t for t in json.loads(cella("template", "ls", "-o", "json").stdout)}
    assert "default" in names["python"]["aliases"]
    assert re.search(r"^python +[0-9a-f]{12} ", cella("template", "ls").stdout, re.M)


def test_keys(cella: Run):
    made = cella("key", "create", "for the test")
    secret = made.stdout.strip()
    assert secret.startswith("cella_") and "shown only now" in made.stderr
    table = cella("key", "ls").stdout
    assert secret not in table
    key = next(k for k in json.loads(cella("key", "ls", "-o", "json").stdout) if k["name"] == "for the test")
    assert secret not in json.dumps(key)
    assert cella("key", "rm", key["id"]).returncode == 0
    assert cella("key", "rm", key["id"]).returncode == 4


def test_json_on_stdout_is_json_and_nothing_else(cella: Run, cell: str):
    for words in (["ps"], ["template", "ls"], ["key", "ls"], ["logs", cell], ["exec", cell, "true"], ["run", "--cell", cell, "-c", "1"]):
        json.loads(cella("-o", "json", *words).stdout)
