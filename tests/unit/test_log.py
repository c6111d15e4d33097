"""Log lines: their forms, what is kept out of them, and that writing them never waits."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import pty
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from atmo_farm import clock, log
from atmo_farm.errors import CannotStart
from atmo_farm.log import targets
from atmo_farm.log.targets import JournalTarget, StreamTarget, is_journal

logger = logging.getLogger("atmo_farm.test")
FIELDS = {"app": "shop", "generation": 2, "process": "consumer users-get/0"}


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root, farm = logging.getLogger(), logging.getLogger("atmo_farm")
    before = root.handlers[:], root.level, farm.level
    yield
    root.handlers[:], root.level, farm.level = before
    log._handler.fields, log._handler.dropped, log._handler._unreported = {}, 0, 0


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "farm.log"


def lines(file: Path) -> list[str]:
    return file.read_text().splitlines()


def test_json_line(file: Path) -> None:
    """Who and when first, then the message and its fields; what is empty is left out."""
    log.configure("info", "json", file, FIELDS)
    log.event(
        logger, logging.WARNING, "message failed", handler="users-get", message_id="m1", guest=True, cause="", n=1.5
    )
    (line,) = [json.loads(line) for line in lines(file)]
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert list(line.items()) == [
        ("level", "warn"),
        ("app", "shop"),
        ("generation", 2),
        ("process", "consumer users-get/0"),
        ("message", "message failed"),
        ("handler", "users-get"),
        ("message_id", "m1"),
        ("guest", True),
        ("n", 1.5),
    ]


def test_text_line(file: Path) -> None:
    """One line that people read; values with blanks, quotes or nothing visible in them are quoted."""
    log.configure("info", "text", file, FIELDS)
    log.event(logger, logging.INFO, "100 % done", handler="h", reason='say "no"', guest=False)
    (line,) = lines(file)
    assert line[25:] == r'INFO  [shop#2 consumer users-get/0] 100 % done handler=h reason="say \"no\"" guest=false'


def test_own_names_for_fixed_keys(file: Path) -> None:
    """A field cannot replace the line's time, level or message."""
    log.configure("info", "json", file)
    log.event(logger, logging.INFO, "m", time="never", level="none", message="other")
    (line,) = [json.loads(line) for line in lines(file)]
    assert (line["level"], line["message"], line["field_message"]) == ("info", "m", "other")


@pytest.mark.parametrize("form", ["text", "json"])
def test_foreign_text_stays_on_its_line(file: Path, form: str) -> None:
    """Line ends, escape sequences, C1 controls, direction marks and lone surrogates are escaped everywhere."""
    log.configure("info", form, file, FIELDS)
    hostile = "a\nb\r\x1b[31mred\x9b2J\x00\u2028\u202e\x7f\ud800 é"
    log.event(logger, logging.ERROR, hostile, reason=hostile, guest=True)
    content = file.read_bytes()
    assert content.count(b"\n") == 1
    text = content.decode()
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u202e\ud800]", text)
    assert "é" in text
    if form == "json":
        assert json.loads(text)["message"] == json.loads(text)["reason"] == hostile
    else:
        assert r"a\nb\r\x1b[31mred\x9b2J\x00\u2028\u202e\x7f\ud800 é" in text


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize("text", ["x" * 5000, "\x1b" * 5000, "é" * 100_000, '"\\' * 4000])
def test_long_lines_are_cut(file: Path, form: str, text: str) -> None:
    """A line has 4,096 bytes at most, is whole UTF-8 (and JSON), says that it was cut, and keeps who wrote it."""
    log.configure("info", form, file, FIELDS)
    log.event(logger, logging.INFO, text, handler="users-get", reason=text)
    content = file.read_bytes()
    assert len(content) <= 4096
    assert content.count(b"\n") == 1
    assert "…[cut]" in content.decode()
    assert "handler" in content.decode()
    if form == "json":
        line = json.loads(content)
        assert (line["handler"], line["process"]) == ("users-get", "consumer users-get/0")


def test_hundreds_of_fields(file: Path) -> None:
    """Even names alone may be too much: then who wrote it and the message stay."""
    log.configure("info", "json", file, FIELDS)
    log.event(logger, logging.INFO, "many", **{f"field{number}": "v" * 20 for number in range(500)})
    line = json.loads(file.read_bytes())
    assert (line["message"], line["app"]) == ("many", "shop")


