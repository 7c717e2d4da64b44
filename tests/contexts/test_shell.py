"""The shell context: bash with its state, outcomes, interrupts."""
import os
import time

import pytest

import harness
from harness import CWD, DONE, ERROR, SETENV, TEMPENV, frame


def outcome(e):
    return e.status, e.done["exit_code"]


def test_ready(sh):
    assert sh.ready["language"] == "bash" and sh.ready["version"].startswith("5.") and sh.ready["pid"] == sh.process.pid


def test_state_stays(sh, tmp_path):
    sh.run("cd %s; x=5; arr=(a 'b c'); export E=1; f() { echo \"f $1\"; }; shopt -s nullglob; alias g='echo aliased'" % tmp_path)
    e = sh.run('pwd; echo $x "${arr[1]}" $(printenv E); f 1; shopt -q nullglob && echo on\ng')
    assert e.out == "%s\n5 b c 1\nf 1\non\naliased\n" % tmp_path
    assert sh.run("declare -i n=3+4; echo $n").out == "7\n"


def test_exit_codes(sh):
    for code, expected in (
        ("true", ("ok", 0)), ("false", ("error", 1)), ("(exit 3)", ("error", 3)), ("nosuchcommand", ("error", 127)),
        ("/etc/passwd", ("error", 126)), ("kill -9 $BASHPID &\nwait $!", ("error", 137)), ("sh -c 'kill -9 $$'", ("error", 137)),
        ("false | true", ("ok", 0)), ("set -o pipefail; false | true", ("error", 1)), ("set +o pipefail", ("ok", 0)),
        ("", ("ok", 0)), ("# comment", ("ok", 0)), ("return 4", ("error", 2)), ("break", ("ok", 0)),
    ):  # fmt: skip
        assert outcome(sh.run(code)) == expected, code
    sh.run("(exit 9)")
    assert sh.run("echo $?").out == "9\n"


def test_exit_ends_the_execution_and_keeps_the_state(sh):
    sh.run("kept=yes; cd /usr")
    for code, number in (("exit 3", 3), ("exit", 3), ("true; exit", 0), ("f() { while true; do exit 5; done; }; f; echo no", 5),
                         ("eval 'exit 6'", 6), ("exit 300", 44), ("{ exit 7; }", 7), ("echo $(exit 8)x; exit 2", 2)):  # fmt: skip
        e = sh.run(code)
        assert outcome(e) == ("exit", number), code
        assert "no" not in e.out
    assert sh.run("echo $kept $PWD").out == "yes /usr\n"
    assert outcome(sh.run("source /dev/stdin <<< 'exit 11'")) == ("exit", 11)
    assert sh.run("f2() { local v=in; exit 1; }; f2").status == "exit"
    assert sh.run("echo ${v-unset} ${#FUNCNAME[@]}; local z=1").out.startswith("unset ")


def test_exit_trap_runs_once(sh):
    e = sh.run("trap 'echo bye $?' EXIT; exit 4")
    assert e.out == "bye 4\n" and outcome(e) == ("exit", 4)
    e = sh.run("exit 5")
    assert e.out == "" and outcome(e) == ("exit", 5)
    e = sh.run("trap 'echo second' EXIT")
    assert e.out == ""
    assert sh.run("exit 1").out == "second\n"
    assert outcome(sh.run("trap 'exit 9' EXIT; exit 1")) == ("exit", 9)


def test_errexit_ends_only_the_execution(sh):
    e = sh.run("set -e; echo one; false; echo two")
    assert e.out == "one\n" and outcome(e) == ("error", 1)
    e = sh.run("f() { false; echo not; }; f; echo three")
    assert e.out == "" and outcome(e) == ("error", 1)
    assert sh.run("false || echo rescued").out == "rescued\n"
    assert sh.run("set +e; false; echo goes on").out == "goes on\n"


