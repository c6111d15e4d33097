"""Settings: their four sources, their precedence, and what is said about wrong ones."""

from __future__ import annotations

import re
from pathlib import Path

import attrs
import pytest

from atmo_farm.errors import Position, UserFilesError
from atmo_farm.settings import HandlerDefaults, Loaded, Settings, load
from atmo_farm.settings.keys import KEYS

CONF = Path(__file__).parents[2] / "conf" / "atmo-farm.yaml"
NOWHERE = Path("/nonexistent/atmo-farm.yaml")


def load_file(path: Path, environ: dict[str, str] | None = None, **flags: str | None) -> Loaded:
    return load(environ or {}, {"--config": str(path), **flags}, NOWHERE)


def problems_of(path: Path, content: str, environ: dict[str, str] | None = None) -> list[str]:
    path.write_text(content)
    with pytest.raises(UserFilesError) as caught:
        load_file(path, environ)
    return [str(problem) for problem in caught.value.problems]


def origin(loaded: Loaded, path: str) -> str:
    return next(value.origin for value in loaded.values if value.key.path == path)


def test_nothing_set_is_the_defaults() -> None:
    """Without file, variables and flags every value is the model's default and says so."""
    loaded = load({}, {}, NOWHERE)
    assert loaded.settings == Settings()
    assert loaded.file is None
    assert {value.origin for value in loaded.values} == {"default"}


def test_every_field_has_a_key() -> None:
    """No field of the model is out of reach of the file, and no key leads nowhere."""
    fields = set()
    for field in attrs.fields(Settings):
        inner = getattr(Settings(), field.name)
        fields |= (
            {f"{field.name}.{f.name}" for f in attrs.fields(type(inner))} if attrs.has(type(inner)) else {field.name}
        )
    assert {key.field for key in KEYS} == fields
    assert len({key.environment for key in KEYS}) == len(KEYS)


def test_shipped_file_is_the_defaults() -> None:
    """conf/atmo-farm.yaml as it is changes nothing."""
    loaded = load_file(CONF)
    assert loaded.settings == Settings()
    assert loaded.file == CONF


def test_shipped_file_uncommented_is_the_defaults(tmp_path: Path) -> None:
    """The default that stands in each comment is the one in force, and every key is there with its variable."""
    content = CONF.read_text()
    live = re.sub(r"^( *)#(\w+: )", r"\1\2", content, flags=re.MULTILINE)
    file = tmp_path / "live.yaml"
    file.write_text(live)
    loaded = load_file(file)
    assert loaded.settings == Settings()
    nulls = {
        "runDir",
        "stateDir",
        "log.file",
        "monitor.address",
        "app.name",
        "app.bundlePath",
        "defaults.pool.max",
        "http.domain",
    }
    nulls |= {"defaults.pool.max", "http.domain", "dataSources.statementTimeout", "tracer.collector.endpoint"} | {
        f"tracer.honeycomb.{name}" for name in ("endpoint", "apiKey", "dataset")
    }
    assert {value.key.path for value in loaded.values if value.origin == "default"} == nulls
    for key in KEYS:
        assert f"#{key.path.split('.')[-1]}: " in content
        assert key.environment in content
        assert not key.flag or key.flag in content


def test_precedence(tmp_path: Path) -> None:
    """Flag beats environment beats file beats default, and each value says where it is from."""
    file = tmp_path / "farm.yaml"
    file.write_text("log:\n  level: error\ndefaults:\n  workers: 2\n  timeout: 250ms\nrunDir: here\n")
    loaded = load_file(file, {"ATMO_LOG_LEVEL": "warn", "ATMO_FARM_DEFAULTS_WORKERS": "3"}, **{"--log-level": "debug"})
    assert loaded.settings.log_level == "debug"
    assert loaded.settings.defaults == HandlerDefaults(workers=3, timeout_s=0.25)
    assert loaded.settings.run_dir == tmp_path / "here", "a relative path in the file starts from the file"
    assert origin(loaded, "log.level") == "flag --log-level"
    assert origin(loaded, "defaults.workers") == "env ATMO_FARM_DEFAULTS_WORKERS"
    assert origin(loaded, "defaults.timeout") == f"{file}:5"
    assert origin(loaded, "defaults.isolation") == "default"