def test_levels(file: Path) -> None:
    """The level holds for the farm and can change; libraries give warnings only, until trace."""
    log.configure("info", "json", file)
    for name in ("atmo_farm.x", "nats.x"):
        for level in (log.TRACE, logging.DEBUG, logging.INFO, logging.WARNING):
            log.event(logging.getLogger(name), level, "m")
    assert [(json.loads(line)["level"], json.loads(line).get("logger")) for line in lines(file)] == [
        ("info", None),
        ("warn", None),
        ("warn", "nats.x"),
    ]
    log.set_level("trace")
    log.event(logger, log.TRACE, "low")
    assert json.loads(lines(file)[-1])["level"] == "trace"


def test_bind(file: Path) -> None:
    """A forked child says who it is; the other fields stay."""
    log.configure("info", "json", file, FIELDS)
    log.bind(process="consumer a/1", generation=3)
    log.event(logger, logging.INFO, "m")
    line = json.loads(file.read_text())
    assert (line["app"], line["generation"], line["process"]) == ("shop", 3, "consumer a/1")


def test_secrets_are_replaced(file: Path) -> None:
    """In messages, fields, numbers and traces, also where the cut would fall into one, and line by line."""
    key = "-----BEGIN-----\nMIIabc\n-----END-----"
    log.configure("info", "json", file, {"app": "s3cret"}, secrets=["s3cret", "s3cret-longer", "12345", key, "abc"])
    log.event(
        logger, logging.INFO, "x" * 4090 + "s3cret-longer" * 500, key=key, line="a MIIabc", port=123456, short="abc"
    )
    try:
        raise ValueError("no s3cret here")
    except ValueError as error:
        log.event(logger, logging.ERROR, "failed", exc_info=error)
    text = file.read_text()
    for secret in ("s3c", "12345", "MII", "BEGIN"):
        assert secret not in text
    first, second = [json.loads(line) for line in lines(file)]
    assert (first["app"], first["key"], first["port"]) == ("[redacted]", "[redacted]", "[redacted]6")
    assert first["short"] == "abc", "three characters are no secret"
    assert "no [redacted] here" in second["exception"]
    assert "Traceback" in second["exception"]


def test_secrets_that_change(file: Path) -> None:
    """A reload replaces what is kept out, and a fork's children keep out the same."""
    log.configure("info", "json", file, secrets=["first-secret"])
    log.redact(["second-secret"])
    log.event(logger, logging.INFO, "second-secret")
    assert json.loads(file.read_text())["message"] == "[redacted]"


def test_library_records(file: Path) -> None:
    """Records that did not come through `event` are lines too, arguments filled in, and a broken one is a lost line."""
    log.configure("info", "json", file)
    logging.getLogger("nats").warning("%s of %d", "one", 2)
    logging.getLogger("nats").warning("%d", "no number")
    assert [json.loads(line)["message"] for line in lines(file)] == ["one of 2"]
    assert log.dropped() == 1


def test_numbers_that_json_does_not_know(file: Path) -> None:
    """The line stays JSON."""
    log.configure("info", "json", file)
    log.event(logger, logging.INFO, "m", value=float("nan"))
    assert json.loads(file.read_text(), parse_constant=pytest.fail)["value"] == "nan"


def test_file_is_private_and_reopened(file: Path) -> None:
    """0600, appended to; after a rotation `reopen` makes the new file, and on failure the old one goes on."""
    file.write_text("before\n")
    file.unlink()
    log.configure("info", "text", file)
    log.event(logger, logging.INFO, "one")
    assert file.stat().st_mode & 0o777 == 0o600
    moved = file.rename(file.with_suffix(".1"))
    log.event(logger, logging.INFO, "two")
    log.reopen()
    log.event(logger, logging.INFO, "three")
    assert [line.split()[-1] for line in lines(moved)] == ["one", "two"]
    assert [line.split()[-1] for line in lines(file)] == ["three"]
    file.unlink()
    file.mkdir()
    log.reopen()
    file.rmdir()
    log.reopen()
    log.event(logger, logging.INFO, "four")
    assert [line.split()[-1] for line in lines(file)] == ["four"]


