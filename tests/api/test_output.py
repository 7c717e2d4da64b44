"""What code prints: captured at the level of file descriptors, whole, and cut only with an exact account."""

from __future__ import annotations

from cella import Sandbox


def test_children_and_descriptors_are_captured(shared: Sandbox) -> None:
    code = """
import os, subprocess, sys
print('python')
sys.stdout.flush()
os.write(1, b'descriptor\\n')
subprocess.run(['echo', 'child'])
os.system('echo shell; echo problem >&2')
os.write(2, b'raw\\n')
"""
    run = shared.run_code(code)
    assert run.stdout == "python\ndescriptor\nchild\nshell\n"
    assert run.stderr == "problem\nraw\n"


def test_c_code_is_captured(shared: Sandbox) -> None:
    run = shared.run_code("import ctypes\nlibc = ctypes.CDLL(None)\nlibc.puts(b'from C')\nNone")
    assert run.stdout == "from C\n"  # buffered by libc, flushed before the run ends


def test_order_within_a_stream_is_kept(shared: Sandbox) -> None:
    code = "import os, sys\nfor i in range(50):\n    print('p', i)\n    sys.stdout.flush()\n    os.write(1, f'd {i}\\n'.encode())"
    expected = "".join(f"p {i}\nd {i}\n" for i in range(50))
    assert shared.run_code(code).stdout == expected


def test_bytes_that_are_no_text(shared: Sandbox) -> None:
    run = shared.run_code("import os\nos.write(1, b'a\\xff\\xfeb\\xc3'); None")
    assert run.stdout == "a\ufffd\ufffdb\ufffd"
    assert run.truncated is None


def test_characters_cut_between_writes_are_whole(shared: Sandbox) -> None:
    code = "import os, time\nfor b in 'ü🎉'.encode():\n    os.write(1, bytes([b]))\n    time.sleep(0.005)"
    assert shared.run_code(code).stdout == "ü🎉"
    text = "".join(e.text for e in shared.run_code_stream(code) if e.type == "stdout")
    assert text == "ü🎉"


def test_escape_codes_pass_unchanged(shared: Sandbox) -> None:
    assert shared.run_code("print('\\x1b[31mred\\x1b[0m \\0 \\r\\n\\t')").stdout == "\x1b[31mred\x1b[0m \0 \r\n\t\n"


def test_half_a_megabyte_is_whole(shared: Sandbox) -> None:
    run = shared.run_code("for i in range(50_000):\n    print(f'{i:09d}')")
    assert run.stdout == "".join(f"{i:09d}\n" for i in range(50_000))
    assert run.truncated is None


def test_over_the_limit_is_cut_with_the_exact_count(box: Sandbox) -> None:
    total = 5_000_000
    run = box.run_code(f"import sys\nsys.stdout.write('x' * {total})\nprint('short', file=sys.stderr)\nNone")
    assert run.exit == "ok"
    assert run.truncated is not None
    dropped = run.truncated["stdout"]["dropped_bytes"]
    assert dropped > 0 and len(run.stdout) + dropped == total
    assert set(run.stdout) == {"x"}
    assert run.stderr == "short\n" and not run.truncated.get("stderr")
    after = box.run_code("print('fine')")
    assert after.stdout == "fine\n" and after.truncated is None


def test_a_cut_does_not_break_a_character(box: Sandbox) -> None:
    run = box.run_code("import sys\nsys.stdout.write('é' * 2_000_000); None")
    assert run.truncated is not None
    kept = len(run.stdout.rstrip("\ufffd").encode())
    assert kept + run.truncated["stdout"]["dropped_bytes"] in range(4_000_000 - 1, 4_000_000 + 1)


def test_stderr_is_cut_on_its_own(box: Sandbox) -> None:
    run = box.run_code("import sys\nsys.stderr.write('e' * 3_000_000)\nprint('whole')")
    assert run.stdout == "whole\n" and run.truncated is not None
    assert len(run.stderr) + run.truncated["stderr"]["dropped_bytes"] == 3_000_000


def test_a_child_that_prints_after_the_run_hurts_nothing(box: Sandbox) -> None:
    code = "import subprocess\np = subprocess.Popen('sleep 0.3; echo late', shell=True)\nprint('first')"
    assert box.run_code(code).stdout == "first\n"
    run = box.run_code("p.wait()\nprint('second')")
    assert "second\n" in run.stdout and run.exit == "ok"


def test_closed_stdout_is_survived(box: Sandbox) -> None:
    box.run_code("import sys\nsys.stdout.close()")
    run = box.run_code("7 * 6")
    assert run.exit in ("ok", "error", "killed")
    again = box.run_code("import os\nos.write(1, b'descriptor lives\\n'); None")
    assert "descriptor lives" in again.stdout


def test_closed_descriptors_never_hang_or_lie(box: Sandbox) -> None:
    run = box.run_code("import os\nos.close(1); os.close(2)\nprint('nowhere')", timeout_seconds=20)
    assert "nowhere" not in run.stdout
    again = box.run_code("1 + 1", timeout_seconds=20)
    assert again.text == "2" or again.exit != "ok"


def test_logs_keep_the_last_lines(box: Sandbox) -> None:
    box.run_code("import sys\nprint('to stdout')\nprint('to stderr', file=sys.stderr)")
    box.exec("echo from a process")
    both = box.logs()
    assert "to stdout" in both and "to stderr" in both and "from a process" in both
    assert "to stderr" not in box.logs("stdout")
    assert "to stdout" not in box.logs("stderr")
