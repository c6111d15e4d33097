"""The service in a real systemd: installed, used, reloaded, damaged and stopped, inside of all its hardening."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator

import pytest
from nats.errors import NoRespondersError

from tests.data import Asker
from tests.farm import nats_directive, wait_for, write_app
from tests.servers import nats
from tests.servers.nats import NatsServer
from tests.servers.systemd import Systemd, why_not

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not() or "it can be booted")

SERVICE = "atmo-farm@shop"
TOKEN = "the-canary-of-the-service"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """Lets in who knows the token."""
    server = NatsServer(tmp_path_factory.mktemp("nats"), nats.token(TOKEN))
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory, server: NatsServer) -> Iterator[Systemd]:
    """A machine on which the service was installed by its command, and started."""
    folder = tmp_path_factory.mktemp("machine")
    app = write_app(folder / "app", directive(server), ("c", "hello"))
    (folder / "root").mkdir()
    with Systemd(folder / "root") as machine:
        shutil.copytree(app, machine.root / "srv/shop")
        machine.run("chmod", "-R", "a+rX", "/srv")
        machine.run("atmo-farm", "install-service", "/srv/shop", "--name", "shop")
        (machine.root / "etc/atmo-farm/shop/credentials/nats").write_text(TOKEN + "\n")
        (machine.root / "etc/atmo-farm/shop/environment").write_text(f"SHOP_NATS={server.address}\n")
        machine.run("systemctl", "start", SERVICE)
        yield machine


def directive(server: NatsServer, more: str = "") -> str:
    """One handler, its address from the environment and its token from a credential."""
    handlers = (
        ("resource: unit.greet\nname: greeter\nsteps: [{fn: hello}]", more)
        if more
        else ("resource: unit.greet\nname: greeter\nsteps: [{fn: hello}]",)
    )
    return nats_directive("env(SHOP_NATS)\n    token: credential(nats)", *handlers)


def write(machine: Systemd, text: str) -> None:
    """Another Directive, put in its place at once."""
    head = "identifier: com.example.test\nappVersion: v1.0.0\natmoVersion: v0.4.7\n"
    (machine.root / "srv/shop/new").write_text(head + text)
    machine.run("mv", "/srv/shop/new", "/srv/shop/Directive.yaml")


def ask(server: NatsServer, subject: str) -> bytes:
    """The farm's answer."""
    return Asker(f"nats://{TOKEN}@{server.address}")(subject, "systemd")


def answers(server: NatsServer) -> bool:
    """Whether somebody does, who has just been started."""
    try:
        return ask(server, "unit.greet") == b"hello, systemd"
    except NoRespondersError:
        return False


def greeter(machine: Systemd) -> str:
    """The pid, as it is inside, of the handler's process; empty while there is none."""
    master = machine.show(SERVICE, "MainPID")["MainPID"]
    return machine.run("pgrep", "-P", master, "-x", "atmo greeter/0", check=False).stdout.strip()


def test_it_serves(machine: Systemd, server: NatsServer) -> None:
    """Ready, with the credential and the variable; not as root; the operator sees it by its application's name."""
    shown = machine.show(SERVICE, "ActiveState", "MainPID")
    assert shown["ActiveState"] == "active"
    wait_for(lambda: machine.show(SERVICE, "StatusText")["StatusText"] == "generation 1, 1 of 1 ready")
    assert ask(server, "unit.greet") == b"hello, systemd"
    assert machine.run("ps", "-o", "uid=", "-p", shown["MainPID"]).stdout.strip() != "0"
    status = json.loads(machine.run("atmo-farm", "status", "--app", "com.example.test", "--json").stdout)
    assert status["handlers"][0]["name"] == "greeter"


def test_its_children_are_what_the_kernel_takes_first(machine: Systemd) -> None:
    """500 more than the master in oom_score_adj."""
    score = "/proc/{}/oom_score_adj"
    master = int(machine.run("cat", score.format(machine.show(SERVICE, "MainPID")["MainPID"])).stdout)
    for pid in machine.run("pgrep", "-P", machine.show(SERVICE, "MainPID")["MainPID"]).stdout.split():
        assert int(machine.run("cat", score.format(pid)).stdout) == master + 500


def test_log_lines_are_entries_of_the_journal(machine: Systemd) -> None:
    """With priority and fields to search by; none holds the secret."""
    found = machine.run("journalctl", "--no-pager", "-o", "json", "ATMO_APP=com.example.test").stdout
    entries = [json.loads(line) for line in found.splitlines()]
    up = next(entry for entry in entries if "farm is up" in entry["MESSAGE"])
    assert (up["PRIORITY"], up["SYSLOG_IDENTIFIER"], up["ATMO_PROCESS"]) == ("6", "atmo-farm", "master")
    assert up["_SYSTEMD_UNIT"] == f"{SERVICE}.service"
    assert TOKEN not in machine.run("journalctl", "--no-pager", "-o", "json").stdout