def test_file_that_cannot_be_opened(tmp_path: Path) -> None:
    """The farm does not start without the log that it was told to write."""
    with pytest.raises(CannotStart, match=r"the log file .* cannot be opened: No such file or directory; name another"):
        log.configure(file=tmp_path / "no" / "farm.log")


def test_full_disk_loses_lines_and_says_so(tmp_path: Path) -> None:
    """A target that refuses costs lines, never an error; the count is in the first line after."""
    full = tmp_path / "full"
    full.symlink_to("/dev/full")
    log.configure("info", "json", full)
    for _ in range(3):
        log.event(logger, logging.INFO, "lost")
    assert log.dropped() == 3
    full.unlink()
    log.reopen()
    log.event(logger, logging.INFO, "found")
    first, second = [json.loads(line) for line in lines(full)]
    assert (first["level"], first["lines_dropped"], second["message"]) == ("warn", 3, "found")
    log.event(logger, logging.INFO, "more")
    assert len(lines(full)) == 3, "said once"
    assert log.dropped() == 3


def test_reader_that_stopped_costs_no_time() -> None:
    """A full pipe refuses lines at once and what is in it stays whole; the write end's flags stay the shell's."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    target = StreamTarget(writer)
    assert target.write(b"x" * 3999 + b"\n")
    started = clock.monotonic()
    assert not any(target.write(b"y" * 3999 + b"\n") for _ in range(100))
    assert clock.monotonic() - started < 0.5
    assert os.get_blocking(writer), "what others share is left as it was"
    assert os.read(reader, 8192) == b"x" * 3999 + b"\n"
    assert target.write(b"z\n")
    os.close(reader)
    assert not target.write(b"z\n"), "a reader that is gone is no error either"
    target.close()
    os.close(writer)


def test_socket_that_is_not_read() -> None:
    """Standard error may be a socket (journald, a supervisor): the same, and a torn line is ended before the next."""
    ours, theirs = socket.socketpair()
    target = StreamTarget(ours.fileno())
    while target.write(b"x" * 4000 + b"\n"):
        pass
    theirs.settimeout(5)
    received = b""
    while not target.write(b"end\n"):
        received += theirs.recv(65536)
    target.close()
    ours.close()
    while data := theirs.recv(65536):
        received += data
    parts = received.split(b"\n")
    assert parts[-2:] == [b"end", b""]
    assert all(part == b"x" * 4000 for part in parts[:-3])
    theirs.close()


def test_journal_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One datagram with the native protocol's fields; nobody there, or nobody reading, loses the line."""
    path = str(tmp_path / "journal")
    target = JournalTarget(path)
    assert not target.write(b"MESSAGE=x\n")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(path)
        monkeypatch.setattr(targets, "JOURNAL_SOCKET", path)
        log.configure("info", "auto", None, FIELDS, environ={"JOURNAL_STREAM": _stream(2)})
        log.event(logger, logging.ERROR, "two\nlines", handler="h", reason="x" * 5000)
        entry = journal.recv(65536)
        assert len(entry) <= 4096
        fields = dict(line.split("=", 1) for line in entry.decode().splitlines())
        assert fields.pop("MESSAGE").startswith(r"[shop#2 consumer users-get/0] two\nlines handler=h reason=xxx")
        assert fields == {
            "PRIORITY": "3",
            "SYSLOG_IDENTIFIER": "atmo-farm",
            "ATMO_APP": "shop",
            "ATMO_GENERATION": "2",
            "ATMO_PROCESS": "consumer users-get/0",
            "ATMO_HANDLER": "h",
        }
        while target.write(b"MESSAGE=x\n"):
            pass


def _stream(descriptor: int) -> str:
    """What JOURNAL_STREAM says when this descriptor leads to the journal."""
    found = os.fstat(descriptor)
    return f"{found.st_dev}:{found.st_ino}"


def test_journal_is_recognised_by_its_descriptor(tmp_path: Path) -> None:
    """A JOURNAL_STREAM that was inherited past a redirection is not believed."""
    with (tmp_path / "f").open("w") as file:
        assert is_journal(file.fileno(), {"JOURNAL_STREAM": _stream(file.fileno())})
        assert not is_journal(file.fileno(), {"JOURNAL_STREAM": "1:2"})
        assert not is_journal(file.fileno(), {})


