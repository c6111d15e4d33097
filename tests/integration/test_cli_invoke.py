"""`atmo-farm invoke`, as processes on real modules: streams, exit codes, the request that a function sees."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.guests import ROOT, guest

DIRECTIVE = """\
identifier: com.example.invoke
appVersion: v1.2.0
atmoVersion: v0.4.7
connections: {nats: {serverAddress: "nats://127.0.0.1:1"}}
handlers:
  - {type: stream, source: nats, resource: loop, timeout: 300ms, steps: [{fn: looping}]}
  - {type: stream, source: nats, resource: hello, steps: [{fn: hello}]}
"""

C_GUESTS = (
    "failing",
    "filtering",
    "header-setting",
    "hello",
    "logging",
    "looping",
    "memory-eating",
    "request-reading",
    "state-using",
    "trapping",
    "upper-case",
)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder with a function of every kind."""
    folder = tmp_path_factory.mktemp("invoke")
    (folder / "Directive.yaml").write_text(DIRECTIVE)
    for name in C_GUESTS:
        add(folder, name, guest("c", name).wasm(), "")
    add(folder, "copy", guest("c-wasi", "stdin-to-stdout").wasm(), "interface: wasi-command\n")
    add(folder, "exiting", guest("c-wasi", "exiting").wasm(), "interface: wasi-command\n")
    add(folder, "printing", guest("c-wasi", "printing").wasm(), "namespace: io\n")
    add(folder, "wrong", guest("c-wasi", "exiting").wasm(), "")
    return folder


def add(folder: Path, name: str, wasm: bytes, more: str) -> None:
    (folder / name).mkdir()
    (folder / name / ".runnable.yaml").write_text(f"name: {name}\n{more}")
    (folder / name / f"{name}.wasm").write_bytes(wasm)


def invoke(
    folder: Path, function: str, *args: str, stdin: bytes = b"", **environ: str
) -> subprocess.CompletedProcess[bytes]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ATMO_")}
    return subprocess.run(
        [sys.executable, "-m", "atmo_farm", "invoke", str(folder), function, *args],
        env={**inherited, "PYTHONPATH": str(ROOT), **environ},
        input=stdin,
        capture_output=True,
        timeout=60,
        check=False,
    )


def failure(done: subprocess.CompletedProcess[bytes]) -> dict[str, object]:
    """The JSON of a run that failed; nothing stands on standard output."""
    assert done.stdout == b""
    found = json.loads(done.stderr.splitlines()[-1])
    assert isinstance(found, dict)
    return found


def test_output_is_the_bytes_and_nothing_else(project: Path) -> None:
    """No newline is added in a pipe; nothing on standard error."""
    done = invoke(project, "hello", "--input", "Ada")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"hello, Ada", b"")


def test_a_newline_ends_the_output_on_a_terminal(project: Path) -> None:
    """So that the shell's prompt stands on a line of its own."""
    master, slave = pty.openpty()
    command = [sys.executable, "-m", "atmo_farm", "invoke", str(project), "hello", "--input", "Ada"]
    subprocess.run(command, stdout=slave, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60, check=True)
    os.close(slave)
    assert os.read(master, 100) == b"hello, Ada\r\n"
    os.close(master)


def test_input_of_every_kind(project: Path, tmp_path: Path) -> None:
    """A text, a file, standard input, none; bytes stay bytes."""
    data = bytes(range(256)) * 300
    (tmp_path / "data").write_bytes(data)
    assert invoke(project, "filtering", "--input", f"@{tmp_path}/data").stdout == data
    assert invoke(project, "filtering", "--input", "-", stdin=data).stdout == data
    assert invoke(project, "copy", "--input", "-", stdin=data).stdout == data
    assert invoke(project, "hello").stdout == b"hello, "
    assert invoke(project, "hello", "--input", "ä€").stdout == "hello, ä€".encode()
    missing = invoke(project, "hello", "--input", "@/nonexistent")
    assert (missing.returncode, missing.stdout) == (2, b"")
    assert b"'--input': /nonexistent: No such file or directory" in missing.stderr


def test_a_run_without_a_result(project: Path) -> None:
    """A filter that drops: no output, no error."""
    done = invoke(project, "filtering", "--input", "drop this")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_the_request(project: Path) -> None:
    """Method, URL with query, headers in any case, parameters and state, cut at the first separator."""
    names = "header:X-One header:x-TWO params:name state:user query:page query:none body:k meta:method"
    done = invoke(
        project,
        "request-reading",
        *("--input", names, "--method", "POST", "--url", "/users/7?page=3&x=1"),
        *("--header", "X-One: a:b", "--header", "x-two:2", "--param", "name=a=b", "--state", 'user={"id":7}'),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["method"], found["url"]) == ("POST", "/users/7?page=3&x=1")
    assert len(found["id"]) == 36
    assert found["fields"] == {
        "header:X-One": "a:b",
        "header:x-TWO": "2",
        "params:name": "a=b",
        "state:user": '{"id":7}',
        "query:page": "3",
        "query:none": "",
        "body:k": "",
        "meta:method": "POST",
    }


@pytest.mark.parametrize("args", [["--header", "no colon"], ["--param", "=x"], ["--state", "k"]])
def test_malformed_pairs_are_usage_errors(project: Path, args: list[str]) -> None:
    """Exit 2, and the form is named."""
    done = invoke(project, "hello", *args)
    assert done.returncode == 2
    assert b"is not of the form NAME" in done.stderr