def test_which_file(tmp_path: Path) -> None:
    """--config, else ATMO_FARM_CONFIG, else the system's file if it is there."""
    files = {}
    for name in ("flag", "env", "system"):
        files[name] = tmp_path / f"{name}.yaml"
        files[name].write_text("{}")
    environ = {"ATMO_FARM_CONFIG": str(files["env"])}
    assert load(environ, {"--config": str(files["flag"])}, files["system"]).file == files["flag"]
    assert load(environ, {"--config": None}, files["system"]).file == files["env"]
    assert load({}, {}, files["system"]).file == files["system"]


def test_empty_variable_is_unset() -> None:
    """Compose files set variables to nothing; that is no value."""
    assert load({"ATMO_HTTP_PORT": "", "ATMO_LOG_LEVEL": ""}, {}, NOWHERE).settings == Settings()


def test_atmos_variables() -> None:
    """Every variable of Atmo's own is read under its own name."""
    environ = {
        "ATMO_HTTP_PORT": "9090",
        "ATMO_TLS_PORT": "9443",
        "ATMO_DOMAIN": "example.com",
        "ATMO_HEADLESS": "true",
        "ATMO_WAIT": "1",
        "ATMO_RUN_SCHEDULES": "false",
        "ATMO_APP_NAME": "shop",
        "ATMO_BUNDLE_PATH": "/srv/shop.zip",
        "ATMO_LOG_LEVEL": "trace",
        "ATMO_LOG_FILE": "/var/log/shop.log",
        "ATMO_TRACER_TYPE": "honeycomb",
        "ATMO_TRACER_PROBABILITY": "0.25",
        "ATMO_TRACER_SERVICENAME": "shop",
        "ATMO_TRACER_COLLECTOR_ENDPOINT": "c:1",
        "ATMO_TRACER_HONEYCOMB_ENDPOINT": "h:1",
        "ATMO_TRACER_HONEYCOMB_APIKEY": "k3y",
        "ATMO_TRACER_HONEYCOMB_DATASET": "d",
    }
    loaded = load(environ, {}, NOWHERE)
    settings = loaded.settings
    assert (settings.http_port, settings.tls_port, settings.domain) == (9090, 9443, "example.com")
    assert (settings.headless, settings.wait, settings.run_schedules) == (True, True, False)
    assert (settings.app_name, settings.bundle_path) == ("shop", Path("/srv/shop.zip"))
    assert (settings.log_level, settings.log_file) == ("trace", Path("/var/log/shop.log"))
    tracer = settings.tracer
    assert (tracer.type, tracer.probability, tracer.service_name) == ("honeycomb", 0.25, "shop")
    assert (tracer.collector_endpoint, tracer.honeycomb_endpoint) == ("c:1", "h:1")
    assert (tracer.honeycomb_api_key, tracer.honeycomb_dataset) == ("k3y", "d")
    assert "k3y" not in repr(settings)
    assert loaded.warnings == ()


def test_unknown_variable_is_a_warning() -> None:
    """A misspelt ATMO_FARM_ variable is told, not ignored; what resembles no setting is somebody else's."""
    (warning,) = load({"ATMO_FARM_RUNDIR": "/x", "ATMO_FARM_CACHE": "/c", "ATMO_ELSE": "1"}, {}, NOWHERE).warnings
    assert str(warning) == (
        "environment: warning: ATMO_FARM_RUNDIR: is no setting of the farm; did you mean ATMO_FARM_RUN_DIR?"
    )


