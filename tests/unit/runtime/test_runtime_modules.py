"""Which modules are accepted, what is said about the others, and what the cache folder may hold."""

from __future__ import annotations

import errno
import json
import os
import re
import time
from pathlib import Path
from typing import Any

import attrs
import pytest
import wat_guests as wat
from laboratory import Laboratory, in_lab

from atmo_farm.errors import CannotStart
from atmo_farm.runtime import cache, capi, config, modules, wasm
from atmo_farm.runtime.function import Function
from atmo_farm.runtime.modules import CompiledModule, ModuleProblem, compile_module, inspect, prune

EXPORTS = """(memory (export "memory") 1) (func (export "allocate") (param i32) (result i32) (i32.const 0))
  (func (export "deallocate") (param i32 i32)) (func (export "run_e") (param i32 i32 i32))"""
I32 = "(param i32)"


def module(text: str) -> bytes:
    return wat.assemble(f"(module {text})")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('(import "env" "log_mgs" (func))' + EXPORTS, "imports `env.log_mgs`.*did you mean `log_msg`"),
        ('(import "env" "io" (memory 1))', "imports the memory `env.io`; guests import functions only"),
        ('(import "env" "hooks" (table 1 funcref))', "imports the table `env.hooks`"),
        ('(import "sink" "io" (func))', "imports `sink.io`.*from `env` and `wasi_snapshot_preview1`"),
        ('(import "env" "memory" (memory 1))', "brings its own memory"),
        ('(import "env" "global" (global i32))', "imports the global `env.global`"),
        ('(import "env" "abort" (func (param i32 i32 i32 i32)))' + EXPORTS, "--use abort="),
        (
            '(import "env" "log_msg" (func (param i32)))' + EXPORTS,
            r"as `log_msg\(i32\)`; it is `log_msg\(i32, i32, i32",
        ),
        (
            '(import "env" "cache_get_swift" (func (param i32 i32 i32) (result i32)))' + EXPORTS,
            "i32, i32, i32, i32, i32",
        ),
        ('(import "env" "swift" (func))' + EXPORTS, "`env.swift`, which this farm does not have"),
        ('(import "wasi_unstable" "fd_write" (func))' + EXPORTS, "served as `wasi_snapshot_preview1`"),
        ('(import "wasi_snapshot_preview1" "fd_wirte" (func))' + EXPORTS, "did you mean `fd_write`"),
        (
            '(import "wasi_snapshot_preview1" "fd_write" (func))' + EXPORTS,
            r"it is `fd_write\(i32, i32, i32, i32\) → i32",
        ),
        ('(func (export "_start"))', "does not export its memory.*run_e.*interface: wasi-command"),
        (EXPORTS.replace('"run_e"', '"run"'), r"does not export `run_e\(i32, i32, i32\)`"),
        (EXPORTS.replace('(export "deallocate") (param i32 i32)', '(export "deallocate") (param i32)'), "must be"),
        (
            EXPORTS.replace(
                '(func (export "run_e") (param i32 i32 i32))', '(global (export "run_e") i32 (i32.const 1))'
            ),
            "exports `run_e` as a global",
        ),
        (EXPORTS + "(memory 1)", "has 2 memories; a guest has one"),
        (EXPORTS.replace("1)", "1 1 shared)", 1), "threads must be enabled"),
        (EXPORTS.replace('"memory") 1', '"memory") i64 1'), "memory64 must be enabled"),
        ("(type (struct))" + EXPORTS, "gc"),
        ("(tag $t) (func (throw $t))" + EXPORTS, "exceptions"),
        ('(import "env" "log_msg" (func (param i32 i32 i32 i32)))' * 1001 + EXPORTS, "has 1001 imports; at most 1000"),
    ],
)
def test_what_cannot_be_a_guest_is_named(text: str, said: str) -> None:
    with pytest.raises(ModuleProblem, match=said):
        inspect(module(text))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not a WebAssembly module"),
        (b"(module)", "not a WebAssembly module"),
        (b"\0asm\r\0\1\0", "is a component"),
        (b"\0asm\2\0\0\0", "not a WebAssembly module"),
        (wat.HELLO[:-5], "not a module that this farm can run"),
        (wat.HELLO + b"\x01", "not a module that this farm can run"),
    ],
)
def test_what_is_no_module_is_said(content: bytes, said: str) -> None:
    with pytest.raises(ModuleProblem, match=said):
        inspect(content)


