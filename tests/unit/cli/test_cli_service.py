"""`install-service`: what it writes, brings up to date, keeps and takes away. Written below a folder of the test's."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from atmo_farm.cli.app import cli
from tests.farm import nats_directive, write_app

PLAIN = {
    "/etc/systemd/system/atmo-farm.service": 0o644,
    "/etc/atmo-farm/atmo-farm.yaml": 0o644,
    "/etc/atmo-farm/environment": 0o600,
    "/etc/atmo-farm/credentials": 0o700,
}


@pytest.fixture(autouse=True)
def _settings_of_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATMO_FARM_CONFIG", "/dev/null")


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """An application that refers to a variable and a credential."""
    directive = nats_directive("env(SHOP_NATS)\n    token: credential(nats)", "resource: greet\nsteps: [{fn: hello}]")
    return write_app(tmp_path / "shop", directive, ("c", "hello"))


def run(root: Path, *arguments: object) -> Result:
    """The command, below this folder."""
    return CliRunner().invoke(cli, ["install-service", *map(str, arguments), "--root", str(root)])


def found(root: Path) -> dict[str, int]:
    """What is there, with modes; not the folders above, nor the record."""
    paths = {"/" + str(path.relative_to(root)): path for path in root.rglob("*")}
    return {
        name: path.stat().st_mode & 0o777
        for name, path in paths.items()
        if path.name != "installed.json" and (path.is_file() or path.name == "credentials")
    }


def contents(root: Path) -> dict[Path, bytes]:
    """All files."""
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_a_service_is_written_once(tmp_path: Path, app: Path) -> None:
    """Each path is named; secrets are for the service's user alone; a second run changes nothing and says so."""
    root = tmp_path / "root"
    first = run(root, app)
    assert first.exit_code == 0, first.output
    assert found(root) == PLAIN
    assert [line for line in first.stdout.splitlines() if line.split()[0] in ("made", "wrote")] == [
        "made /etc/atmo-farm",
        "made /etc/atmo-farm/credentials",
        "wrote /etc/systemd/system/atmo-farm.service",
        "wrote /etc/atmo-farm/atmo-farm.yaml",
        "wrote /etc/atmo-farm/environment",
    ]
    assert first.stdout.splitlines()[-3:] == [
        "the application needs SHOP_NATS in /etc/atmo-farm/environment",
        "the application needs nats in /etc/atmo-farm/credentials",
        "start it, now and at each boot: systemctl enable --now atmo-farm",
    ]
    assert f'bundlePath: "{app}"' in (root / "etc/atmo-farm/atmo-farm.yaml").read_text()
    assert "#SHOP_NATS=" in (root / "etc/atmo-farm/environment").read_text()
    before = contents(root)
    second = run(root, app)
    assert second.exit_code == 0
    assert "nothing to do: all is as it should be" in second.stdout
    assert "wrote" not in second.stdout
    assert contents(root) == before


def test_what_nobody_changed_is_brought_up_to_date(tmp_path: Path, app: Path) -> None:
    """Another APP is another line of the settings; what was changed by hand stays and is named."""
    root = tmp_path / "root"
    run(root, app)
    environment = root / "etc/atmo-farm/environment"
    environment.write_text("SHOP_NATS=10.0.0.1\n")
    moved = app.rename(tmp_path / "moved")
    again = run(root, moved)
    assert "updated /etc/atmo-farm/atmo-farm.yaml" in again.stdout
    assert "kept /etc/atmo-farm/environment: it was changed by hand" in again.stdout
    assert f'bundlePath: "{moved}"' in (root / "etc/atmo-farm/atmo-farm.yaml").read_text()
    assert environment.read_text() == "SHOP_NATS=10.0.0.1\n"