def test_all_problems_at_once_with_their_places(tmp_path: Path) -> None:
    """Unknown, repeated and misplaced keys are all named with line and column, and what was meant."""
    file = tmp_path / "f.yaml"
    assert problems_of(
        file,
        "log:\n  levl: info\n  level: info\n  level: warn\nrunDir: [a]\ndefaults: 3\nzzz: 1\n",
    ) == [
        f"{file}:2:3: log.levl: there is no such setting; did you mean 'level'?",
        f"{file}:4:3: log.level: stands twice; remove one of them",
        f"{file}:5:9: runDir: must be a single value",
        f"{file}:6:11: defaults: must hold keys and values",
        f"{file}:7:1: zzz: there is no such setting; there is app, dataSources, deadLetters, defaults, http, log, "
        "monitor, requireConnections, runDir, stateDir, timeouts, tracer",
    ]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("log: {level: loud}", "1:14: log.level: 'loud' is not one of trace, debug, info, warn, error"),
        ("defaults: {workers: 0}", "1:21: defaults.workers: '0' is not a whole number from 1 to 1024"),
        ("defaults: {timeout: 3x}", "1:21: defaults.timeout: '3x' is not a duration; write seconds, or a number with"),
        ("timeouts: {heartbeat: 1s}", "1:23: timeouts.heartbeat: 1s is not a duration from 2 to 86400 seconds"),
        ("defaults: {timeout: 0}", "1:21: defaults.timeout: 0 is not a duration from 0.001 to 86400 seconds"),
        ("defaults: {memoryLimit: 3MB}", "1:25: defaults.memoryLimit: '3MB' is not a size; write bytes, or a number"),
        ("defaults: {memoryLimit: 1}", "1:25: defaults.memoryLimit: 1 is not a size from 65536 to 4294967296 bytes"),
        ("defaults: {retry: {jitter: nan}}", "1:28: defaults.retry.jitter: 'nan' is not a number from 0 to 1"),
        ("app: {wait: maybe}", "1:13: app.wait: 'maybe' is not true or false"),
        ("- a", "1:1: must hold keys and values"),
        ("a: [", "1:5: is not valid YAML: "),
        ("a: \x01", "is not valid YAML: "),
        ("defaults: {pool: {warm: 5, max: 2}}", "defaults.pool.warm: defaults.pool.warm (5) is larger than"),
        ("defaults: {retry: {maxDelay: 1ms}}", "defaults.retry.maxDelay: defaults.retry.initialDelay (0.2) is larger"),
    ],
)
def test_wrong_values(tmp_path: Path, content: str, told: str) -> None:
    """Each says where, which key, and what is accepted."""
    (problem,) = problems_of(tmp_path / "f.yaml", content)
    assert told in problem


def test_file_and_environment_problems_together(tmp_path: Path) -> None:
    """One run names what is wrong in both; a secret value is not repeated."""
    told = problems_of(tmp_path / "f.yaml", "http: {port: x}", {"ATMO_WAIT": "x", "ATMO_TLS_PORT": "70000"})
    assert told == [
        "environment: ATMO_WAIT: 'x' is not true or false",
        f"{tmp_path}/f.yaml:1:14: http.port: 'x' is not a whole number from 0 to 65535",
        "environment: ATMO_TLS_PORT: '70000' is not a whole number from 0 to 65535",
    ]


def test_a_named_file_must_be_there(tmp_path: Path) -> None:
    """A missing --config is a problem; the system's file may be missing."""
    with pytest.raises(UserFilesError) as caught:
        load_file(tmp_path / "none.yaml")
    (problem,) = caught.value.problems
    assert problem.position == Position(str(tmp_path / "none.yaml"))
    assert problem.message == "cannot be read: No such file or directory"


def test_system_file_out_of_reach(tmp_path: Path) -> None:
    """The system's file is passed over only when it is not there, never because it cannot be looked at."""
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(UserFilesError, match=r"loop/farm\.yaml: cannot be read: Too many levels of symbolic links"):
        load({}, {}, loop / "farm.yaml")


@pytest.mark.parametrize("content", [b"\xff\xfe\xfa", b"a: " + b"[" * 5000, b" " * (1 << 20) + b"  a: 1"])
def test_hostile_file(tmp_path: Path, content: bytes) -> None:
    """Bytes that are no settings end in a problem, not in a stack trace."""
    file = tmp_path / "f.yaml"
    file.write_bytes(content)
    with pytest.raises(UserFilesError) as caught:
        load_file(file)
    assert len(caught.value.problems) == 1
