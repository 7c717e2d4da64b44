"""A context that was copied while it read a long message: the rest went to the original, and the daemon sends the whole again."""
import pytest

import harness


@pytest.mark.parametrize("command", [harness.python_command, harness.shell_command], ids=["python", "shell"])
@pytest.mark.parametrize("kind", [harness.EXECUTE, harness.TEMPENV, harness.INPUT_REPLY])
def test_half_a_message_is_forgotten(command, kind):
    kernel = harness.Kernel(command())
    code = "print('first')" if command is harness.python_command else "echo first"
    kernel.run(code)
    kernel.send(harness.frame(kind, b"A=" + b"x" * 1000, kernel.number + 1, harness.MORE))
    kernel.forked("other")
    kernel.send(harness.frame(harness.HELLO))
    frames = []
    while not frames or frames[-1].kind != harness.STATUS:
        frames.append(kernel.next())
        assert frames[-1] is not None, kernel.stderr
    assert frames[-1].json == {"last": kernel.number}, "the half that was read is no execution"
    e = kernel.run(code)
    assert e.status == "ok" and e.out == "first\n"
    assert kernel.close() == 0