def test_nounset_and_bad_substitution(sh):
    e = sh.run("set -u; echo $nothing; echo no")
    assert e.status == "error" and e.done["exit_code"] != 0 and "unbound variable" in e.err and e.out == ""
    sh.run("set +u")
    e = sh.run("echo ${x!bad}; echo no")
    assert e.status == "error" and e.out == ""
    e = sh.run("echo ${y:?needed}")
    assert e.status == "error" and "needed" in e.err
    assert sh.run("echo fine").out == "fine\n"


def test_syntax_errors_are_two(sh):
    for code in ("if then", "echo $(", "(", "'open", "[[ 1 ==", "case x in", "fi", "echo `", "{ echo", "for"):
        e = sh.run(code)
        assert outcome(e) == ("error", 2), code
        assert e.err.startswith("bash: line ") and e.out == "", code
        assert sh.run("echo 'fine' \"$(echo q)\"").out == "fine q\n", code
    assert sh.run("echo before\nif then").out == "before\n"


def test_a_nul_byte_is_refused(sh):
    e = sh.run(b"echo a\0b")
    assert outcome(e) == ("error", 2) and "NUL" in e.err and e.out == ""


def test_exec(sh):
    e = sh.run("exec /no/such/program; echo still")
    assert "still" in e.out and "No such file" in e.err
    assert sh.run("exec 7>&1; echo to7 >&7; exec 7>&-").out == "to7\n"
    sh.start("exec sleep 0")
    assert sh.next() is None and harness.wait_exit(sh) == 0


