"""A live copy of a shell: new entropy, its host's name; and what INSPECT tells of a shell."""
import json
import os
import time

import pytest

import harness


def until(kernel, word):
    end = time.monotonic() + 20
    while word not in kernel.stdout:
        assert time.monotonic() < end
        kernel.drain()
        time.sleep(0.01)


def seeded(sh):
    """What $RANDOM gives after RANDOM=1 when nothing came between."""
    return sh.run("RANDOM=1; echo $RANDOM").out


def test_signal_seeds_random(sh):
    expected = seeded(sh)
    assert sh.run("RANDOM=1; echo $RANDOM").out == expected  # the control
    sh.run("RANDOM=1")
    sh.copied()
    assert sh.run("echo $RANDOM").out != expected


def test_two_starts_differ():
    kernels = [harness.Kernel(harness.shell_command()) for _ in range(3)]
    assert len({k.run("echo $RANDOM $RANDOM $SRANDOM").out for k in kernels}) == 3
    for k in kernels:
        k.close()


def test_in_the_middle_of_an_execution(sh):
    expected = seeded(sh)
    sh.start("RANDOM=1; echo go; while [[ ! -e /tmp/cella-%d.flag ]]; do :; done; echo $RANDOM" % os.getpid())
    until(sh, b"go")
    sh.copied()
    flag = "/tmp/cella-%d.flag" % os.getpid()
    open(flag, "w").close()
    e = sh.finish()
    os.unlink(flag)
    assert e.out.split()[-1] != expected.strip() and e.status == "ok"


WAITING = [
    ("sleep 0.6; echo $?", "0"),
    ("sleep 0.6 & wait; echo $?", "0"),
    ("sleep 0.6 & wait $!; echo $?", "0"),
    ("(sleep 0.6; exit 3) & wait -n; echo $?", "3"),
    ("read x < <(sleep 0.6; echo text); echo $? $x", "0 text"),
    ("read -t 5 x < <(sleep 0.6; echo text); echo $? $x", "0 text"),
    ("x=$(sleep 0.6; echo text); echo $? $x", "0 text"),
    ("sleep 0.6 | cat; echo ${PIPESTATUS[*]}", "0 0"),
    ("mapfile -t x < <(sleep 0.6; echo a b); echo ${#x[@]} $x", "1 a b"),
    ("timeout 5 sleep 0.6; echo $?", "0"),
]


@pytest.mark.parametrize("code,expected", WAITING)
def test_waits_are_not_disturbed(sh, code, expected):
    start = time.monotonic()
    sh.start("echo go; " + code)
    until(sh, b"go")
    for _ in range(5):
        time.sleep(0.05)
        sh.copied()
    e = sh.finish()
    assert e.out.split("\n", 1)[1] == expected + "\n" and e.err == "" and e.status == "ok"
    assert time.monotonic() - start > 0.5


def test_a_trap_of_the_users(sh):
    expected = seeded(sh)
    sh.run("trap 'echo trapped' URG")
    sh.copied()
    time.sleep(0.1)
    assert sh.run("RANDOM=1").out == "trapped\n"
    sh.forked("other")
    e = sh.run("echo $RANDOM; trap -p URG")
    assert e.out.split("\n")[0] != expected.strip() and e.out.split("\n")[1] == "trap -- 'echo trapped' SIGURG"
    sh.run("trap - URG; RANDOM=1")
    sh.copied()
    assert sh.run("echo $RANDOM").out != expected


def test_an_ignored_signal(sh):
    expected = seeded(sh)
    sh.run("trap '' URG; RANDOM=1")
    sh.copied()
    assert sh.run("echo $RANDOM").out == expected
    sh.run("RANDOM=1")
    sh.forked("other")
    assert sh.run("echo $RANDOM").out != expected


def test_the_frame_does_not_do_it_twice(sh):
    expected = seeded(sh)
    sh.copied()
    time.sleep(0.1)
    sh.run("RANDOM=1")
    sh.forked("other")
    assert sh.run("echo $RANDOM").out == expected
    sh.run("RANDOM=1")
    sh.forked("another")
    assert sh.run("echo $RANDOM").out != expected


def test_programs_it_starts_have_the_default_action(sh):
    assert sh.run("python3 -c 'import signal; print(signal.getsignal(signal.SIGURG))'").out == "0\n"