def test_settings_of_another_are_kept_and_minded(tmp_path: Path, app: Path) -> None:
    """A settings file that was there before must name the application, and its drain must fit into the unit's time; its
    problems end the installation."""
    root = tmp_path / "root"
    settings = root / "etc/atmo-farm/atmo-farm.yaml"
    settings.parent.mkdir(parents=True)
    settings.write_text("app: {bundlePath: /srv/other}\ntimeouts: {drain: 60s}\n")
    shown = run(root, app)
    assert shown.exit_code == 0
    assert f"has another app.bundlePath (/srv/other); put {app} there" in shown.stderr
    assert "timeouts.drain is 60 s and the unit's TimeoutStopSec 35" in shown.stderr
    assert "kept /etc/atmo-farm/atmo-farm.yaml" in shown.stdout
    settings.write_text("timeouts: {drian: 60s}\n")
    refused = run(root, app)
    assert (refused.exit_code, f"{settings}:1:12: timeouts.drian" in refused.stderr) == (1, True)


def test_removal_takes_what_was_written_and_nothing_else(tmp_path: Path, app: Path) -> None:
    """Changed files and foreign ones stay, with their folders, and are named; the rest is gone."""
    root = tmp_path / "root"
    foreign = root / "etc/systemd/system/other.service"
    foreign.parent.mkdir(parents=True)
    foreign.write_text("[Service]\n")
    run(root, app)
    secret = root / "etc/atmo-farm/credentials/nats"
    secret.write_text("secret")
    (root / "etc/atmo-farm/environment").write_text("SHOP_NATS=10.0.0.1\n")
    removed = run(root, "--remove")
    assert removed.exit_code == 0, removed.output
    assert "kept /etc/atmo-farm/environment: it was changed by hand" in removed.stdout
    assert "kept /etc/atmo-farm/credentials: there is more in it: nats" in removed.stdout
    left = {path for path in contents(root) if path.name != "installed.json"}
    assert left == {foreign, secret, root / "etc/atmo-farm/environment"}
    secret.unlink()
    (root / "etc/atmo-farm/environment").unlink()
    assert "removed /etc/atmo-farm" in run(root, "--remove").stdout
    assert set(contents(root)) == {foreign}
    assert not (root / "etc/atmo-farm").exists()
    assert "nothing to do" in run(root, "--remove").stdout


@pytest.mark.parametrize("link", ["etc/systemd/system", "etc/atmo-farm", "etc/atmo-farm/environment"])
def test_nothing_is_written_out_of_the_root(tmp_path: Path, app: Path, link: str) -> None:
    """An image's absolute links mean places in the image, not here."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    outside.mkdir()
    (root / link).parent.mkdir(parents=True)
    (root / link).symlink_to(outside / "file" if link.endswith("environment") else outside)
    refused = run(root, app)
    assert (refused.exit_code, "leads by a link to" in refused.stderr) == (3, True)
    run(root, "--remove")
    assert not list(outside.iterdir())


def test_services_with_names_share_a_template(tmp_path: Path, app: Path) -> None:
    """It goes with the last of them; the plain service beside them is another one."""
    root = tmp_path / "root"
    for arguments in (("--name", "a"), ("--name", "b"), ()):
        assert run(root, app, *arguments).exit_code == 0
    template = root / "etc/systemd/system/atmo-farm@.service"
    assert (
        "kept /etc/systemd/system/atmo-farm@.service: other services use it"
        in run(root, "--remove", "--name", "a").stdout
    )
    assert not (root / "etc/atmo-farm/a").exists()
    run(root, "--remove", "--name", "b")
    assert not template.exists()
    assert found(root) == PLAIN
    run(root, "--remove")
    assert found(root) == {}
    assert not (root / "etc/atmo-farm").exists()


def test_a_dry_run_does_nothing(tmp_path: Path, app: Path) -> None:
    """It says the same, and the folder is as it was."""
    root = tmp_path / "root"
    shown = run(root, app, "--dry-run")
    assert "would have wrote" not in shown.stdout
    assert "would write /etc/atmo-farm/environment" in shown.stdout
    assert not root.exists()
    run(root, app)
    before = contents(root)
    shown = run(root, "--remove", "--dry-run")
    assert [line for line in shown.stdout.splitlines() if "credentials" in line] == [
        "would remove /etc/atmo-farm/credentials"
    ]
    assert contents(root) == before


def test_an_application_with_problems_is_not_installed(tmp_path: Path, app: Path) -> None:
    """All of them, as `check` has them; nothing is written."""
    (app / "Directive.yaml").write_text((app / "Directive.yaml").read_text().replace("fn: hello", "fn: helo"))
    refused = run(tmp_path / "root", app)
    assert refused.exit_code == 1
    assert "helo" in refused.stderr
    assert not (tmp_path / "root").exists()


def test_what_the_service_will_not_see_is_said(tmp_path: Path, app: Path) -> None:
    """An application in /tmp, or in somebody's home, is not there for a service of the system."""
    shown = run(tmp_path / "root", app)
    assert f"warning: {app}: the service" in shown.stderr
    assert shown.exit_code == 0


