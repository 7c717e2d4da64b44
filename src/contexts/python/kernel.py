"""Start of the Python context of a cell. See cella_kernel/__init__.py.

    python3 -X utf8 kernel.py

Descriptors: 0 /dev/null, 1 the pipe on which one byte 'Z' says "ready to be copied", 2 the log. A copy has the pipes of
its own context at 1 and 2, and the context stream at 60. With CELLA_KERNEL_DIRECT=1 nothing is copied: 1, 2 and 60
are the context's from the start. With CELLA_KERNEL_FORKS=n the process forks itself for whoever asks at descriptor n (forks.py).

Exit codes: 0 the stream ended, 1 could not start, 3 the peer broke the protocol, 4 no random bytes for a copy.
"""
import os
import sys


def main():
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[0] = here
    direct = os.environ.pop("CELLA_KERNEL_DIRECT", "") == "1"
    link = os.environ.pop("CELLA_KERNEL_FORKS", "")
    if not direct and not link:
        ready = os.dup(1)
        os.set_inheritable(ready, False)
        os.dup2(2, 1)  # what a library prints while it is imported belongs to the log

    from cella_kernel import commands, entropy, execute, forks, interrupt, serve, shell, streams, wake, wire, zygote

    sys.path[0] = ""  # like an interactive Python: the working directory
    sys.argv = [""]
    output = streams.Output()
    stream = wire.Stream()
    if direct:
        os.set_inheritable(stream.fd, False)
    os.system = commands.system
    commands.tell_lost_children()
    gate = interrupt.Gate(stream.readable)
    gate.install()
    the_shell = shell.make_shell()
    executor = execute.Executor(the_shell, stream, gate, output)
    randomness = entropy.Entropy(gate)
    server = serve.Server(stream, gate, output, executor, randomness)
    zygote.import_libraries()
    zygote.load_environment()
    zygote.run_preload(the_shell.user_ns)
    executor.warm_up()
    randomness.prepare()
    zygote.settle()

    if not direct:
        if zygote.threads() != 1:
            output.error_text("not ready: %d threads run; a template must be single-threaded\n" % zygote.threads())
            return 1
    if link:
        gate = forks.serve(int(link))
        wake.after_fork()
        executor.awake()
        executor.rehearse()
        gate.wait()
        randomness.behind_gate()
        wake.enter_workspace()
    else:
        if not direct:
            zygote.wait_to_be_copied(ready)
            wake.after_copy()
            randomness.first()
            wake.enter_workspace()
        executor.awake()
        if not direct and not stream.readable():
            executor.rehearse()
    try:
        server.ready()
        server.run()
    except wire.Closed:
        return 0
    except wire.Malformed as e:
        output.error_text("context stream: %s\n" % e)
        return 3


if __name__ == "__main__":
    code = 1
    try:
        code = main()
    except BaseException:
        import traceback

        os.write(2, traceback.format_exc().encode("utf-8", "backslashreplace"))
    finally:
        # Not sys.exit: threads and atexit functions of the user's code must not keep the process.
        os._exit(code)
