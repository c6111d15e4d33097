"""`atmo-farm check`, `build` and `schema`, as processes on real project folders."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.guests import ROOT, guest

DIRECTIVE = """\
identifier: com.example.check
appVersion: v1.0.0
atmoVersion: v0.4.7
connections:
  nats:
    serverAddress: env(CHECK_NATS_URL)
handlers:
  - type: stream
    source: nats
    resource: greet
    steps:
      - fn: hello
"""


def atmo_farm(*args: str, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("ATMO_", "CHECK_"))}
    return subprocess.run(
        [sys.executable, "-m", "atmo_farm", *args],
        cwd=cwd,
        env={**inherited, "PYTHONPATH": str(ROOT), **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """An application of one handler and one function."""
    folder = tmp_path / "project"
    (folder / "hello").mkdir(parents=True)
    (folder / "Directive.yaml").write_text(DIRECTIVE)
    (folder / "hello" / ".runnable.yaml").write_text("name: hello\nlang: c\n")
    (folder / "hello" / "hello.wasm").write_bytes(guest("c", "hello").wasm())
    return folder


def test_good_application(project: Path) -> None:
    """Exit 0 and a line that counts; in its own folder it needs no name."""
    done = atmo_farm("check", cwd=project, CHECK_NATS_URL="nats://h:4222")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "ok: com.example.check v1.0.0: 1 handler, 1 function"
    assert "warning" not in done.stdout


def test_differences_from_atmo_are_notes(project: Path) -> None:
    """One line for each that touches the Directive, after the problems; they change no exit code and no count."""
    done = atmo_farm("check", cwd=project)
    assert done.returncode == 0
    warning, *notes, summary = done.stdout.splitlines()
    assert ": warning: " in warning
    assert len(notes) == 3
    assert all(note.startswith(f"{project}/Directive.yaml:8:5: note: handlers[0]: ") for note in notes)
    assert "Grav envelope" in notes[0]
    assert summary.endswith("1 handler, 1 function, 1 warning")
    (project / "Directive.yaml").write_text(DIRECTIVE.replace("v1.0.0", "one"))
    done = atmo_farm("check", cwd=project, CHECK_NATS_URL="h")
    assert (done.returncode, "note:" in done.stdout) == (1, False)


def test_unset_variable_is_a_warning(project: Path) -> None:
    """It may be set where the farm runs; an env file sets it here."""
    done = atmo_farm("check", str(project), cwd=Path("/"))
    assert done.returncode == 0
    warning, *_, summary = done.stdout.splitlines()
    place = f"{project}/Directive.yaml:6:5: warning: connections.nats.serverAddress: "
    assert warning == f"{place}the environment variable CHECK_NATS_URL is not set"
    assert summary.endswith("1 handler, 1 function, 1 warning")
    (project / "check.env").write_text("export CHECK_NATS_URL='h:4222'\n")
    done = atmo_farm("check", "--env-file", "check.env", cwd=project)
    assert "warning" not in done.stdout


def test_every_problem_at_once(project: Path) -> None:
    """Each with its place; exit 1; nothing on standard error."""
    text = DIRECTIVE.replace("v1.0.0", "one").replace("fn: hello", "fn: helo").replace("source: nats", "sorce: nats")
    (project / "Directive.yaml").write_text(text)
    done = atmo_farm("check", cwd=project)
    assert (done.returncode, done.stderr) == (1, "")
    *problems, summary = done.stdout.splitlines()
    assert any(":2:1: appVersion: " in line for line in problems)
    assert any(":9:5: handlers[0].sorce: " in line and "source" in line for line in problems)
    assert any(":12:13: " in line and "hello" in line for line in problems)
    assert any(":6:5: warning: " in line and "CHECK_NATS_URL" in line for line in problems)
    assert summary == "3 problems, 1 warning"


def test_modules_of_a_wrong_directive_are_checked_too(project: Path) -> None:
    """A mistake in one file hides none in another: the module is missing, or is none."""
    (project / "Directive.yaml").write_text(DIRECTIVE.replace("v1.0.0", "one"))
    (project / "hello" / "hello.wasm").write_bytes(b"no wasm")
    done = atmo_farm("check", cwd=project, CHECK_NATS_URL="h")
    assert done.returncode == 1
    version, module, summary = done.stdout.splitlines()
    assert "Directive.yaml:2:1: appVersion: " in version
    assert "hello/.runnable.yaml:1:1: default::hello: " in module
    assert summary == "2 problems"
    (project / "hello" / "hello.wasm").unlink()
    version, module, summary = atmo_farm("check", cwd=project, CHECK_NATS_URL="h").stdout.splitlines()
    assert "hello/.runnable.yaml:1:1: name: its module" in module
    (project / "Directive.yaml").write_text("[")
    broken, module, summary = atmo_farm("check", cwd=project).stdout.splitlines()
    assert "is not YAML" in broken
    assert "its module" in module


def test_module_problems_and_what_is_not_served(project: Path) -> None:
    """A module that is no guest is a problem at its .runnable.yaml; what only start refuses is a warning."""
    (project / "hello" / "hello.wasm").write_bytes(guest("c-wasi", "stdin-to-stdout").wasm())
    with (project / "Directive.yaml").open("a") as directive:
        directive.write("headless: true\n")
    done = atmo_farm("check", cwd=project, CHECK_NATS_URL="h")
    assert done.returncode == 1
    warning, problem, summary = done.stdout.splitlines()
    assert "Directive.yaml:13:1: warning: headless: " in warning
    assert "hello/.runnable.yaml:1:1: default::hello: does not export `allocate" in problem
    assert summary == "1 problem, 1 warning"
    (project / "hello" / ".runnable.yaml").write_text("name: hello\ninterface: wasi-command\n")
    assert atmo_farm("check", cwd=project, CHECK_NATS_URL="h").returncode == 0


def test_too_many_instances_are_a_warning(project: Path) -> None:
    """A handler that may use up the process's memory mappings is named before it does."""
    with (project / "Directive.yaml").open("a") as directive:
        directive.write("    maxInFlight: 60000\n")
    done = atmo_farm("check", cwd=project, CHECK_NATS_URL="h")
    assert done.returncode == 0
    assert "its 60,000 Wasm instances need 480,000 memory mappings" in done.stdout
    assert "vm.max_map_count" in done.stdout


