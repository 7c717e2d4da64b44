"""Round trip of a hot execution over the socketpair: python3 bench_hot.py [n] [shell]. Prints percentiles in µs."""
import os
import platform
import statistics
import sys
import time

import harness


def percentiles(times):
    times = sorted(times)
    return {p: times[min(len(times) - 1, int(len(times) * p / 100))] for p in (50, 90, 99)}


def measure(kernel, code, n):
    packet = harness.frame(harness.EXECUTE, code, 7)
    times = []
    for _ in range(n):
        start = time.perf_counter_ns()
        kernel.socket.send(packet)
        while True:
            data = kernel.socket.recv(65536)
            if b'"execution_count"' in data:
                break
        times.append((time.perf_counter_ns() - start) / 1000)
        kernel.drain()
    return times


def cpu_us(pid):
    """CPU time of the process in µs: /proc/PID/schedstat counts nanoseconds on a CPU."""
    return int(open("/proc/%d/schedstat" % pid).read().split()[0]) / 1000


def main():
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 3000
    shell = "shell" in sys.argv
    kernel = harness.Kernel(harness.shell_command() if shell else None)
    codes = ["true", "echo hi", "cd /tmp"] if shell else ["1+1", "x = 1", "x", "print('hi')", "[1.5, 'a']"]
    print("kernel %s, %d CPUs, n = %d" % (platform.release(), os.cpu_count(), n))
    one_cpu = os.sched_getaffinity(0)
    for pinned in (False, True):
        cpus = {min(one_cpu)} if pinned else one_cpu
        os.sched_setaffinity(0, cpus)
        os.sched_setaffinity(kernel.process.pid, cpus)
        print("same CPU" if pinned else "any CPU")
        for code in codes:
            measure(kernel, code, n // 10)
            before = cpu_us(kernel.process.pid)
            times = measure(kernel, code, n)
            cpu = (cpu_us(kernel.process.pid) - before) / n
            p = percentiles(times)
            print(
                "  %-14s p50 %6.0f  p90 %6.0f  p99 %6.0f  max %6.0f µs   kernel CPU %5.0f µs   mean %.0f"
                % (code, p[50], p[90], p[99], max(times), cpu, statistics.mean(times))
            )
    kernel.close()


main()
