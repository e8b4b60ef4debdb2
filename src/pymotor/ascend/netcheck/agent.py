"""Runs the check's commands on one node. This file's text is handed to a bare Python on that node, here or over ssh.

Standard library only, Python 3.6 and later: nothing of PyMotor need be installed there. Requests and replies are JSON,
a line each; requests of one lane are done one after the other (hccn_tool is busy while it serves another call for the
same device), at most `limit` lanes at a time. When standard input ends, so does all that was started.
"""

import contextlib
import errno
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

MOST_OUTPUT = 256 * 1024
BUSY = "hccn_tool is busy"


class Agent:
    """Lanes of requests, worker threads that serve them, and the processes that are running."""

    def __init__(self, limit: int) -> None:
        self.lanes: dict[str, deque[dict[str, Any]]] = {}
        self.ready: deque[deque[dict[str, Any]]] = deque()
        self.wake = threading.Condition()
        self.writing = threading.Lock()
        self.spawning = threading.Lock()
        self.running: set[subprocess.Popen[bytes]] = set()
        self.listeners: dict[int, socket.socket] = {}
        for _ in range(limit):
            threading.Thread(target=self.work, daemon=True).start()

    def take(self, request: "dict[str, Any]") -> None:
        """Puts a request into its lane."""
        with self.wake:
            lane = self.lanes.setdefault(request["lane"], deque())
            lane.append(request)
            if len(lane) == 1:
                self.ready.append(lane)
                self.wake.notify()

    def work(self) -> None:
        """Serves lanes, one request of each at a time, for ever."""
        while True:
            with self.wake:
                while not self.ready:
                    self.wake.wait()
                lane = self.ready.popleft()
            request = lane[0]
            try:
                reply = getattr(self, "do_" + request["kind"])(**request["with"])
            except Exception as error:  # noqa: BLE001 - whatever it is, the asker must hear of it
                reply = {"problem": "failed", "output": f"{type(error).__name__}: {error}"}
            self.say(dict(reply, id=request["id"]))
            with self.wake:
                lane.popleft()
                if lane:
                    self.ready.append(lane)
                    self.wake.notify()

    def say(self, reply: "dict[str, Any]") -> None:
        """Writes one reply."""
        text = json.dumps(reply) + "\n"
        with self.writing:
            sys.stdout.write(text)
            sys.stdout.flush()

    def do_run(self, argv: "Sequence[str]", timeout: float, tries: int) -> "dict[str, Any]":
        """A command's exit status and all it printed. A tool that says it is busy is asked again, `tries` in all."""
        deadline = time.monotonic() + timeout
        reply = self.run(argv, deadline)
        while tries > 1 and BUSY in reply["output"] and time.monotonic() + 0.2 < deadline:
            time.sleep(0.2)
            reply = self.run(argv, deadline)
            tries -= 1
        return reply

    def run(self, argv: "Sequence[str]", deadline: float) -> "dict[str, Any]":
        """Once."""
        with self.spawning:
            try:
                process = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                return {"problem": "not started", "output": f"{argv[0]}: {error.strerror or error}"}
            self.running.add(process)
        assert process.stdout is not None
        output, problem = b"", ""
        try:
            while not problem:
                left = deadline - time.monotonic()
                if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
                    problem = "timed out"
                    break
                piece = os.read(process.stdout.fileno(), 65536)
                if not piece:
                    break
                output += piece
                if len(output) > MOST_OUTPUT:
                    problem = "printed too much"
            if not problem:
                try:
                    process.wait(max(0.0, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    problem = "timed out"
        finally:
            self.end(process)
        status = None if problem else process.returncode
        return {"status": status, "problem": problem, "output": output[:MOST_OUTPUT].decode("utf-8", "replace")}

    def end(self, process: "subprocess.Popen[bytes]") -> None:
        """Kills the process if it still runs, with all that it started."""
        with self.spawning:
            self.running.discard(process)
            if process.returncode is None:
                kill(process)
        try:
            process.wait(1)
        except subprocess.TimeoutExpired:
            pass  # It hangs in the driver, where no signal reaches it; nobody can do more.
        if process.stdout is not None:
            process.stdout.close()

    def do_find(self, candidates: "Sequence[str]") -> "dict[str, Any]":
        """The first of these programs that can be executed, "" where there is none; names are looked for on PATH."""
        for candidate in candidates:
            places = [""] if os.sep in candidate else os.environ.get("PATH", os.defpath).split(os.pathsep)
            for place in places:
                path = os.path.join(place, candidate)
                if os.path.isfile(path) and os.access(path, os.X_OK):
                    return {"status": 0, "output": path}
        return {"status": 0, "output": ""}

    def do_read(self, path: str) -> "dict[str, Any]":
        """A file's text."""
        try:
            with open(path, "rb") as file:
                return {"status": 0, "output": file.read(MOST_OUTPUT).decode("utf-8", "replace")}
        except OSError as error:
            return {"problem": "not read", "output": error.strerror or str(error)}

    def do_connect(self, host: str, port: int, timeout: float) -> "dict[str, Any]":
        """Whether a TCP connection comes about; in `problem` why not."""
        try:
            socket.create_connection((host, port), timeout).close()
        except socket.timeout:  # noqa: UP041 - no TimeoutError before Python 3.10
            return {"problem": "timed out", "output": ""}
        except ConnectionRefusedError:
            return {"problem": "refused", "output": ""}
        except socket.gaierror as error:
            return {"problem": "unknown name", "output": str(error.strerror)}
        except OSError as error:
            nowhere = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN, errno.ENETDOWN, errno.EADDRNOTAVAIL)
            if error.errno == errno.ETIMEDOUT:
                return {"problem": "timed out", "output": ""}
            return {"problem": "no route" if error.errno in nowhere else "failed", "output": error.strerror or ""}
        return {"status": 0, "output": ""}

    def do_listen(self, port: int) -> "dict[str, Any]":
        """Listens on a port until the check ends, so that the way to it can be tried before a server runs there."""
        family = socket.AF_INET6 if socket.has_ipv6 else socket.AF_INET
        try:
            try:
                listener = socket.socket(family, socket.SOCK_STREAM)
            except OSError:
                family = socket.AF_INET
                listener = socket.socket(family, socket.SOCK_STREAM)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            listener.bind(("", port))
            listener.listen(64)
        except OSError as error:
            return {"problem": "in use", "output": error.strerror or str(error)}
        self.listeners[port] = listener
        threading.Thread(target=accept_all, args=(listener,), daemon=True).start()
        return {"status": 0, "output": ""}

    def stop(self) -> None:
        """Kills what still runs and ends this process; nothing new is started meanwhile."""
        self.spawning.acquire()
        for process in self.running:
            kill(process)
        os._exit(0)


def accept_all(listener: socket.socket) -> None:
    """Takes connections and closes them."""
    with contextlib.suppress(OSError):
        while True:
            listener.accept()[0].close()


def kill(process: "subprocess.Popen[bytes]") -> None:
    """Kills a process group."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except OSError:
        pass


def main() -> None:
    """Serves requests until standard input ends."""
    first = json.loads(sys.stdin.readline())
    agent = Agent(first["limit"])
    agent.say({"id": 0, "host": socket.gethostname()})
    signal.signal(signal.SIGTERM, lambda *_: agent.stop())
    try:
        for line in sys.stdin:
            agent.take(json.loads(line))
    finally:
        agent.stop()


if __name__ == "__main__":
    main()
