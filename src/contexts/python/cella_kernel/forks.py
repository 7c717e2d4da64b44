"""In a virtual machine contexts are made by fork(2): the template's process, warm, forks when the guest asks for it
(src/guest/machine_zygote.h is the manual of what the two say to each other).

A fork may wait at its gate while the whole machine is copied, any number of times; what must differ between copies happens
behind the gate.
"""
import fcntl
import os
import socket
import struct

from .wire import CONTEXT_FD


def serve(link_fd):
    """Fork for whoever asks. Returns in the forks only: (descriptors as a context has them, and) its gate."""
    link = socket.socket(fileno=link_fd)
    link.set_inheritable(False)
    link.send(b"Z")
    while True:
        data, descriptors, _flags, _address = socket.recv_fds(link, 16, 8)
        if not data:
            os._exit(0)
        try:
            between = os.fork()
        except OSError as e:
            link.send(b"E" + str(e).encode()[:200])
            between = -1
        if between == 0 and _fork_again(link):
            return Gate(_place(descriptors))
        for descriptor in descriptors:
            os.close(descriptor)
        if between > 0:
            os.waitpid(between, 0)


def _fork_again(link):
    """The process between ends at once, so that the context is a child of process 1. True in the context."""
    try:
        pid = os.fork()
    except OSError as e:
        link.send(b"E" + str(e).encode()[:200])
        os._exit(1)
    if pid:
        link.send(b"P" + struct.pack("<I", pid))
        os._exit(0)
    link.close()
    return True


def _place(descriptors):
    os.setsid()
    out, err, stream, gate = (fcntl.fcntl(d, fcntl.F_DUPFD_CLOEXEC, CONTEXT_FD + 1) for d in descriptors)
    for descriptor in descriptors:
        os.close(descriptor)
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 0)
    os.close(null)
    for descriptor, place in ((out, 1), (err, 2), (stream, CONTEXT_FD)):
        os.dup2(descriptor, place, inheritable=place != CONTEXT_FD)
        os.close(descriptor)
    return gate


class Gate:
    def __init__(self, descriptor):
        self._descriptor = descriptor

    def wait(self):
        os.write(self._descriptor, b"W")
        if os.read(self._descriptor, 1) != b"G":
            os._exit(0)
        os.close(self._descriptor)
