"""The units of systemd/: accepted and rated by systemd's own tools, and their lines run as they stand there.

Nothing of systemd runs here but `systemd-analyze`; tests/system/test_system_systemd.py has the units in a real one.
"""

from __future__ import annotations

import configparser
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from atmo_farm.cli.app import cli
from atmo_farm.errors import CannotStart
from atmo_farm.tools.service.files import files
from atmo_farm.tools.service.place import place
from atmo_farm.tools.service.unit import unit_text
from tests.data import Asker, data_directive, sqlite, write_data_app
from tests.farm import Farm, nats_directive, wait_for, write_app, write_directive
from tests.guests import ROOT
from tests.servers import nats
from tests.servers.nats import NatsServer

UNITS = {"atmo-farm.service": False, "atmo-farm@.service": True}
"""The files of systemd/, and whether they are templates."""

INSTALLED = "/usr/bin/atmo-farm"
FARM = [sys.executable, "-m", "atmo_farm"]
MARGIN = 1.5
"""The exposure that is allowed."""


def analyze(*arguments: str) -> str:
    """systemd-analyze; AssertionError with what it says when it is not content."""
    done = subprocess.run(["systemd-analyze", "--no-pager", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("folder", ["a b", "a$b", "50%i", "ä;b", "$HOME"])
def test_the_command_may_lie_anywhere(tmp_path: Path, folder: str) -> None:
    """Whatever systemd makes of blanks, % and $ in a line."""
    executable = tmp_path / folder / "atmo-farm"
    executable.parent.mkdir()
    executable.write_text("#!/bin/sh\n")
    executable.chmod(0o755)
    unit, *_ = files(place("", False, tmp_path, {}), executable, Path("/srv/app"), ())
    (tmp_path / "atmo-farm.service").write_text(unit.content)
    analyze("verify", str(tmp_path / "atmo-farm.service"))


@pytest.mark.parametrize("folder", ['a"b', "a'b", "a\\b", "a\nUser=root", "a\tb"])
def test_a_command_that_systemd_does_not_start(tmp_path: Path, folder: str) -> None:
    """It is refused before a unit is written."""
    with pytest.raises(CannotStart, match="systemd starts no command"):
        files(place("", False, tmp_path, {}), tmp_path / folder / "atmo-farm", Path("/srv/app"), ())


class Unit:
    """A unit of systemd/ as systemd would use it, its folders below `place`."""

    def __init__(self, name: str, place: Path):
        parser = configparser.ConfigParser(strict=False, interpolation=None, delimiters=["="])
        parser.optionxform = str  # type: ignore[assignment,method-assign]
        text = (ROOT / "systemd" / name).read_text()
        parser.read_string(re.sub(r"^(SystemCallFilter=)~", r"Not\1", text, flags=re.MULTILINE))
        self.service = dict(parser["Service"])
        self._specifiers = {"%i": "shop", "%t": str(place / "run"), "/etc/": f"{place}/etc/"}

    def __getitem__(self, key: str) -> str:
        return self._told(self.service[key])

    def command(self, key: str) -> list[str]:
        """A line with a command, the installed farm being this one."""
        words = shlex.split(self[key])
        assert words[0] == INSTALLED
        return [*FARM, *words[1:]]

    def environ(self, place: Path, watchdog_s: float) -> dict[str, str]:
        """What systemd would set: folders, made as it says, credentials, the environment file, the watchdog."""
        folders = {}
        for kind, base in (("Runtime", "run"), ("State", "lib")):
            folder = place / base / self[f"{kind}Directory"]
            folder.mkdir(parents=True)
            folder.chmod(int(self[f"{kind}DirectoryMode"], 8))
            folders[f"{kind.upper()}_DIRECTORY"] = str(folder)
        prefix, _, source = self["LoadCredential"].partition(":")
        credentials = place / "credentials"
        credentials.mkdir()
        for secret in Path(source).iterdir():
            (credentials / f"{prefix}_{secret.name}").write_bytes(secret.read_bytes())
        lines = Path(self["EnvironmentFile"].removeprefix("-")).read_text().splitlines()
        variables = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
        assert float(self["WatchdogSec"]) > watchdog_s
        watchdog = {"WATCHDOG_USEC": str(int(watchdog_s * 1e6))}
        return {**folders, "CREDENTIALS_DIRECTORY": str(credentials), **variables, **watchdog}

    def _told(self, text: str) -> str:
        for specifier, value in self._specifiers.items():
            text = text.replace(specifier, value)
        return text


class Service(Farm):
    """A farm that is started by the unit's ExecStart."""

    def __init__(self, unit: Unit, environ: dict[str, str]):
        super().__init__(Path(), environ={**environ, "ATMO_FARM_LOG_FORMAT": "json"})
        self.unit = unit

    def command(self) -> list[str]:
        return self.unit.command("ExecStart")

    def reload(self) -> subprocess.CompletedProcess[str]:
        """The unit's ExecReload, with its environment."""
        command = self.unit.command("ExecReload")
        return subprocess.run(command, env=self._environ, capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize(("name", "template"), UNITS.items())
def test_the_units_are_what_install_service_writes(name: str, template: bool) -> None:
    """For the command in /usr/bin."""
    assert (ROOT / "systemd" / name).read_text() == unit_text(INSTALLED, user=False, template=template)


@pytest.mark.parametrize("user", [False, True])
@pytest.mark.parametrize("template", [False, True])
def test_systemd_accepts_them(template: bool, user: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a warning; those of a user, too."""
    unit = tmp_path / ("atmo-farm@.service" if template else "atmo-farm.service")
    unit.write_text(unit_text(sys.executable, user=user, template=template))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    done = subprocess.run(["systemd-analyze", "verify", *(["--user"] if user else []), unit], capture_output=True)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


@pytest.mark.fault(row="unit-exposure")
@pytest.mark.parametrize("name", UNITS)
def test_exposure(name: str, figure: Callable[[str, object], None]) -> None:
    """At most 1.5 of 10, by systemd's own reckoning."""
    rated = analyze("security", "--offline=yes", f"--threshold={MARGIN * 10:.0f}", str(ROOT / "systemd" / name))
    exposure = float(re.findall(r"exposure level for \S+: ([0-9.]+)", rated)[0])
    figure(f"exposure of {name}", exposure)
    assert exposure <= MARGIN


def test_the_plain_unit_is_the_template_with_other_places(tmp_path: Path) -> None:
    """So that what is proven of one holds for the other."""
    plain, template = (Unit(name, tmp_path).service for name in UNITS)
    assert plain == {key: value.replace("%i/", "").replace("%i", "main") for key, value in template.items()}


def test_its_lines(tmp_path: Path, start_nats: Callable[[str], NatsServer]) -> None:
    """ExecStart serves with settings, variable and credential from the unit's places, and feeds the watchdog;
    ExecReload ends when the reload has, and fails with it; TERM ends with 0 within TimeoutStopSec."""
    token, place = "canary-of-the-unit", tmp_path / "p"
    server = start_nats(nats.token(token))
    handler = "resource: unit.lines\nname: greeter\nsteps: [{fn: hello}]"
    directive = nats_directive("env(UNIT_NATS)\n    token: credential(nats)", handler)
    app = write_app(tmp_path / "app", directive, ("c", "hello"))
    command = ["install-service", str(app), "--name", "shop", "--root", str(place)]
    assert CliRunner().invoke(cli, command).exit_code == 0
    unit = Unit("atmo-farm@.service", place)
    etc = place / "etc/atmo-farm/shop"
    (etc / "environment").write_text(f"# the server\nUNIT_NATS={server.address}\n")
    (etc / "credentials" / "nats").write_text(f"{token}\n")
    with Service(unit, unit.environ(place, watchdog_s=0.4)) as service:
        service.wait_notified("STATUS=generation 1, 1 of 1 ready")
        service.wait_notified("WATCHDOG=1")
        service.wait_notified("WATCHDOG=1")
        assert Asker(f"nats://{token}@{server.address}")("unit.lines", "unit") == b"hello, unit"
        write_directive(app, directive.replace("unit.lines", "unit.changed"))
        done = service.reload()
        assert (done.returncode, "generation 2 is in force" in done.stdout) == (0, True), done.stderr
        service.wait_notified("RELOADING=1")
        service.wait_notified("READY=1")
        write_directive(app, directive.replace("hello", "nobody"))
        done = service.reload()
        assert done.returncode == 5
        assert "there is no function" in done.stderr
        service.wait_notified("READY=1")
        service.wait_notified("STATUS=generation 2, 1 of 1 ready; last reload refused")
        began = time.monotonic()
        assert service.stop() == 0
        assert time.monotonic() - began < float(unit["TimeoutStopSec"])
        service.wait_notified("STOPPING=1")
        assert token not in service.log_file.read_text()


def test_a_secret_in_a_file_is_rotated_by_a_reload(tmp_path: Path, start_nats: Callable[[str], NatsServer]) -> None:
    """`file(PATH)` is read again: the handler's process is replaced by one with the new secret, though no file of the
    application has changed. (A credential stays as it was when the service started.)"""
    both = 'users: [{user: old, password: "old-secret"}, {user: new, password: "new-secret"}]'
    server = start_nats(f"authorization {{ {both} }}")
    user, password = tmp_path / "user", tmp_path / "password"
    user.write_text("old\n"), password.write_text("old-secret\n")
    handler = "resource: rotated\nname: greeter\nsteps: [{fn: hello}]"
    directive = nats_directive(f"{server.address}\n    user: file({user})\n    password: file({password})", handler)
    with Farm(write_app(tmp_path / "app", directive, ("c", "hello"))) as farm:
        before = farm.children()
        user.write_text("new\n"), password.write_text("new-secret\n")
        os.kill(farm.pid, signal.SIGHUP)
        farm.wait_notified("RELOADING=1")
        farm.wait_notified("READY=1")
        assert "connections: ~nats" in farm.wait_log(message="reload: generation 2 accepted")["changes"]
        assert not set(farm.children()) & set(before)
        assert Asker(f"nats://new:new-secret@{server.address}")("rotated", "file") == b"hello, file"
        assert "secret" not in farm.log_file.read_text()


# What a run asks the kernel for


def groups() -> dict[str, list[str]]:
    """systemd's groups of system calls; members may be groups themselves."""
    found: dict[str, list[str]] = {}
    for line in analyze("syscall-filter").splitlines():
        word = line.strip()
        if line.startswith("@"):
            found[word] = []
        elif word and not word.startswith("#") and found and line.startswith(" "):
            found[list(found)[-1]].append(word)
    return found


def expand(text: str, known: dict[str, list[str]]) -> set[str]:
    """The system calls that a filter's words stand for."""
    calls: set[str] = set()
    for word in text.split():
        calls |= expand(" ".join(known[word]), known) if word.startswith("@") else {word}
    return calls


class Traced(Farm):
    """A farm of which every system call is written down that its unit forbids, and every socket."""

    def __init__(self, app: Path, allowed: set[str], trace: Path):
        super().__init__(app)
        names = ",".join(f"?{name}" for name in sorted(allowed - {"socket"}))
        self.strace = ["strace", "-D", "-f", "--seccomp-bpf", "-qq", "-e", f"trace=!{names}", "-e", "signal=none"]
        self.strace += ["-o", str(trace)]

    def command(self) -> list[str]:
        return [*self.strace, *super().command()]


def test_a_run_stays_inside_of_the_filter(nats_server: NatsServer, tmp_path: Path) -> None:
    """Start, messages, a database, the cache, a killed child, a reload and the end need only system calls that the unit
    allows, and sockets of its address families. (A run under strace takes its time.)"""
    unit, known = Unit("atmo-farm@.service", tmp_path), groups()
    allowed = expand(unit["SystemCallFilter"], known) - expand(unit["NotSystemCallFilter"], known)
    database = sqlite(tmp_path / "data.db")
    database.run("CREATE TABLE orders (id INTEGER PRIMARY KEY, customer TEXT)")
    directive = data_directive(
        nats_server.url,
        "resource: traced.query\nname: traced\nsteps: [{fn: querying}]",
        "resource: traced.cache\nsteps: [{fn: caching}]",
        databases={"default": database.yaml()},
        queries={"put": "INSERT INTO orders (customer) VALUES ($1)", "all": "SELECT customer FROM orders"},
    )
    trace = tmp_path / "trace"
    farm = Traced(write_data_app(tmp_path / "app", directive), allowed, trace)
    with farm:
        ask = Asker(nats_server.url)
        ask.rows("traced.query", "insert put\nAda")
        assert ask.rows("traced.query", "select all") == [[{"customer": "Ada"}]]
        assert ask("traced.cache", "set k 0 v\nget k") == b"ok\nv"
        killed = next(pid for pid in farm.children() if Path(f"/proc/{pid}/comm").read_text() == "atmo traced/0\n")
        os.kill(killed, signal.SIGKILL)
        wait_for(lambda: farm.log(message="worker ready", worker="traced/0")[1:])
        write_directive(farm.app, directive.replace("traced.query", "traced.again"))
        os.kill(farm.pid, signal.SIGHUP)
        farm.wait_notified("RELOADING=1")
        farm.wait_notified("READY=1")
        assert ask.rows("traced.again", "select all") == [[{"customer": "Ada"}]]
        assert farm.stop() == 0
    calls = re.findall(r"^\d+ +(?:<\.\.\. )?(\w+)(?:\((\w*))?", trace.read_text(), re.MULTILINE)
    as_root = {"fchown"} if os.geteuid() == 0 else set()  # SQLite's, then: the service is never root
    assert {name for name, _ in calls} - as_root == {"socket"}
    families = {family for name, family in calls if name == "socket" and family}
    assert families <= {*unit["RestrictAddressFamilies"].split(), "AF_NETLINK"}


def test_the_trace_sees_what_is_forbidden(tmp_path: Path) -> None:
    """The way in which it is looked for finds a call that the unit does not allow."""
    unit, known = Unit("atmo-farm@.service", tmp_path), groups()
    allowed = expand(unit["SystemCallFilter"], known) - expand(unit["NotSystemCallFilter"], known)
    trace = tmp_path / "trace"
    traced = Traced(tmp_path, allowed, trace)
    code = "import os; os.setpriority(os.PRIO_PROCESS, 0, os.getpriority(os.PRIO_PROCESS, 0))"
    subprocess.run([*traced.strace, sys.executable, "-c", code], check=True)
    wait_for(lambda: "setpriority(" in trace.read_text())