def test_reload(machine: Systemd, server: NatsServer) -> None:
    """`systemctl reload` returns when the new Directive is in force. With problems it fails and nothing changes;
    the reason stands in status and journal."""
    before = machine.show(SERVICE, "MainPID")
    write(machine, directive(server, "resource: unit.more\nsteps: [{fn: hello}]"))
    machine.run("systemctl", "reload", SERVICE)
    assert ask(server, "unit.more") == b"hello, systemd"
    write(machine, directive(server, "resource: unit.more\nsteps: [{fn: helo}]"))
    refused = machine.run("systemctl", "reload", SERVICE, check=False)
    assert refused.returncode != 0
    shown = machine.show(SERVICE, "ActiveState", "SubState", "StatusText", "MainPID")
    assert (shown["ActiveState"], shown["SubState"], shown["MainPID"]) == ("active", "running", before["MainPID"])
    assert "last reload refused: /srv/shop/Directive.yaml:" in shown["StatusText"]
    told = machine.run("journalctl", "--no-pager", "-u", SERVICE, "-p", "err", "-o", "cat").stdout
    assert "Error: refused" in told
    assert ask(server, "unit.more") == b"hello, systemd"


def test_a_killed_child_is_the_masters_business(machine: Systemd, server: NatsServer) -> None:
    """It is replaced; the service stays as it is."""
    before = machine.show(SERVICE, "MainPID", "NRestarts", "ActiveState")
    killed = greeter(machine)
    machine.run("kill", "-KILL", killed)
    wait_for(lambda: greeter(machine) not in (killed, ""))
    wait_for(lambda: answers(server))
    assert machine.show(SERVICE, "MainPID", "NRestarts", "ActiveState") == before


def test_a_killed_master_is_systemds(machine: Systemd, server: NatsServer) -> None:
    """It starts anew, with the state folder that it had."""
    write(machine, directive(server))
    machine.run("kill", "-KILL", machine.show(SERVICE, "MainPID")["MainPID"])
    wait_for(lambda: machine.show(SERVICE, "NRestarts", "SubState") == {"NRestarts": "1", "SubState": "running"})
    assert ask(server, "unit.greet") == b"hello, systemd"
    wait_for(lambda: re.match("generation [0-9]+, 1 of 1 ready", machine.show(SERVICE, "StatusText")["StatusText"]))
    assert machine.show(SERVICE, "StatusText")["StatusText"] != "generation 1, 1 of 1 ready"


MANAGER = """\
[Service]
Type=notify
User=4000
Environment=HOME=/home/tester XDG_RUNTIME_DIR=/run/user/4000
ExecStart=/lib/systemd/systemd --user
Delegate=yes
"""


def test_a_service_of_a_user(machine: Systemd, server: NatsServer) -> None:
    """The same for the manager of a user without rights: folders, credential and environment are the user's own."""
    script = """
        echo tester:x:4000:4000::/home/tester:/bin/sh >>/etc/passwd
        mkdir -p /home/tester /run/user/4000
        cp -r /srv/shop /home/tester/
        sed -i s/unit.greet/unit.mine/ /home/tester/shop/Directive.yaml
        chown -R 4000 /home/tester /run/user/4000
        rm -rf /lib/systemd/user/*.wants
        for target in basic default shutdown; do
            printf '[Unit]\nDefaultDependencies=no\n' >/etc/systemd/user/$target.target
        done
    """
    machine.run("sh", "-ec", script)
    (machine.root / "etc/systemd/system/manager.service").write_text(MANAGER)
    machine.run("systemctl", "start", "manager")

    def run(*command: str) -> str:
        as_user = ("setpriv", "--reuid=4000", "--regid=4000", "--clear-groups")
        environ = ("env", "HOME=/home/tester", "XDG_RUNTIME_DIR=/run/user/4000")
        return machine.run(*as_user, *environ, *command).stdout

    told = run("atmo-farm", "install-service", "--user", "/home/tester/shop", "--name", "mine")
    assert "systemd has read the unit" in told
    config = machine.root / "home/tester/.config/atmo-farm/mine"
    (config / "credentials/nats").write_text(TOKEN)
    (config / "environment").write_text(f"SHOP_NATS={server.address}\n")
    machine.run("chown", "-R", "4000", "/home/tester/.config")
    run("systemctl", "--user", "start", "atmo-farm@mine")
    assert ask(server, "unit.mine") == b"hello, systemd"
    run("systemctl", "--user", "reload", "atmo-farm@mine")
    assert "generation 2, 1 of 1 ready" in run("systemctl", "--user", "status", "atmo-farm@mine")
    run("systemctl", "--user", "stop", "atmo-farm@mine")


def test_stop_and_problems_and_removal(machine: Systemd, server: NatsServer) -> None:
    """Stopping is a success and leaves no process; problems of the user's files are not tried again; what is active is
    not removed."""
    assert machine.run("atmo-farm", "install-service", "--name", "shop", "--remove", check=False).returncode == 3
    machine.run("systemctl", "stop", SERVICE)
    shown = machine.show(SERVICE, "Result", "ExecMainStatus", "ActiveState")
    assert shown == {"Result": "success", "ExecMainStatus": "0", "ActiveState": "inactive"}
    write(machine, directive(server).replace("fn: hello", "fn: helo"))
    assert machine.run("systemctl", "start", SERVICE, check=False).returncode != 0
    shown = machine.show(SERVICE, "NRestarts", "ExecMainStatus", "ActiveState")
    assert (shown["ExecMainStatus"], shown["ActiveState"]) == ("1", "failed")
    removed = machine.run("atmo-farm", "install-service", "--name", "shop", "--remove").stdout
    assert "removed /etc/systemd/system/atmo-farm@.service" in removed
    assert "kept /etc/atmo-farm/shop/credentials: there is more in it: nats" in removed
    assert machine.show(SERVICE, "LoadState")["LoadState"] == "not-found"
