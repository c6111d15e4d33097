"""Archives that were made to do harm: refused within a second and 64 MiB, and nothing is written anywhere."""

from __future__ import annotations

import io
import os
import stat
import struct
import subprocess
import sys
import time
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atmo_farm.directive import load
from atmo_farm.errors import UserFilesError
from tests.unit.directive.support import HEAD

DIRECTIVE = HEAD + "runnables:\n- name: hello\n"


def archive(*more: tuple[str | zipfile.ZipInfo, bytes], directive: str = DIRECTIVE) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as written:
        written.writestr("Directive.yaml", directive)
        for name, data in (("hello.wasm", b"\0asm" * 10), *more):
            written.writestr(name, data)
    return buffer.getvalue()


def refused(tmp_path: Path, data: bytes) -> str:
    """What is said of the archive, after it was refused fast, small and without a trace on disk."""
    folder = tmp_path / "in"
    folder.mkdir(exist_ok=True)
    path = folder / "a.zip"
    path.write_bytes(data)
    before = sorted(tmp_path.rglob("*"))
    tracemalloc.start()
    start = time.process_time()
    try:
        with pytest.raises(UserFilesError) as error:
            load(path)
        seconds, (_, peak) = time.process_time() - start, tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert seconds < 1
    assert peak < 64 << 20
    assert sorted(tmp_path.rglob("*")) == before
    assert all(problem.position.file.startswith(str(path)) for problem in error.value.problems)
    return str(error.value)


def patched(data: bytes, mark: bytes, offset: int, value: bytes, entry: bytes = b"hello.wasm") -> bytes:
    """The archive with bytes changed in one entry's local (PK34) or central (PK12) header."""
    name_at = {b"PK\3\4": 30, b"PK\1\2": 46}[mark]
    at = data.index(mark)
    while data[at + name_at : at + name_at + len(entry)] != entry:
        at = data.index(mark, at + 1)
    return data[: at + offset] + value + data[at + offset + len(value) :]


LOCAL, CENTRAL = b"PK\3\4", b"PK\1\2"


@pytest.mark.parametrize(
    "name",
    [
        "../evil",
        "/etc/passwd",
        "static/../../evil",
        "a\\..\\b",
        "C:/x",
        "static//x",
        "./x",
        "static/./x",
        "a/../b",
        "..",
        "static/a\nb",
        "static/\x1b[31m",
    ],
)
def test_names_that_lead_out(tmp_path: Path, name: str) -> None:
    assert "would leave the folder" in refused(tmp_path, archive((name, b"x")))


def test_a_nul_in_a_name(tmp_path: Path) -> None:
    data = archive(("static/aXb", b"x")).replace(b"static/aXb", b"static/a\0b")
    assert "would leave the folder" in refused(tmp_path, data)


def test_a_name_in_no_encoding(tmp_path: Path) -> None:
    data = archive(("static/aXb", b"x")).replace(b"static/aXb", b"static/a\xffb")
    assert "not UTF-8" in refused(tmp_path, data)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_entries_that_are_there_twice(tmp_path: Path) -> None:
    assert "hello.wasm: is there twice" in refused(tmp_path, archive(("hello.wasm", b"other")))
    assert "is there twice" in refused(tmp_path, archive(("Directive.yaml", b"other")))


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK])
def test_links_and_devices(tmp_path: Path, kind: int) -> None:
    entry = zipfile.ZipInfo("static/link")
    entry.create_system = 3
    entry.external_attr = (kind | 0o777) << 16
    assert "is a link or a device" in refused(tmp_path, archive((entry, b"/etc/passwd")))


def test_bombs(tmp_path: Path) -> None:
    """Much that is packed small: one large file, many, or the Directive itself."""
    zeros = bytes(50 << 20)
    assert "zip bomb" in refused(tmp_path, archive(("static/zeros", zeros)))
    assert "larger than 64 MiB" in refused(tmp_path, archive(("static/zeros", bytes(65 << 20))))
    assert "Directive.yaml" in refused(tmp_path, archive(directive="#" * (5 << 20)))
    block = os.urandom(64 << 10) * 5
    message = refused(tmp_path, archive(*((f"static/{n}", block) for n in range(900))))
    assert "larger than 256 MiB unpacked" in message