def test_runnable_error(project: Path) -> None:
    """Exit 1, its code and message as JSON on standard error, nothing on standard output; the same with --json."""
    for more in ([], ["--json"]):
        done = invoke(project, "failing", "--input", "404 no such\nuser", *more)
        assert done.returncode == 1
        assert failure(done) == {"code": 404, "message": "no such\nuser"}


@pytest.mark.parametrize("kind", ["unreachable", "divide", "memory", "call"])
def test_trap(project: Path, kind: str) -> None:
    """Exit 1 with code 500, and no stack trace of ours."""
    done = invoke(project, "trapping", "--input", kind)
    assert done.returncode == 1
    assert failure(done)["code"] == 500
    assert b"Traceback" not in done.stderr


def test_memory_limit(project: Path) -> None:
    """The limit of the settings holds for a function that no handler calls."""
    done = invoke(project, "memory-eating", "--input", "64", ATMO_FARM_DEFAULTS_MEMORY_LIMIT="2MiB")
    assert done.returncode == 1
    assert failure(done)["code"] == 500


def test_timeout(project: Path) -> None:
    """Exit 5 at the deadline of the handler that calls it."""
    done = invoke(project, "looping")
    assert done.returncode == 5
    assert failure(done)["code"] == 504


def test_exit_status_of_a_command(project: Path) -> None:
    """A WASI program that exits with a status has failed; what it printed is there."""
    assert invoke(project, "exiting", "--input", "0").returncode == 0
    done = invoke(project, "exiting", "--input", "7")
    assert done.returncode == 1
    assert "7" in str(failure(done)["message"])
    assert b"asked to exit with 7" in done.stderr


def test_logs_go_to_standard_error(project: Path) -> None:
    """As lines with their level, escaped, marked as the guest's; the level of the settings holds."""
    done = invoke(project, "logging", "--input", "error bad \x1b[31m\ninfo fine\ndebug deep")
    assert (done.returncode, done.stdout) == (0, b"3")
    first, second = done.stderr.decode().splitlines()
    assert first.endswith(r"ERROR bad \x1b[31m guest=true")
    assert second.endswith("INFO  fine guest=true")
    done = invoke(project, "logging", "--input", "debug deep", ATMO_LOG_LEVEL="debug")
    assert b"DEBUG deep guest=true" in done.stderr
    done = invoke(project, "io::printing", "--input", "one\n!two")
    assert sorted(line.split()[-2] for line in done.stderr.decode().splitlines()) == ["one", "two"]


def test_json(project: Path) -> None:
    """Output, headers, state, logs and duration in one object; then nothing is on standard error."""
    done = invoke(project, "header-setting", "--json", "--input", "X-One: 1\nX-Two: 2")
    assert (done.returncode, done.stderr) == (0, b"")
    found = json.loads(done.stdout)
    assert 0 < found.pop("durationMs") < 10_000
    assert found == {
        "output": "2",
        "headers": {"X-One": "1", "X-Two": "2"},
        "state": {"header-setting": "2"},
        "logs": [],
    }
    found = json.loads(invoke(project, "state-using", "--json", "--input", "k=v", "--state", "old=1").stdout)
    assert found["state"] == {"old": "1", "k": "v", "state-using": "v"}
    found = json.loads(invoke(project, "logging", "--json", "--input", "warn careful\ndebug deep").stdout)
    assert found["logs"] == [{"level": "warn", "message": "careful"}, {"level": "debug", "message": "deep"}]
    found = json.loads(invoke(project, "filtering", "--json", "--input", "-", stdin=b"\xff\x00").stdout)
    assert found["outputBase64"] == "/wA="


def test_names(project: Path) -> None:
    """Name, namespace::name, and a whole FQFN; anything else is not found, with what was meant, exit 4."""
    for name in ("hello", "default::hello", "com.example.invoke#default::hello@v1.2.0", "hello@v1.2.0"):
        assert invoke(project, name).stdout == b"hello, "
    for name in ("helo", "other::hello", "com.example.other#default::hello@v1.2.0", "hello@v9.9.9"):
        done = invoke(project, name)
        assert (done.returncode, done.stdout) == (4, b"")
        assert f"Error: com.example.invoke has no function '{name}'" in done.stderr.decode()
    assert b"did you mean `hello`?" in invoke(project, "helo").stderr


def test_module_that_is_no_guest(project: Path) -> None:
    """A problem of the user's files: place, what is missing, exit 1."""
    done = invoke(project, "wrong")
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"wrong/.runnable.yaml:1:1: default::wrong: does not export `allocate" in done.stderr


def test_broken_application(tmp_path: Path) -> None:
    """All problems of the files, exit 1."""
    (tmp_path / "Directive.yaml").write_text("identifier: x\nzzz: 1\n")
    done = invoke(tmp_path, "hello")
    assert done.returncode == 1
    assert b"Directive.yaml:2:1: zzz: " in done.stderr


def test_nothing_is_left_behind(project: Path, tmp_path: Path) -> None:
    """Neither a cache nor a state folder: invoke is no farm."""
    done = invoke(project, "hello", HOME=str(tmp_path), TMPDIR=str(tmp_path), XDG_RUNTIME_DIR=str(tmp_path))
    assert done.returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_every_language(tmp_path: Path) -> None:
    """The same function built by different compilers gives the same answer."""
    (tmp_path / "Directive.yaml").write_text(DIRECTIVE.split("handlers")[0])
    for language in ("c", "rust", "rust-suborbital", "assemblyscript"):
        add(tmp_path, f"hello-{language}", guest(language, "hello").wasm(), "")
    for language in ("c", "rust", "rust-suborbital", "assemblyscript"):
        assert invoke(tmp_path, f"hello-{language}", "--input", "Ada").stdout == b"hello, Ada"