def test_every_problem_is_named_at_once() -> None:
    with pytest.raises(ModuleProblem) as caught:
        inspect(module('(import "env" "a" (func)) (import "env" "b" (func))'))
    assert all(name in str(caught.value) for name in ("env.a", "env.b", "memory", "allocate", "deallocate", "run_e"))


def test_hostile_modules_are_refused_quickly_and_in_few_words() -> None:
    """Too many problems, long names, huge types: each is bounded before anything is looked at closely."""
    wrong = "".join(f'(import "env" "log_msx{number}" (func))' for number in range(1000))
    long = "".join(f'(import "env" "{"x" * 90_000}{number}" (func))' for number in range(10))
    types = b"".join(b"\x60" + wasm._leb(1000) + b"\x7f" * 1000 + b"\0" for _ in range(20_000))
    many_types = wat.HELLO[:8] + wasm._section(1, wasm._leb(20_000) + types)
    for content, said in ((module(wrong), "; and more"), (module(long), "export"), (many_types, "memory")):
        began = time.process_time()
        with pytest.raises(ModuleProblem) as caught:
            inspect(content)
        assert time.process_time() - began < 2
        assert len(str(caught.value)) < 8000
        assert said in str(caught.value)


def test_commands_have_no_host_functions() -> None:
    start = '(memory (export "memory") 1) (func (export "_start"))'
    inspect(module(start), "wasi-command")
    with pytest.raises(ModuleProblem, match="host functions need `interface: runnable`"):
        inspect(module('(import "env" "log_msg" (func (param i32 i32 i32 i32)))' + start), "wasi-command")
    with pytest.raises(ModuleProblem, match="does not export `_start"):
        inspect(module('(memory (export "memory") 1)'), "wasi-command")
    with pytest.raises(ModuleProblem, match="unknown interface"):
        inspect(module(start), "reactor")  # type: ignore[arg-type]


def test_every_name_of_the_abi_is_accepted() -> None:
    inspect(wat.PUPPET)


def test_truncated_and_mangled_modules_never_do_anything_but_say_so() -> None:
    for end in range(0, len(wat.CACHED), 3):
        with pytest.raises(ModuleProblem):
            inspect(wat.CACHED[:end])
    for at in range(8, len(wat.CACHED)):
        for value in (0, 0x7F, 0xFF):
            try:
                inspect(wat.CACHED[:at] + bytes([value]) + wat.CACHED[at + 1 :])
            except ModuleProblem:
                pass


def test_the_start_section_becomes_an_export() -> None:
    for text in ("(func $f) (start $f)", '(func $f) (memory (export "m") 1) (start $f) (data (i32.const 0) "x")'):
        rewritten = wasm.without_start(module(text))
        outside = wasm.read(rewritten)
        assert outside.start is None
        assert outside.exports[-1] == wasm.Item("", wasm.FIRST_START, "function", ("", ""))
        engine = config.new_engine()
        capi.check(capi.module_validate(engine, rewritten, len(rewritten)))
        capi.engine_delete(engine)
    assert wasm.without_start(wat.HELLO) == wat.HELLO


def test_a_compiled_module_is_plain_data_and_found_again(cache_dir: Path) -> None:
    first = compile_module(wat.HELLO, cache_dir)
    assert first == compile_module(wat.HELLO, cache_dir)
    assert first.path.exists()
    assert first.path.stat().st_mode & 0o777 == 0o600
    plain: dict[str, Any] = json.loads(json.dumps(attrs.asdict(first), default=str))
    assert CompiledModule(**plain) == first


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "cache"
    path.mkdir(mode=0o700)
    return path


