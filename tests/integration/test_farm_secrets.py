"""Secrets that functions may ask for: through a whole farm, over a reload, in no log and no generation; `invoke`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

from tests.data import Asker
from tests.farm import Farm, nats_directive, write_app
from tests.servers.nats import NatsServer

VALUES = "{FROM_ENV: env(ATMO_TEST_SECRET), from/file: file(%s), WRITTEN: written-secret}"


def application(folder: Path, url: str, secrets: str) -> Path:
    directive = nats_directive(url, "resource: secrets\nsteps: [{fn: secret-reading}]")
    return write_app(folder, f"{directive}capabilities: {{secrets: {secrets}}}\n", ("c", "secret-reading"))


def test_secrets_reach_functions_and_nobody_else(nats_server: NatsServer, tmp_path: Path) -> None:
    """Each form, of several lines too; what is not allowed is an error. A file is read again by a reload."""
    file = tmp_path / "key.pem"
    file.write_text("first line\nsecond line\n")
    app = application(tmp_path / "app", nats_server.url, "{values: %s}" % (VALUES % file))
    ask = Asker(nats_server.url)
    with Farm(app, environ={"ATMO_TEST_SECRET": "secret-of-env"}) as farm:
        answer = ask("secrets", "FROM_ENV\nfrom/file\nWRITTEN\nPATH").decode().splitlines()
        assert answer == [
            "secret-of-env",
            "first line",
            "second line",
            "written-secret",
            "! secret is not allowed: PATH",
        ]
        ask("secrets", "log FROM_ENV\nlog from/file\nlog WRITTEN")
        assert [line["message"] for line in farm.log(guest=True)] == ["[redacted]"] * 3
        file.write_text("rotated line\n")
        os.kill(farm.pid, signal.SIGHUP)
        farm.wait_notified("READY=1")
        assert ask("secrets", "log from/file") == b"rotated line"
        assert "rotated line" not in farm.tail()
        for number in (1, 2):
            with zipfile.ZipFile(farm.folder / f"state/generations/{number}.zip") as generation:
                directive = generation.read("Directive.yaml")
            assert b"env(ATMO_TEST_SECRET)" in directive
            assert b"secret-of-env" not in directive and b" line" not in directive


def test_without_secrets(nats_server: NatsServer, tmp_path: Path) -> None:
    """Nothing of the process's environment is there for functions."""
    app = application(tmp_path / "app", nats_server.url, "{enabled: false, values: {A: a}}")
    with Farm(app):
        assert Asker(nats_server.url)("secrets", "A\nPATH") == b"\n".join([b"! capability is not enabled"] * 2)


def test_invoke(tmp_path: Path) -> None:
    """It has the secrets, with --no-connect too; one that is unset is told with its key and line."""
    app = application(tmp_path / "app", "nats://127.0.0.1:1", "{values: {A: env(ATMO_TEST_SECRET)}}")
    command = [sys.executable, "-m", "atmo_farm", "invoke", str(app), "secret-reading", "--input", "A"]
    done = subprocess.run(
        [*command, "--no-connect"], capture_output=True, text=True, env={"ATMO_TEST_SECRET": "x"}, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "x"), done
    done = subprocess.run(command, capture_output=True, text=True, env={}, timeout=60)
    assert done.returncode == 1
    assert "capabilities.secrets.values.A: the environment variable ATMO_TEST_SECRET is not set" in done.stderr