def test_host_name(sh):
    sh.forked("second")
    assert sh.run("echo $HOSTNAME").out == "second\n"
    sh.forked('th\\"ird é')
    assert sh.run("echo $HOSTNAME").out == 'th\\"ird é\n'
    sh.run("HOSTNAME=mine")
    sh.forked("fourth")
    assert sh.run("echo $HOSTNAME").out == "mine\n"
    sh.run("unset HOSTNAME")
    sh.forked("fifth")
    assert sh.run("echo ${HOSTNAME-unset}").out == "unset\n"


def test_malformed_frames(sh):
    sh.send(harness.frame(harness.FORKED, '{"hostname": 3}'))
    assert harness.wait_exit(sh) == 3


# ---- INSPECT ------------------------------------------------------------------------------------------------------


def test_only_what_changed(sh):
    assert sh.look() == {}
    sh.send(harness.frame(harness.SETENV, b"GIVEN=1\0"))
    assert sh.look() == {}
    sh.run("true | false; echo $RANDOM $SECONDS >/dev/null; x=1; export y='a b'; f() { echo \"$1\"; }; list=(a 'b c'); declare -A map=([k]=v); declare -i n=3+4")
    v = sh.look()
    assert {k: (x["type"], x["value"]) for k, x in v.items()} == {
        "x": ("string", "1"), "y": ("string", "a b"), "f": ("function", 'f () \n{ \n    echo "$1"\n}'),
        "list": ("array", '([0]="a" [1]="b c")'), "map": ("array", '([k]="v" )'), "n": ("string", "7"),
    }  # fmt: skip
    sh.run("PATH=$PATH:/more; GIVEN=2; cd /tmp")
    assert sh.look().keys() - v.keys() <= {"PATH", "GIVEN", "PWD"} and {"PATH", "GIVEN"} <= sh.look().keys()
    sh.run("unset x y f list map n")
    assert sh.look().keys() & v.keys() == set()


def test_asked_names(sh):
    sh.run("x=1")
    v = sh.look("x", "PATH", "nothing", 'q"\\')
    assert v.keys() == {"x", "PATH"}
    assert sh.look(names=[]) == {}
    assert sh.look(names=None).keys() == {"x"}


def test_no_trace(sh):
    sh.run("true")
    before = sh.run("(exit 3); set").out
    count = sh.run("echo $?").done["execution_count"]
    sh.look()
    after = sh.run("(exit 3); set").out
    skip = ("BASHPID", "RANDOM", "SECONDS", "EPOCH", "SRANDOM", "LINENO", "_=", "BASH_ARG", "PIPESTATUS")
    lines = [[x for x in text.split("\n") if not x.startswith(skip)] for text in (before, after)]
    assert lines[0] == lines[1]
    assert sh.run("echo").done["execution_count"] == count + 2


def test_values_that_are_long_or_strange(sh):
    sh.run("long=$(printf 'é%.0s' {1..5000}); bytes=$'a\\xffb\\x01\"\\\\'; empty=; declare unset; none=()")
    v = sh.look(value_bytes=51)
    assert v["long"]["value"] == "é" * 24 + "..." and v["long"]["bytes"] == 10000
    assert v["bytes"]["value"] == 'a\ufffdb\x01"\\' and v["empty"]["value"] == "" and v["none"]["value"] == "()"
    assert "unset" not in v


def test_digests(sh):
    def digest():
        return sh.look("it")["it"]["digest"]

    seen = {}
    for code in ("it=1", "it=2", "it=()", "it=(1)", "it=(1 2)", "declare -A it=([0]=1)", "declare -A it=([a]=1 [b]=2)", "export it=1",
                 "declare -i it=1", "it() { :; }", "it() { echo; }"):  # fmt: skip
        sh.run("unset -v it; unset -f it; " + code)
        seen.setdefault(digest(), []).append(code)
    assert len(seen) == 11, seen
    sh.run("unset -f it; declare -A it=([b]=2); it[a]=1")
    assert seen[digest()] == ["declare -A it=([a]=1 [b]=2)"]
    other = harness.Kernel(harness.shell_command())
    other.run("unset -f it; it=(1   2)")
    assert seen[other.look("it")["it"]["digest"]] == ["it=(1 2)"]
    other.close()


def test_many(sh):
    sh.run("for i in {1..500}; do declare name$i=$(printf 'x%.0s' {1..1000}); done")
    v = sh.look(value_bytes=1000)
    assert len([n for n in v if n.startswith("name")]) == 500 and sh.skipped == 0 and json.dumps(v)


@pytest.mark.parametrize("payload", ["[]", '{"names": 3}', '{"names": ["a"', '{"names": ["\\u12"]}', "3", " "])
def test_malformed_questions(sh, payload):
    sh.send(harness.frame(harness.INSPECT, payload, 1))
    assert harness.wait_exit(sh) == 3
