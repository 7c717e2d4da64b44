"""Runs inside the outer machine and does what the tests ask: start, signal and look at programs.

    agent.py PORT

One connection, one request, as a line of JSON; then lines of JSON come back, the last of which has "done" (or "error").
  run    {argv, input?, seconds?, env?, cwd?}    {"out": text}…, {"done": status}        status -9: killed after `seconds`
  spawn  {name, argv, user?, env?, log}          {"done": pid}      a program that stays; one that has this name and runs is refused
  poll   {name}                                  {"done": status or null}
  pid    {name}                                  {"done": pid or null}      of one that runs
  exists {path}                                  {"done": true or false}
  wait   {name, seconds}                         {"done": status or null}
  signal {name or pid, signal}                   {"done": true or false}
  read   {path, size?}                           {"done": base64}   the end of the file when size is given
  write  {path, data}                            {"done": bytes}
"""
import base64
import json
import os
import pwd
import signal
import socketserver
import subprocess
import sys
import threading
import time

programs = {}
turn = threading.Lock()


def run(ask, say):
    process = subprocess.Popen(ask["argv"], stdin=subprocess.PIPE if ask.get("input") else subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               env={**os.environ, **ask.get("env", {})}, cwd=ask.get("cwd", "/"), start_new_session=True)
    late = threading.Timer(ask.get("seconds", 60), lambda: os.killpg(process.pid, signal.SIGKILL))
    late.start()
    try:
        if ask.get("input"):
            process.stdin.write(ask["input"].encode())
            process.stdin.close()
        while True:
            part = os.read(process.stdout.fileno(), 1 << 16)
            if not part:
                return process.wait()
            say({"out": part.decode("utf-8", "replace")})
    finally:
        late.cancel()


def spawn(ask, say):
    identity = {}
    if ask.get("user"):
        account = pwd.getpwnam(ask["user"])
        identity = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
    with turn, open(ask["log"], "ab") as log:
        there = programs.get(ask["name"])
        if there and there.poll() is None:
            raise RuntimeError(f"{ask['name']} runs already, as {there.pid}")
        process = programs[ask["name"]] = subprocess.Popen(ask["argv"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/",
                                                           env={**os.environ, **ask.get("env", {})}, **identity)
    return process.pid


def poll(ask, say):
    return programs[ask["name"]].poll() if ask["name"] in programs else None


def pid(ask, say):
    return programs[ask["name"]].pid if poll(ask, say) is None and ask["name"] in programs else None


def exists(ask, say):
    return os.path.exists(ask["path"])


def wait(ask, say):
    end = time.monotonic() + ask["seconds"]
    while poll(ask, say) is None and time.monotonic() < end:
        time.sleep(0.02)
    return poll(ask, say)


def send_signal(ask, say):
    try:
        if "name" in ask:
            programs[ask["name"]].send_signal(ask["signal"])
        else:
            os.kill(ask["pid"], ask["signal"])
        return True
    except ProcessLookupError:
        return False


def read(ask, say):
    with open(ask["path"], "rb") as file:
        if ask.get("size"):
            file.seek(max(0, os.fstat(file.fileno()).st_size - ask["size"]))
        return base64.b64encode(file.read()).decode()


def write(ask, say):
    with open(ask["path"], "wb") as file:
        return file.write(base64.b64decode(ask["data"]))


WORDS = {"run": run, "spawn": spawn, "poll": poll, "pid": pid, "exists": exists, "wait": wait, "signal": send_signal, "read": read, "write": write}


class Talk(socketserver.StreamRequestHandler):
    def handle(self):
        line = self.rfile.readline()
        if not line:
            return

        def say(answer):
            self.wfile.write(json.dumps(answer).encode() + b"\n")

        try:
            ask = json.loads(line)
            say({"done": WORDS[ask["do"]](ask, say)})
        except BrokenPipeError:
            pass
        except Exception as problem:  # the test is told; the agent goes on
            say({"error": f"{type(problem).__name__}: {problem}"})


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True
    request_queue_size = 64


if __name__ == "__main__":
    Server(("0.0.0.0", int(sys.argv[1])), Talk).serve_forever()
