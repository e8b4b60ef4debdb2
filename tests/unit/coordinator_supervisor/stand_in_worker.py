"""A worker that serves nobody: it holds the control channel and the ledger as a real one does.

What it does beside is told by environment variables: `STAND_IN_FAILS` ends it before it listens,
`STAND_IN_DEAF` makes it ignore Drain. Each line it gets over HTTP-less TCP is a command:
`pid`, `begin ROW LOAD`, `count`, `fleet`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import sys

from pymotor.coordinator.control import (
    Drain,
    FleetTaken,
    FleetUpdate,
    FrameReader,
    Listening,
    Ping,
    Pong,
    WorkerStart,
    frame,
)
from pymotor.coordinator.scheduling.ledger import Ledger
from pymotor.telemetry.metrics import Registry
from pymotor.telemetry.shared_figures import SharedFigures


async def work(control: socket.socket, ledger_descriptor: int, figures_descriptor: int) -> None:
    deaf = "STAND_IN_DEAF" in os.environ
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    reader, writer = await asyncio.open_connection(sock=control)
    frames = FrameReader(to_worker=True)
    registry = Registry(SharedFigures(figures_descriptor))
    counted = registry.counter("pymotor_connections_total", "Connections of clients.").child()
    ledger: Ledger | None = None
    fleet: FleetUpdate | None = None

    async def serve(client: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        counted.add()
        assert ledger is not None
        while line := await client.readline():
            words = line.decode().split()
            result: object = os.getpid()
            if words[0] == "begin":
                ledger.begin(int(words[1]), int(words[2]))
            elif words[0] == "fleet":
                result = None if fleet is None else [fleet.snapshot.epoch, fleet.snapshot.version, fleet.rows]
            answer.write(json.dumps(result).encode() + b"\n")
        answer.close()

    while data := await reader.read(65536):
        for message in frames.feed(data):
            if isinstance(message, WorkerStart):
                ledger = Ledger(
                    ledger_descriptor, columns=message.columns, rows=message.ledger_rows, column=message.column
                )
                if "STAND_IN_FAILS" in os.environ:
                    sys.exit("stand-in: told to fail")
                await asyncio.start_server(serve, message.host, message.port, reuse_port=True)
                writer.write(frame(Listening()))
            elif isinstance(message, FleetUpdate):
                fleet = message
                writer.write(frame(FleetTaken(age=message.age)))
            elif isinstance(message, Ping):
                writer.write(frame(Pong()))
            elif isinstance(message, Drain) and not deaf:
                return


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--control-fd", type=int)
    parser.add_argument("--ledger-fd", type=int)
    parser.add_argument("--figures-fd", type=int)
    arguments = parser.parse_args()
    asyncio.run(work(socket.socket(fileno=arguments.control_fd), arguments.ledger_fd, arguments.figures_fd))
