"""config, version, completion."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from atmo_farm import __version__
from atmo_farm.cli.app import cli
from atmo_farm.settings.keys import KEYS


@pytest.fixture(autouse=True)
def _no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    empty = tmp_path / "empty.yaml"
    empty.touch()
    monkeypatch.setenv("ATMO_FARM_CONFIG", str(empty))


def rows(*args: str) -> dict[str, list[str]]:
    """key → value and origin, as `config` prints them."""
    result = CliRunner().invoke(cli, ["config", *args])
    assert result.exit_code == 0, result.stderr
    return {line.split()[0]: line.split(None, 2)[1:] for line in result.stdout.splitlines()}


def test_config_shows_each_value_and_its_origin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """All four origins, values in the units that one would write."""
    file = tmp_path / "farm.yaml"
    file.write_text("defaults:\n  timeout: 1500ms\n  memoryLimit: 33554432\napp: {name: x}\n")
    (tmp_path / "e.env").write_text("ATMO_FARM_TIMEOUTS_DRAIN=60\nATMO_WAIT=true\n")
    monkeypatch.setenv("ATMO_LOG_LEVEL", "warn")
    monkeypatch.setenv("ATMO_WAIT", "false")
    monkeypatch.setenv("ATMO_TRACER_HONEYCOMB_APIKEY", "hunter2")
    shown = rows("--config", str(file), "--workers", "3", "--env-file", str(tmp_path / "e.env"))
    assert list(shown) == [key.path for key in KEYS]
    assert shown["defaults.workers"] == ["3", "flag --workers"]
    assert shown["log.level"] == ["warn", "env ATMO_LOG_LEVEL"]
    assert shown["defaults.timeout"] == ["1.5s", f"{file}:2"]
    assert shown["defaults.memoryLimit"] == ["32MiB", f"{file}:3"]
    assert shown["defaults.retry.initialDelay"] == ["200ms", "default"]
    assert shown["defaults.pool.max"] == ["-", "default"]
    assert shown["timeouts.drain"] == ["1m", "env ATMO_FARM_TIMEOUTS_DRAIN"]
    assert shown["app.wait"] == ["false", "env ATMO_WAIT"], "what is set already beats the env file"
    assert shown["tracer.honeycomb.apiKey"] == ["(hidden)", "env ATMO_TRACER_HONEYCOMB_APIKEY"]


def test_config_as_json() -> None:
    """Seconds, bytes, null."""
    result = CliRunner().invoke(cli, ["config", "--json", "--run-dir", "/run/x", "--require-connections"])
    shown = json.loads(result.stdout)
    assert shown["runDir"] == {"value": "/run/x", "origin": "flag --run-dir"}
    assert shown["requireConnections"] == {"value": True, "origin": "flag --require-connections"}
    assert shown["defaults.timeout"] == {"value": 30.0, "origin": "default"}
    assert shown["defaults.pool.max"] == {"value": None, "origin": "default"}


def test_problems_of_settings_end_in_exit_code_1(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """All of them on standard error; warnings go there too and stop nothing."""
    file = tmp_path / "farm.yaml"
    file.write_text("log: {levl: info}\n")
    monkeypatch.setenv("ATMO_HTTP_PORT", "many")
    result = CliRunner().invoke(cli, ["config", "--config", str(file), "--workers", "none"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.splitlines() == [
        f"{file}:1:7: log.levl: there is no such setting; did you mean 'level'?",
        "environment: ATMO_HTTP_PORT: 'many' is not a whole number from 0 to 65535",
        "command line: --workers: 'none' is not a whole number from 1 to 1024",
    ]
    monkeypatch.delenv("ATMO_HTTP_PORT")
    monkeypatch.setenv("ATMO_FARM_LOG_FROMAT", "json")
    result = CliRunner().invoke(cli, ["config"])
    assert result.exit_code == 0
    assert "warning: ATMO_FARM_LOG_FROMAT: is no setting of the farm" in result.stderr


def test_version() -> None:
    """The farm's and those of what it stands on."""
    lines = CliRunner().invoke(cli, ["version"]).stdout.splitlines()
    assert lines[0] == f"atmo-farm {__version__}"
    assert [line.split()[0] for line in lines[1:]] == ["Python", "wasmtime", "nats-py", "uvloop"]
    assert CliRunner().invoke(cli, ["--version"]).stdout == f"atmo-farm {__version__}\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script for each shell; what it asks the command answers with the verbs."""
    script = CliRunner().invoke(cli, ["completion", shell]).stdout
    assert f"_ATMO_FARM_COMPLETE={shell}_complete" in script
    environ = {"_ATMO_FARM_COMPLETE": f"{shell}_complete", "COMP_WORDS": "atmo-farm in", "COMP_CWORD": "1"}
    if shell == "fish":
        environ["COMP_CWORD"] = "in"
    result = CliRunner().invoke(cli, [], prog_name="atmo-farm", env=environ)
    assert "invoke" in result.stdout
    assert "start" not in result.stdout


def test_completion_of_another_shell() -> None:
    """Wrong usage."""
    assert CliRunner().invoke(cli, ["completion", "tcsh"]).exit_code == 2