def test_forged_sizes(tmp_path: Path) -> None:
    """What an entry says of itself and what it holds must agree, in both headers."""
    data = archive(("static/big", b"a" * 1000 + os.urandom(1000)))
    small = struct.pack("<L", 7)
    both = patched(patched(data, LOCAL, 22, small, b"static/big"), CENTRAL, 24, small, b"static/big")
    assert "static/big: holds more than it says" in refused(tmp_path, both)
    large = struct.pack("<L", 3000)
    both = patched(patched(data, LOCAL, 22, large, b"static/big"), CENTRAL, 24, large, b"static/big")
    assert "size or checksum" in refused(tmp_path, both)
    assert "disagrees with the directory" in refused(tmp_path, patched(data, LOCAL, 22, small, b"static/big"))
    assert "disagrees with the directory" in refused(tmp_path, patched(data, CENTRAL, 24, small, b"static/big"))
    huge = struct.pack("<L", 0xFFFFFFFE)
    assert "larger than 64 MiB" in refused(
        tmp_path, patched(patched(data, LOCAL, 22, huge, b"static/big"), CENTRAL, 24, huge, b"static/big")
    )


def test_other_disagreements(tmp_path: Path) -> None:
    """Name, checksum and method of the two headers; content that is not what the checksum says."""
    data = archive()
    assert "disagrees" in refused(tmp_path, patched(data, LOCAL, 30, b"jello.wasm"))
    assert "disagrees" in refused(tmp_path, patched(data, LOCAL, 14, b"\0\0\0\0"))
    assert "disagrees" in refused(tmp_path, patched(data, LOCAL, 8, b"\0\0"))
    crc = b"\1\2\3\4"
    assert "size or checksum" in refused(tmp_path, patched(patched(data, LOCAL, 14, crc), CENTRAL, 16, crc))
    assert "no header" in refused(tmp_path, patched(data, CENTRAL, 42, struct.pack("<L", len(data) - 1)))
    assert "disagrees" in refused(tmp_path, patched(data, CENTRAL, 42, struct.pack("<L", 1)))
    assert "method other than deflate" in refused(tmp_path, patched(data, CENTRAL, 10, struct.pack("<H", 12)))
    assert "is damaged" in refused(tmp_path, patched(data, LOCAL, 40, b"\xff\xff\xff"))


def test_encrypted_and_zip64(tmp_path: Path) -> None:
    data = archive()
    assert "is encrypted" in refused(tmp_path, patched(data, CENTRAL, 8, struct.pack("<H", 1)))
    assert "is encrypted" in refused(tmp_path, patched(data, CENTRAL, 8, struct.pack("<H", 0x41)))
    assert "zip64" in refused(tmp_path, patched(data, CENTRAL, 24, b"\xff\xff\xff\xff"))
    end = data.rindex(b"PK\5\6")
    assert "zip64" in refused(tmp_path, data[: end + 8] + b"\xff\xff\xff\xff" + data[end + 12 :])


def test_entries_that_overlap(tmp_path: Path) -> None:
    """One piece of data that several entries unpack, as in the densest bombs."""
    data = archive(("static/a", b"x" * 100), ("static/b", b"x" * 100))
    at = data.index(b"static/a") - 30
    moved = patched(data, CENTRAL, 42, struct.pack("<L", at), b"static/b").replace(b"static/b", b"static/a")
    assert "overlap" in refused(tmp_path, moved) or "there twice" in refused(tmp_path, moved)
    inside = archive(("static/a", b"PK\3\4" + b"x" * 5000))
    packed = struct.pack("<L", len(inside))
    assert "reaches into the directory" in refused(
        tmp_path, patched(patched(inside, CENTRAL, 20, packed, b"static/a"), LOCAL, 18, packed, b"static/a")
    )