def test_compiling_again_takes_the_file_unless_it_is_damaged(folder: Path) -> None:
    compiled = compile_module(wat.HELLO, folder)
    before = compiled.path.stat().st_ino
    assert compile_module(wat.HELLO, folder).path.stat().st_ino == before
    damaged = bytearray(compiled.path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    for content in (bytes(damaged), b"", bytes(damaged[:100])):
        compiled.path.write_bytes(content)
        again = compile_module(wat.HELLO, folder)
        assert again.path == compiled.path
        assert again.path.read_bytes() != content


def test_a_file_of_another_wasmtime_is_compiled_again(folder: Path) -> None:
    """Its checksum is right, and still wasmtime must not be asked to run it."""
    compiled = compile_module(wat.HELLO, folder)
    key = compiled.path.name.split(".")[0]
    foreign = cache.store(folder, key, b"\x7fELF but not ours")
    compiled.path.unlink()
    again = compile_module(wat.HELLO, folder)
    assert again.path == compiled.path
    assert not foreign.exists()


def test_loading_refuses_what_this_farm_did_not_write(folder: Path, tmp_path: Path) -> None:
    async def scene(lab: Laboratory) -> None:
        good = compile_module(wat.HELLO, folder)
        content = good.path.read_bytes()

        def fails(said: str) -> None:
            with pytest.raises(CannotStart, match=said):
                Function(lab.engine, good)

        good.path.write_bytes(content[:-1] + b"x")
        fails("damaged")
        good.path.write_bytes(content)
        good.path.chmod(0o640)
        fails("0600")
        good.path.unlink()
        fails("No such file.*compile it again")
        (tmp_path / "elsewhere").write_bytes(content)
        (tmp_path / "elsewhere").chmod(0o600)
        good.path.symlink_to(tmp_path / "elsewhere")
        fails("symbolic link")
        good.path.unlink()
        os.mkfifo(good.path, 0o600)
        fails("not a file")
        good.path.unlink()
        good.path.write_bytes(content)
        good.path.chmod(0o600)
        Function(lab.engine, good)

    in_lab(folder, scene)


def test_a_file_that_a_dead_process_with_our_id_left_is_in_nobodys_way(folder: Path) -> None:
    """In a container every helper may have the same process id."""
    compiled = compile_module(wat.HELLO, folder)
    compiled.path.rename(folder / f".{compiled.path.name}.{os.getpid()}")
    assert compile_module(wat.HELLO, folder) == compiled
    assert compiled.path.exists()


def test_pruning_beside_one_that_compiles(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A temporary file may be gone at any moment: it has become the real one."""
    gone = folder / f".gone{cache.SUFFIX}.1"
    files = [*folder.iterdir(), gone]
    monkeypatch.setattr(Path, "iterdir", lambda _: iter(files))
    assert prune(folder, []) == 0


def test_a_cache_folder_that_cannot_be_made_or_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    for path in (tmp_path / "file", tmp_path / "file" / "modules"):
        with pytest.raises(CannotStart, match=re.escape(str(path))):
            compile_module(wat.HELLO, path)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CannotStart, match="No space left"):
        compile_module(wat.HELLO, tmp_path / "modules")
    assert not [path for path in (tmp_path / "modules").iterdir() if path.name.startswith(".")]


def test_the_cache_folder_must_be_ours_alone(tmp_path: Path) -> None:
    made = tmp_path / "new" / "modules"
    compile_module(wat.HELLO, made)
    assert made.stat().st_mode & 0o777 == 0o700
    made.chmod(0o755)
    with pytest.raises(CannotStart, match="0700"):
        compile_module(wat.HELLO, made)
    made.chmod(0o700)
    (tmp_path / "link").symlink_to(made)
    with pytest.raises(CannotStart, match="0700"):
        compile_module(wat.HELLO, tmp_path / "link")


def test_prune_keeps_what_is_named(folder: Path) -> None:
    kept, other = compile_module(wat.HELLO, folder), compile_module(wat.CACHED, folder)
    (folder / f".old{cache.SUFFIX}.1").write_bytes(b"")
    os.utime(folder / f".old{cache.SUFFIX}.1", (0, 0))
    (folder / f".new{cache.SUFFIX}.2").write_bytes(b"")
    assert prune(folder, [kept]) == 2
    assert all(path.exists() for path in kept.files)
    assert not other.path.exists()
    assert (folder / f".new{cache.SUFFIX}.2").exists()


def test_different_programs_have_different_files(cache_dir: Path) -> None:
    assert compile_module(wat.HELLO, cache_dir).path != compile_module(wat.CACHED, cache_dir).path


def test_a_check_does_not_compile() -> None:
    began = time.process_time()
    for _ in range(20):
        inspect(wat.PUPPET)
    assert (time.process_time() - began) / 20 < 0.02
    assert modules.inspect is inspect
