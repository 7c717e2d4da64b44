"""The Python context of a Cella cell: an IPython shell that speaks the context stream.

kernel.py       start: import everything, wait to be copied, wake up, serve
zygote.py       what happens once per template, before the first copy
forks.py        the same place in a virtual machine: a process that forks
wake.py         what a fresh copy does before it may run code
serve.py        the loop: frames in, executions out
execute.py      one cell of code from text to outcome
shell.py        the InteractiveShell: magics, `!command`, pager
display.py      values to MIME bundles to JSON
figures.py      matplotlib figures
errors.py       exceptions to plain text
streams.py      sys.stdout and sys.stderr on the real descriptors
commands.py     child processes that an interrupt reaches
loops.py        the event loop after a fork
entropy.py      new entropy for a copy
variables.py    the user's variables: names, types, short values
short.py        short texts of values
digest.py       digests of values
interrupt.py    who may be interrupted when
wire.py         frames, packets, replay (src/wire/frame.h, src/wire/context_proto.h)
"""