def test_lost_directory(sh, tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    sh.run("cd %s; rmdir %s" % (gone, gone))
    assert sh.run("echo alive").out == "alive\n"
    assert sh.run("ls; /bin/pwd").status == "error"
    assert sh.run("cd /; pwd").out == "/\n"


def test_options_that_could_stop_the_loop(sh):
    assert sh.run("set -n").status == "ok"
    assert sh.run("echo read again").out == "read again\n"
    assert sh.run("set -x").status == "ok"
    assert sh.run("echo hi").err == "+ echo hi\n"
    assert sh.run("{ set +x; } 2>/dev/null").status == "ok"
    assert sh.run("set -v; echo v").out == "v\n"
    sh.run("set +v")
    assert sh.run("set -o posix; echo p; set +o posix").out == "p\n"
    assert sh.run("enable -n echo; enable echo; echo e").out == "e\n"
    assert sh.run("builtin() { :; }; echo b").out == "b\n"
    assert sh.run("unset -f builtin; set -- a b; echo $#").out == "2\n"
    assert sh.run("echo $1; trap 'true' DEBUG; echo d; trap - DEBUG").out == "a\nd\n"
    assert sh.run("trap 'echo err' ERR; false").out == "err\n"
    assert sh.run("trap - ERR; echo '!!' !x").out == "!! !x\n"
    assert sh.run("unset PATH; echo np; PATH=/usr/bin:/bin").out == "np\n"
    assert sh.run("readonly UIDX=1; UIDX=2; echo after").status == "error"
    assert sh.run("IFS=x; v='axb'; echo $v; unset IFS").out == "a b\n"


def test_output_order_and_streams(sh):
    e = sh.run("echo a; printf b; /bin/echo c; echo d >&2; printf no-newline")
    assert (e.out, e.err) == ("a\nbc\nno-newline", "d\n")
    assert len(sh.run("head -c 3000000 /dev/zero | tr '\\0' x").out) == 3_000_000
    assert sh.run("cat; read x; echo $?").out == "1\n"


def test_heredocs_substitutions_subshells(sh):
    assert sh.run("cat <<EOF\n$((2+3))\nEOF\ncat <<'EOF'\n$x\nEOF").out == "5\n$x\n"
    assert sh.run("diff <(echo a) <(echo a) && echo same").out == "same\n"
    assert sh.run("( cd /usr; pwd ); x=$(seq 3 | wc -l); echo $x").out == "/usr\n3\n"
    assert sh.run("seq 5 | while read n; do [ $n = 3 ] && exit 9; done; echo ${PIPESTATUS[@]}").out == "0 9\n"
    assert sh.run("coproc cat; echo hi >&${COPROC[1]}; read r <&${COPROC[0]}; echo $r; kill $COPROC_PID").out == "hi\n"


def test_multiline_and_unicode(sh):
    assert sh.run("for i in 1 2; do\n  echo \"é$i\"\ndone").out == "é1\né2\n"
    long = "echo '" + "y" * 200_000 + "'"
    assert len(sh.run(long).out) == 200_001


def test_environment(sh):
    sh.run("ONCE=before; export EXP=e")
    temp = frame(TEMPENV, b"ONCE=now\0EXP=t\0NEW=n\0")
    code = "echo ${ONCE-none} $EXP ${NEW-none}; printenv ONCE NEW"
    assert sh.run(code, before=temp).out == "now t n\nnow\nn\n"
    assert sh.run(code).out == "before e none\n"
    sh.send(frame(SETENV, b"SET=a=b \0PATH=/usr/bin:/bin\0"))
    assert sh.run('echo "$SET"; printenv SET').out == "a=b \na=b \n"
    assert sh.run("exit 2", before=frame(TEMPENV, b"TMP1=x\0")).status == "exit"
    assert sh.run("echo ${TMP1-none}").out == "none\n"
    e = sh.run("echo ok", before=frame(SETENV, b"bad-name=1\0GOOD=1\0"))
    assert "bad-name" in e.err and sh.run("echo $GOOD").out == "1\n"
    e = sh.run("echo $UID", before=frame(TEMPENV, b"UID=77\0"))
    assert "readonly" in e.err and e.out == "%d\n" % os.getuid()


def test_working_directory(sh, tmp_path):
    odd = tmp_path / "a 'b'"
    odd.mkdir()
    sh.send(frame(CWD, str(odd).encode() + b"\0"))
    assert sh.run("pwd").out == "%s\n" % odd
    sh.send(frame(CWD, b"/no/such\0"))
    e = sh.run("pwd")
    assert "/no/such: No such file" in e.err and e.out == "%s\n" % odd


def test_names_in_messages(sh):
    assert sh.run("echo $0 $BASH_SOURCE; nosuch").err == "bash: line 1: nosuch: command not found\n"
    assert sh.run("\n\nnosuch").err == "bash: line 3: nosuch: command not found\n"
    assert sh.run("echo $LINENO").out == "1\n"
    assert sh.run("echo $$ $BASHPID").out == "%d %d\n" % (sh.process.pid, sh.process.pid)


def test_execution_count(sh):
    assert [sh.run("true").done["execution_count"] for _ in range(3)] == [1, 2, 3]


def interrupted(sh, code):
    sh.start(code)
    end = time.monotonic() + 10
    while b"go" not in sh.stdout:
        assert time.monotonic() < end
        sh.drain()
        time.sleep(0.005)
    time.sleep(0.1)
    sh.interrupt()
    return sh.finish(timeout=20)


@pytest.mark.parametrize(
    "code",
    [
        "echo go; sleep 60",
        "echo go; sleep 60; echo after",
        "echo go; sleep 60 | cat",
        "echo go; while :; do :; done",
        "echo go; while true; do sleep 0.01; done",
        "echo go; for ((;;)); do /bin/true; done",
        "echo go; x=$(sleep 60); echo after",
        "echo go; ( while :; do sleep 1; done )",
        "f() { while :; do sleep 1; done; }; echo go; f",
        "echo go; sleep 60 & wait",
        "echo go; read x < <(sleep 60)",
        "echo go; python3 -c 'import time; time.sleep(60)'",
        "echo go; bash -c 'sleep 60; sleep 60'",
        "echo go; { sleep 60; } 2>/dev/null",
        "echo go; cat <(sleep 60)",
        "echo go; eval 'while :; do :; done'",
        "trap 'true' EXIT; echo go; while :; do :; done",
        "echo go; seq 1000000000 | while read n; do :; done",
    ],
)
def test_interrupt(sh, code):
    sh.run("kept=yes; cd /usr")
    start = time.monotonic()
    e = interrupted(sh, code)
    assert time.monotonic() - start < 10
    assert e.status == "interrupted" and "after" not in e.out, (e.frames, e.err)
    assert e.done["exit_code"] == 130
    assert [f.kind for f in e.frames] == [ERROR, DONE] and e.error["name"] == "KeyboardInterrupt"
    sh.run("trap - EXIT")
    e = sh.run("echo $kept $PWD ${#FUNCNAME[@]}")
    assert e.out.startswith("yes /usr") and e.status == "ok"
    assert sh.run("for i in 1 2; do echo $i; done").out == "1\n2\n"


def test_interrupt_spares_background_jobs(sh):
    sh.run("sleep 30 & job=$!")
    assert interrupted(sh, "echo go; sleep 60").status == "interrupted"
    assert sh.run("kill -0 $job && echo lives; kill $job").out == "lives\n"


def test_a_trap_on_int_is_the_users(sh):
    e = interrupted(sh, "trap 'echo caught' INT; echo go; for i in 1 2 3 4 5 6; do sleep 0.1; done; echo end")
    assert e.out == "go\ncaught\nend\n" and e.status == "ok"
    e = interrupted(sh, "trap '' INT; echo go; sleep 0.4; echo ignored")
    assert e.out == "go\nignored\n"
    sh.interrupt()
    time.sleep(0.05)
    assert sh.run("trap - INT; echo alive").out == "alive\n"
    assert interrupted(sh, "echo go; sleep 60").status == "interrupted"


def test_idle_interrupts_are_ignored(sh):
    for _ in range(20):
        sh.interrupt()
        time.sleep(0.002)
    time.sleep(0.05)
    assert outcome(sh.run("echo fine")) == ("ok", 0)


def test_interrupt_right_after_the_request_is_not_lost(sh):
    for i in range(200):
        sh.start("while :; do :; done")
        for _ in range(i % 7 * 20):
            pass
        sh.interrupt()
        assert sh.finish(timeout=20).status == "interrupted", i
    assert sh.run("echo 1").out == "1\n"


def test_interrupts_at_random_moments(sh):
    import random

    rng = random.Random(7)
    ends = set()
    for i in range(150):
        sh.start("for i in 1 2 3; do x=$(echo $i); /bin/echo $i; done; f() { local a=1; echo $a; }; f | cat")
        time.sleep(rng.random() * 0.015)
        sh.interrupt()
        e = sh.finish(timeout=20)
        ends.add(e.status)
        sh.send(frame(harness.HELLO))
        while sh.next(20).kind != harness.STATUS:
            pass
        e = sh.run("echo 42")
        assert (e.out[-3:], e.status) == ("42\n", "ok"), i
    assert "interrupted" in ends


def test_many_executions_do_not_leak(sh):
    def rss():
        return int(open("/proc/%d/statm" % sh.process.pid).read().split()[1])

    codes = ["true", "exit 3", "echo $(", "f() { exit 1; }; f", "set -e; false", "set +e", "x=(1 2 3)", "echo ${x!y}"]
    for code in codes * 50:
        sh.run(code)
    before = rss()
    for code in codes * 500:
        sh.run(code)
    assert rss() - before < 500, "pages grown in 4,000 executions"
    assert len(os.listdir("/proc/%d/fd" % sh.process.pid)) < 8


def test_sigterm_and_kill_end_the_process(sh):
    sh.start("kill $$")
    while (f := sh.next(10)) is not None:
        assert f.kind != DONE or True
    assert harness.wait_exit(sh) == -15