def test_a_unit_of_a_user(tmp_path: Path, app: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the user's own folders; without systemctl it is written all the same, and said. systemd accepts the unit."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    shown = CliRunner().invoke(cli, ["install-service", str(app), "--user", "--name", "shop"])
    assert shown.exit_code == 0, shown.output
    assert "systemctl is not here" in shown.stderr
    assert shown.stdout.splitlines()[-2].endswith("systemctl --user enable --now atmo-farm@shop")
    unit = tmp_path / "home/.config/systemd/user/atmo-farm@.service"
    assert (tmp_path / "home/.config/atmo-farm/shop/environment").is_file()
    monkeypatch.undo()
    verified = subprocess.run(
        ["systemd-analyze", "verify", "--user", str(unit)],
        capture_output=True,
        text=True,
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
        check=False,
    )
    assert (verified.returncode, verified.stderr) == (0, "")


@pytest.mark.parametrize(
    ("systemctl", "why"),
    [
        (
            "echo 'Failed to connect to bus: No medium found' >&2; exit 1",
            "does not tell whether atmo-farm@shop runs",
        ),
        ("echo deactivating; exit 3", "is deactivating; first: systemctl --user disable --now"),
        ("echo inactive; exit 3", ""),
    ],
)
def test_a_manager_that_does_not_tell(
    tmp_path: Path, app: Path, monkeypatch: pytest.MonkeyPatch, systemctl: str, why: str
) -> None:
    """Is no word that the service is not in use: nothing is taken away."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("atmo_farm.tools.service.manager.BOOTED", tmp_path)
    (tmp_path / "systemctl").write_text(f"#!/bin/sh\n{systemctl}\n")
    (tmp_path / "systemctl").chmod(0o755)
    service = ["install-service", "--user", "--name", "shop"]
    assert CliRunner().invoke(cli, [*service, str(app)]).exit_code == 0
    unit = tmp_path / "home/.config/systemd/user/atmo-farm@.service"
    removed = CliRunner().invoke(cli, [*service, "--remove"])
    assert (removed.exit_code, unit.exists()) == ((3, True) if why else (0, False)), removed.output
    assert why in removed.stderr


def test_refusals(tmp_path: Path, app: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each says what to do."""
    for name in ("a/b", "main", "..", "credentials", "x" * 65):
        refused = run(tmp_path / "root", app, "--name", name)
        assert (refused.exit_code, "cannot name a service" in refused.stderr) == (2, True)
    assert "which APP?" in run(tmp_path / "root").stderr
    assert "--remove takes no APP" in run(tmp_path / "root", app, "--remove").stderr
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    refused = CliRunner().invoke(cli, ["install-service", str(app)])
    assert (refused.exit_code, "use sudo, or --user" in refused.stderr) == (3, True)
    monkeypatch.undo()
    (tmp_path / "file").touch()
    refused = run(tmp_path / "file/root", app)
    assert (refused.exit_code, "Not a directory" in refused.stderr) == (3, True)
    record = tmp_path / "root/etc/atmo-farm/installed.json"
    record.parent.mkdir(parents=True)
    record.write_text("{}")
    refused = run(tmp_path / "root", app)
    assert (refused.exit_code, "is not what install-service has written" in refused.stderr) == (3, True)