def test_json(project: Path) -> None:
    """The same for programs: place, key, severity and message apart."""
    done = atmo_farm("check", "--json", cwd=project)
    found = json.loads(done.stdout)
    notes = found.pop("notes")
    assert {(note["line"], note["key"]) for note in notes} == {(8, "handlers[0]")}
    assert set(notes[0]) == {"file", "line", "column", "key", "message"}
    assert found.pop("problems") == [
        {
            "file": f"{project}/Directive.yaml",
            "line": 6,
            "column": 5,
            "key": "connections.nats.serverAddress",
            "severity": "warning",
            "message": "the environment variable CHECK_NATS_URL is not set",
        }
    ]
    assert found == {"ok": True, "app": str(project), "identifier": "com.example.check", "appVersion": "v1.0.0"}
    done = atmo_farm("check", "nowhere", "--json", cwd=project)
    assert done.returncode == 1
    assert json.loads(done.stdout)["ok"] is False
    assert json.loads(done.stdout)["identifier"] is None


def test_which_application(project: Path, tmp_path: Path) -> None:
    """Named, else ATMO_BUNDLE_PATH, else the bundle here, else this folder."""
    other = tmp_path / "other"
    shutil.copytree(project, other)
    directive = (other / "Directive.yaml").read_text().replace("com.example.check", "com.example.other")
    (other / "Directive.yaml").write_text(directive)
    assert "com.example.other" in atmo_farm("check", cwd=project, ATMO_BUNDLE_PATH=str(other)).stdout
    assert "com.example.check" in atmo_farm("check", ".", cwd=project, ATMO_BUNDLE_PATH=str(other)).stdout
    assert atmo_farm("build", str(other), cwd=project).returncode == 0
    assert "com.example.other" in atmo_farm("check", cwd=project).stdout


def test_build(project: Path, tmp_path: Path) -> None:
    """A bundle with the names that Atmo expects, that check accepts; the same bytes each time."""
    done = atmo_farm("build", cwd=project, CHECK_NATS_URL="h")
    bundle = project / "runnables.wasm.zip"
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"runnables.wasm.zip: 1 function, {bundle.stat().st_size:,} bytes\n"
    assert zipfile.ZipFile(bundle).namelist() == ["Directive.yaml", "hello.wasm"]
    assert atmo_farm("check", str(bundle), cwd=tmp_path).returncode == 0
    again = tmp_path / "again.zip"
    assert atmo_farm("build", str(project), "-o", str(again), cwd=tmp_path).returncode == 0
    assert again.read_bytes() == bundle.read_bytes()


def test_build_of_a_broken_project_writes_nothing(project: Path) -> None:
    """Problems on standard error, exit 1, an older bundle stays."""
    (project / "runnables.wasm.zip").write_text("old")
    (project / "hello" / "hello.wasm").write_bytes(b"no wasm")
    done = atmo_farm("build", cwd=project)
    assert (done.returncode, done.stdout) == (1, "")
    assert "hello" in done.stderr
    assert (project / "runnables.wasm.zip").read_text() == "old"


def test_build_into_nowhere(project: Path) -> None:
    """One line, exit 3."""
    done = atmo_farm("build", "-o", "no/folder/b.zip", cwd=project, CHECK_NATS_URL="h")
    assert done.returncode == 3
    assert "Error: the bundle no/folder/b.zip cannot be written: No such file or directory; name another" in done.stderr


def test_schema(tmp_path: Path) -> None:
    """JSON, and nothing else, on standard output."""
    done = atmo_farm("schema", cwd=tmp_path)
    assert done.returncode == 0
    assert "handlers" in json.loads(done.stdout)["properties"]


def test_reader_that_has_gone(project: Path) -> None:
    """`atmo-farm schema | head -1`: no message, the exit code of a broken pipe."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "atmo_farm", "schema"], stdout=writer, stderr=subprocess.PIPE, timeout=60, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("args", [["--help"], ["version"]])
def test_light_commands_import_nothing_heavy(args: list[str], tmp_path: Path) -> None:
    """Help and version answer at once: no Wasm runtime, broker client or event loop is imported for them."""
    code = (
        "import sys, atexit\n"
        "from atmo_farm.cli import main\n"
        "atexit.register(lambda: print([m for m in ('wasmtime', 'nats', 'uvloop', 'asyncio') if m in sys.modules]))\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
