"""From a user's Wasm to a file that children map: checked against the ABI, compiled, kept in the cache folder.

Compiling takes 50-100 ms for each MB of Wasm and leaves its memory behind, so it is done in a short-lived process;
nothing here starts a thread, so that process may fork and be forked. Loading takes 0.2 ms.
"""

from __future__ import annotations

import ctypes
import hashlib
import itertools
import re
from collections.abc import Iterable
from pathlib import Path
from typing import get_args

import attrs
import wasmtime

from atmo_farm.errors import AtmoFarmError
from atmo_farm.runtime import abi, cache, capi, checks, config, invoker, sink, wasm
from atmo_farm.runtime.invoker import Interface

MAGIC = b"\0asm\1\0\0\0"
COMPONENT_MAGIC = b"\0asm\r\0\1\0"

PROBLEMS_SHOWN = 20


class ModuleProblem(AtmoFarmError):
    """This Wasm cannot be a guest; the message names everything that is wrong with it."""

    exit_code = 1


def _names(names: Iterable[str]) -> tuple[str, ...]:
    """So that what went through JSON is equal to what was compiled."""
    return tuple(names)


_DATA = tuple(f"{abi.ENV} {name}" for name in ("cache_get", "cache_set", "db_exec"))


@attrs.frozen
class CompiledModule:
    """Where a compiled module is and what a child must know about it: plain data, for any process of this machine."""

    path: Path = attrs.field(converter=Path)
    sha256: str
    """Of the Wasm."""
    interface: Interface
    imports: tuple[str, ...] = attrs.field(converter=_names)
    """`module name`, in the module's order."""
    starts: tuple[str, ...] = attrs.field(converter=_names)
    """Exports to call once after instantiation, in this order."""
    memory_pages: int
    """The memory's minimum size, in pages of 64 KiB."""
    tables: int
    """How many it has."""
    table_elements: int
    """The largest one's minimum size."""
    sink: str
    """File name of the compiled sink, beside `path`."""
    invoker: str
    """File name of the compiled invoker, beside `path`."""

    @property
    def asks_for_data(self) -> bool:
        """Whether it imports the cache or the database functions."""
        return any(name.removesuffix("_swift") in _DATA for name in self.imports)

    @property
    def asks_for_secrets(self) -> bool:
        """Whether it imports `get_secret_value`."""
        return any(name.removesuffix("_swift") == "env get_secret_value" for name in self.imports)

    @property
    def files(self) -> tuple[Path, Path, Path]:
        """The module, its sink and its invoker."""
        return self.path, self.path.with_name(self.sink), self.path.with_name(self.invoker)


def inspect(wasm_bytes: bytes, interface: Interface = "runnable") -> None:
    """Check without compiling; ModuleProblem with everything that is wrong."""
    engine = config.new_engine()
    try:
        _outside(engine, wasm_bytes, interface)
    finally:
        capi.engine_delete(engine)


def compile_module(wasm_bytes: bytes, cache_dir: Path, interface: Interface = "runnable") -> CompiledModule:
    """Check a module, then compile it, unless the cache has it already.

    ModuleProblem if it cannot be a guest; CannotStart if the cache folder is not safe to use.
    """
    directory = cache.folder(cache_dir)
    engine = config.new_engine()
    try:
        outside = _outside(engine, wasm_bytes, interface)
        path = _cached(engine, directory, wasm.without_long_names(wasm.without_start(wasm_bytes)))
        exports = {item.name: item.signature for item in outside.exports}
        first = () if outside.start is None else (wasm.FIRST_START,)
        wanted = () if interface == "wasi-command" else abi.START_EXPORTS
        return CompiledModule(
            path=path,
            sha256=hashlib.sha256(wasm_bytes).hexdigest(),
            interface=interface,
            imports=tuple(f"{item.module} {item.name}" for item in outside.imports),
            starts=first + tuple(name for name in wanted if exports.get(name) == ("", "")),
            memory_pages=max(outside.memories, default=0),
            tables=len(outside.tables),
            table_elements=max(outside.tables, default=0),
            sink=_cached(engine, directory, _assembled(sink.source())).name,
            invoker=_cached(engine, directory, _assembled(invoker.source(interface))).name,
        )
    finally:
        capi.engine_delete(engine)


def prune(cache_dir: Path, keep: Iterable[CompiledModule]) -> int:
    """Remove the compiled files that none of `keep` needs; returns how many."""
    return cache.remove_others(cache.folder(cache_dir), (path.name for module in keep for path in module.files))


def load(engine: int, path: Path) -> int:
    """A wasmtime_module_t of a compiled file; cache.BadFile if it is not as this farm wrote it."""
    module = ctypes.c_void_p()
    with cache.opened(path) as checked:
        try:
            capi.check(capi.module_deserialize_file(engine, checked.encode(), ctypes.addressof(module)))
        except capi.WasmtimeError as error:
            raise cache.BadFile(f"{path}: wasmtime does not load it: {error}") from error
    return int(module.value or 0)


def _cached(engine: int, directory: Path, wasm_bytes: bytes) -> Path:
    key = hashlib.sha256(config.fingerprint() + wasm_bytes).hexdigest()[:32]

    def usable(checked: str) -> None:
        module = ctypes.c_void_p()
        try:
            capi.check(capi.module_deserialize_file(engine, checked.encode(), ctypes.addressof(module)))
        except capi.WasmtimeError as error:
            raise cache.BadFile(str(error)) from error
        capi.module_delete(module.value)

    return cache.find(directory, key, usable) or cache.store(directory, key, _compile(engine, wasm_bytes))


def _compile(engine: int, wasm_bytes: bytes) -> bytes:
    module = ctypes.c_void_p()
    try:
        capi.check(capi.module_new(engine, wasm_bytes, len(wasm_bytes), ctypes.addressof(module)))
    except capi.WasmtimeError as error:
        raise ModuleProblem(f"does not compile: {_first_line(error)}") from error
    try:
        return capi.take_bytes(lambda at: capi.check(capi.module_serialize(module.value, at)))
    finally:
        capi.module_delete(module.value)


def _outside(engine: int, wasm_bytes: bytes, interface: Interface) -> wasm.Outside:
    if interface not in get_args(Interface):
        raise ModuleProblem(f"unknown interface `{interface}`; runnable and wasi-command are served")
    if wasm_bytes[:8] == COMPONENT_MAGIC:
        raise ModuleProblem("is a component; this farm runs core modules: build for wasm32 without a component adapter")
    if wasm_bytes[:8] != MAGIC:
        raise ModuleProblem("is not a WebAssembly module (its first bytes are not `\\0asm` and version 1)")
    try:
        capi.check(capi.module_validate(engine, wasm_bytes, len(wasm_bytes)))
        outside = wasm.read(wasm_bytes)
    except (capi.WasmtimeError, ValueError, IndexError) as error:
        raise ModuleProblem(f"is not a module that this farm can run: {_first_line(error)}") from error
    found = list(itertools.islice(checks.problems(outside, interface), PROBLEMS_SHOWN + 1))
    if found:
        raise ModuleProblem("; ".join([*found[:PROBLEMS_SHOWN], *["and more"][: len(found) - PROBLEMS_SHOWN]]))
    return outside


def _first_line(error: Exception) -> str:
    """wasmtime's texts go from the outermost cause to the innermost, with a list of numbered causes."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and "Caused by" not in line]
    return re.sub(r"^\d+: ", "", lines[-1]) if lines else "no reason given"


def _assembled(source: str) -> bytes:
    return bytes(wasmtime.wat2wasm(source))