PREFIXES = """
import logging
from atmo_farm import log
from atmo_farm.log import targets
targets.JOURNAL_SOCKET = "/nobody/listens"
log.configure(level="debug", fields={"app": "shop"})
for level in (logging.ERROR, logging.WARNING, logging.INFO, logging.DEBUG):
    log.event(logging.getLogger("atmo_farm.x"), level, "two\\nlines", n=1)
print(log.prefixed("two\\nlines", "warn"))
"""


def test_priorities_stand_before_lines_for_a_journal_without_its_socket() -> None:
    """Where standard error is all that leads to the journal, it learns the level from there."""
    theirs, ours = os.pipe()
    with os.fdopen(theirs) as reader:
        environ = {**os.environ, "JOURNAL_STREAM": _stream(ours)}
        command = [sys.executable, "-c", PREFIXES]
        done = subprocess.run(command, env=environ, stderr=ours, stdout=subprocess.PIPE, text=True, check=True)
        os.close(ours)
        assert reader.read().splitlines() == [f"<{number}>[shop] two\\nlines n=1" for number in (3, 4, 6, 7)]
    assert done.stdout == "<4>two\n<4>lines\n"


COUNT_IN_CHILD = """
import logging, os
from atmo_farm import log
log.configure("info", "json", None, {"process": "master"})
logger = logging.getLogger("atmo_farm.x")
logging.getLogger("nats").warning("%d", "lost")
if os.fork() == 0:
    log.bind(process="child")
    log.event(logger, logging.INFO, "m", dropped=log.dropped())
    os._exit(0)
os.wait()
log.event(logger, logging.INFO, "m", dropped=log.dropped())
"""


def run(code: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, env={**os.environ, **environ}, timeout=30
    )


def test_fork() -> None:
    """A child writes to the same target; its count of lost lines starts at zero."""
    done = run(COUNT_IN_CHILD)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stderr.splitlines()]
    assert [(line["process"], line.get("dropped", line.get("lines_dropped"))) for line in found] == [
        ("child", 0),
        ("master", 1),
        ("master", 1),
    ]


def test_closed_standard_error() -> None:
    """A daemon without descriptors logs into nothing."""
    code = "import os; os.close(2); from atmo_farm import log; import logging; log.configure()"
    assert run(code + "; log.event(logging.getLogger('atmo_farm'), 40, 'm'); assert log.dropped() == 1").returncode == 0


@pytest.mark.parametrize(
    ("environ", "coloured"), [({"TERM": "xterm"}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)]
)
def test_colour_only_on_a_terminal(environ: dict[str, str], coloured: bool) -> None:
    """auto is text on a terminal, in colour unless NO_COLOR or a dumb terminal say no; elsewhere it is JSON."""
    code = (
        "from atmo_farm import log; import logging; log.configure(); log.event(logging.getLogger('atmo_farm'), 40, 'm')"
    )
    assert json.loads(run(code).stderr)["level"] == "error"
    master, slave = pty.openpty()
    base = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "TERM")}
    subprocess.run([sys.executable, "-c", code], stderr=slave, env={**base, **environ}, timeout=30, check=True)
    shown = os.read(master, 4096).decode()
    os.close(master)
    os.close(slave)
    assert ("\x1b[31mERROR\x1b[0m" in shown) == coloured
    assert "ERROR" in shown


def test_rate_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A burst of 1,000 passes, then 100 a second; the rest is counted and told once."""
    now = 50.0
    monkeypatch.setattr(clock, "monotonic", lambda: now)
    limit = log.RateLimit()
    assert sum(limit.allow() for _ in range(1500)) == 1000
    assert limit.take_dropped() == 500
    assert limit.take_dropped() == 0
    now += 0.5
    assert sum(limit.allow() for _ in range(100)) == 50
    now += 3600
    assert sum(limit.allow() for _ in range(2000)) == 1000, "a long silence is no licence for more than the burst"
    assert (limit.take_dropped(), limit.dropped) == (1050, 1550)