def test_too_many_entries(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as written:
        for n in range(10_001):
            written.writestr(f"static/{n}", b"")
    assert "more than 10,000 entries" in refused(tmp_path, buffer.getvalue())


def test_directories_that_lie(tmp_path: Path) -> None:
    """Another count, another place, another size, a cut end, bytes around it, several volumes."""
    data = archive()
    end = data.rindex(b"PK\5\6")
    fewer = data[: end + 8] + struct.pack("<HH", 1, 1) + data[end + 12 :]
    assert "different number of entries" in refused(tmp_path, fewer)
    more = data[: end + 8] + struct.pack("<HH", 3, 3) + data[end + 12 :]
    assert "cut off" in refused(tmp_path, more)
    assert "not where it says" in refused(tmp_path, data[: end + 16] + b"\0\0\0\0" + data[end + 20 :])
    assert "not where it says" in refused(tmp_path, data[: end + 12] + b"\1\0\0\0" + data[end + 16 :])
    assert "end record is damaged" in refused(tmp_path, data + b"x")
    assert "not where it says" in refused(tmp_path, b"x" + data)
    assert "several volumes" in refused(tmp_path, data[: end + 4] + b"\1\0" + data[end + 6 :])
    assert "is not a zip archive" in refused(tmp_path, data[:end])
    assert "is not a zip archive" in refused(tmp_path, b"")


def test_a_yaml_bomb_inside(tmp_path: Path) -> None:
    lines = ["a0: &a0 lol"] + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    assert "more than" in refused(tmp_path, archive(directive="\n".join(lines)))
    assert "nested deeper" in refused(tmp_path, archive(directive="[" * 100_000))


def test_folders_with_content(tmp_path: Path) -> None:
    assert "is a folder with content" in refused(tmp_path, archive(("static/x/", b"data")))


def test_a_tool_that_streams_is_fine(tmp_path: Path) -> None:
    """Go's zip writer puts sizes and checksum behind the data; that is no disagreement."""

    class Pipe(io.RawIOBase):
        """A target that cannot seek."""

        def __init__(self) -> None:
            self.data = bytearray()

        def writable(self) -> bool:
            return True

        def write(self, data: object) -> int:
            self.data += bytes(data)  # type: ignore[call-overload]
            return len(bytes(data))  # type: ignore[call-overload]

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as written:  # type: ignore[call-overload]
        written.writestr("Directive.yaml", DIRECTIVE)
        written.writestr("hello.wasm", b"\0asm" * 1000)
    path = tmp_path / "a.zip"
    path.write_bytes(bytes(pipe.data))
    assert load(path).module("default::hello") == b"\0asm" * 1000


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_damage_is_a_problem_or_harmless(tmp_path: Path, data: st.DataObject) -> None:
    """Whatever bytes are changed or cut: an application or problems, never another exception."""
    whole = bytearray(archive(("static/a", b"x" * 50)))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(whole)) | st.just(len(whole)))
    path = tmp_path / "a.zip"
    path.write_bytes(bytes(whole[:cut]))
    try:
        application = load(path)
        application.module("default::hello")
    except UserFilesError as error:
        assert error.problems


def test_the_memory_of_a_whole_process(tmp_path: Path) -> None:
    """Bombs of every layer in one process, whose peak memory the kernel tells: under 64 MiB more than at rest."""
    bombs = [
        archive(("static/zeros", bytes(50 << 20))),
        archive(directive="- x\n" * 500_000),
        archive(directive="[" * 3_000_000),
    ]
    for number, data in enumerate(bombs):
        (tmp_path / f"{number}.zip").write_bytes(data)
    script = (
        "import resource, sys; from pathlib import Path; from atmo_farm.directive import load\n"
        "from atmo_farm.errors import UserFilesError\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "rest = peak()\n"
        "for path in sys.argv[1:]:\n"
        "    try: load(Path(path)); sys.exit('not refused')\n"
        "    except UserFilesError: pass\n"
        "print((peak() - rest) // 1024)\n"
    )
    paths = [str(path) for path in sorted(tmp_path.glob("*.zip"))]
    done = subprocess.run(
        [sys.executable, "-c", script, *paths], capture_output=True, text=True, check=True, timeout=30
    )
    assert int(done.stdout) < 64
