"""A real master with trivial children: `python -m tests.unit.master.fake_farm FOLDER`.

Everything is real but two ends: the application is FOLDER/app.json instead of a Directive with modules, and a child is
a few lines instead of a consumer. What a child does is its handler's `behaviour`.
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import socket
import sys
import time
from pathlib import Path

from atmo_farm import log
from atmo_farm.directive.model import Directive, Handler
from atmo_farm.errors import CannotStart, Position, Problem, UserFilesError
from atmo_farm.ipc.arena import Field
from atmo_farm.ipc.messages import Ask, Failed, Ready, Waiting, encode
from atmo_farm.master import main
from atmo_farm.master.generation import Generation, Generations
from atmo_farm.master.helper import Accepted, HelperSide, Job
from atmo_farm.master.loader import Loader
from atmo_farm.master.worker import Worker
from atmo_farm.settings import Settings

logger = logging.getLogger("atmo_farm.fake")


class Kept(Generations):
    """Keeps app.json's text as the bundle."""

    def write_text(self, text: str) -> int:
        self._folder.mkdir(exist_ok=True)
        number = max((number for number, _ in self._files()), default=0) + 1
        self.bundle(number).write_text(text)
        self._write_record(number, {"sha256": ""})
        return number


def prepare(source: Path) -> Job:
    def job(side: HelperSide) -> None:
        text = source.read_text()
        app = json.loads(text)
        time.sleep(app.get("takes_s", 0))
        if app.get("dies"):
            os.kill(os.getpid(), signal.SIGKILL)
        if "problems" in app:
            raise UserFilesError([Problem(Position("Directive.yaml", 3, 1), "key", text) for text in app["problems"]])
        if "not_served" in app:
            raise CannotStart(app["not_served"])
        state = side.identify(app.get("identifier", "com.example.fake"))
        side.accept(Accepted(Kept(state).write_text(text), (), {}))

    return job


class FakeLoader(Loader):
    @property
    def _generations(self) -> Kept:
        return Kept(self._known_state())

    def _prepare(self, cause: str, in_force: Generation | None) -> Job:
        return prepare(self.source)

    def take_in(self, accepted: Accepted) -> Generation:
        app = json.loads(self._generations.bundle(accepted.generation).read_text())
        handlers = tuple(
            Handler(
                name=name,
                type="stream",
                source="nats",
                resource=given["behaviour"],
                steps=(),
                workers=given.get("workers", 1),
            )
            for name, given in app["handlers"].items()
        )
        directive = Directive(
            identifier=app.get("identifier", "com.example.fake"),
            app_version="v1.0.0",
            atmo_version="v0.4.7",
            handlers=handlers,
        )
        return Generation(accepted.generation, directive, {})


def child(worker: Worker, sock: socket.socket) -> int:
    """One child. SIGTERM is blocked until a behaviour that handles it unblocks it."""
    handler = worker.role.handler
    behaviour, _, argument = handler.resource.partition(" ") if handler is not None else ("ok", "", "")
    numbers = worker.slot.numbers
    numbers[Field.PID] = os.getpid()
    numbers[Field.RECEIVED] += handler is not None
    numbers[Field.DROPPED] += behaviour == "drops"
    if behaviour == "crash" or (behaviour == "late" and numbers[Field.RECEIVED] < int(argument)):
        return 1
    if behaviour == "raise":
        raise RuntimeError("not expected")
    if behaviour == "fail":
        sock.sendall(encode(Failed(argument)))
        return 10
    if behaviour == "once" and worker.joining:
        sock.sendall(encode(Failed("not again")))
        return 10
    if behaviour == "hang":
        time.sleep(1000)
    if behaviour == "slow":
        time.sleep(float(argument))
    told = Waiting("nats default", argument) if behaviour == "wait" else Ready()
    sock.sendall(encode(told))
    if behaviour == "asks":
        sock.sendall(encode(Ask("1", "stop", "")))
    if behaviour == "garbage":
        sock.sendall(b"{]\n" + b"x" * 100_000 + b'\n{"event": "sing"}\n' + encode(Ready()))
    if behaviour == "babble":
        flood(sock, argument)
    if behaviour == "last":
        time.sleep(0.1)
        sock.sendall(b"x" * int(argument))
        return 1
    if behaviour in ("enters", "blocks"):
        number, _, how = argument.partition(" ")
        numbers[Field.ENTERED] = int(number)
        if behaviour == "blocks":
            numbers[Field.HEARTBEAT_NS] = time.monotonic_ns()
            time.sleep(1000)
        elif worker.number == 0:
            time.sleep(0.2)
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            return int(how)
    if behaviour == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if behaviour == "silent":
        numbers[Field.HEARTBEAT_NS] = time.monotonic_ns()
        time.sleep(1000)
    return serve(behaviour, argument, numbers, sock, worker.name)


def flood(sock: socket.socket, kind: str) -> None:
    """Say the same for ever, as fast as it is read."""
    waiting = encode(Waiting("nats default", "refused"))
    words = {"lines": b"\n" * 60_000, "objects": b"{}\n" * 20_000, "ready": encode(Ready()), "flapping": waiting}[kind]
    while True:
        sock.sendall(words if kind in ("lines", "objects") else (words + encode(Ready())) * 1000)


def serve(behaviour: str, argument: str, numbers: memoryview, sock: socket.socket, name: str) -> int:
    """Beat, until the master is gone or says SIGTERM."""
    ends: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: ends.append(number))
    if behaviour != "stubborn":
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    while not ends:
        numbers[Field.HEARTBEAT_NS] = time.monotonic_ns()
        readable, _, _ = select.select([sock], [], [], 0.1)
        if readable:
            words = sock.recv(1000)
            if not words:
                return 12
            log.event(logger, logging.INFO, "told", words=words.decode(), worker=name)
            if b'"pause"' in words and behaviour != "deaf":
                numbers[Field.PAUSED] = b"true" in words
    if behaviour == "drains":
        time.sleep(float(argument))
    return 0


class FakeMaster(main.Master):
    real_monitor = False

    def _run_child(self, worker: Worker, channel: socket.socket) -> int:
        if worker.role.is_monitor and self.real_monitor:
            return super()._run_child(worker, channel)
        assert self._fleet is not None
        worker.slot.numbers[Field.PAUSED] = self._fleet.wishes.is_paused(worker.role)
        return child(worker, channel)


def run(folder: Path) -> int:
    main.Loader = FakeLoader  # type: ignore[misc]
    given = {"run_dir": "run", "state_dir": "state", **json.loads((folder / "settings.json").read_text())}
    FakeMaster.real_monitor = given.pop("real_monitor", False)
    main.processes.PRELOADED = ("atmo_farm.monitor.main",) if FakeMaster.real_monitor else ()  # type: ignore[assignment]
    settings = Settings(**{**given, "run_dir": folder / given["run_dir"], "state_dir": folder / given["state_dir"]})
    log.configure("debug", "json", folder / "log")
    try:
        return FakeMaster(folder / "app.json", settings).run()
    except (UserFilesError, CannotStart) as error:
        print(error, file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1])))
