"""A reader of a Wasm module's outside: imports, exports, memories, tables, start function.

For modules that wasmtime has already found valid with the features that `config` leaves on: all types are one byte.
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs

FIRST_START = "atmo_farm:start"
"""What `without_start` exports the start function as."""

NAME_CAP = 1000
"""Bytes of a function's name that a trap may show."""

_VALUES = bytes(
    {0x7F: "i", 0x7E: "I", 0x7D: "f", 0x7C: "F", 0x7B: "v"}.get(code, "r").encode()[0] for code in range(256)
)
"""From a value type's byte to its letter."""
_KINDS = ("function", "table", "memory", "global")
_CUSTOM, _TYPE, _IMPORT, _FUNCTION, _TABLE, _MEMORY, _EXPORT, _START = 0, 1, 2, 3, 4, 5, 7, 8
_NAME_OF_MODULE, _NAMES_OF_FUNCTIONS = 0, 1


@attrs.frozen
class Item:
    """An import or export; signature (parameters, results) in the letters of `abi`, for functions only."""

    module: str
    name: str
    kind: str
    signature: tuple[str, str] | None = None


@attrs.frozen
class Outside:
    """What a module shows to whoever instantiates it. Memories are (minimum pages), tables (minimum elements)."""

    imports: tuple[Item, ...]
    exports: tuple[Item, ...]
    memories: tuple[int, ...]
    tables: tuple[int, ...]
    start: int | None


class _Reader:
    def __init__(self, data: bytes, at: int = 0, end: int | None = None):
        self.data, self.at, self.end = data, at, len(data) if end is None else end

    def byte(self) -> int:
        if self.at >= self.end:
            raise ValueError("the module ends in the middle of a section")
        self.at += 1
        return self.data[self.at - 1]

    def number(self) -> int:
        result = shift = 0
        while True:
            byte = self.byte()
            result |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return result

    def bytes(self) -> bytes:
        length = self.number()
        if self.at + length > self.end:
            raise ValueError("the module ends in the middle of a section")
        self.at += length
        return self.data[self.at - length : self.at]

    def name(self) -> str:
        return self.bytes().decode("utf-8")

    def limits(self) -> int:
        flags = self.byte()
        minimum = self.number()
        if flags & 1:
            self.number()
        return minimum

    def table(self) -> int:
        self.byte()
        return self.limits()

    def values(self) -> str:
        return self.bytes().translate(_VALUES).decode("ascii")


def _sections(wasm: bytes) -> Iterator[tuple[int, int, int, int]]:
    """(id, where it begins, where its content begins, where it ends)"""
    reader = _Reader(wasm, 8)
    while reader.at < len(wasm):
        begin = reader.at
        number = reader.byte()
        size = reader.number()
        yield number, begin, reader.at, reader.at + size
        reader.at += size


def read(wasm: bytes) -> Outside:
    """The outside of a valid core module; ValueError for what this reader does not know."""
    types: list[tuple[str, str]] = []
    functions: list[int] = []
    imports: list[Item] = []
    exports: list[tuple[str, int, int]] = []
    memories: list[int] = []
    tables: list[int] = []
    start = None
    for section, _, at, end in _sections(wasm):
        reader = _Reader(wasm, at, end)
        if section == _START:
            start = reader.number()
        elif section == _TYPE:
            for _ in range(reader.number()):
                if reader.byte() != 0x60:
                    raise ValueError("types other than functions are not served")
                types.append((reader.values(), reader.values()))
        elif section == _IMPORT:
            for _ in range(reader.number()):
                module, name, kind = reader.name(), reader.name(), reader.byte()
                signature = None
                if kind == 0:
                    functions.append(reader.number())
                    signature = types[functions[-1]]
                elif kind == 1:
                    tables.append(reader.table())
                elif kind == 2:
                    memories.append(reader.limits())
                else:
                    reader.byte()
                    reader.byte()
                imports.append(Item(module, name, _KINDS[kind], signature))
        elif section == _FUNCTION:
            functions += [reader.number() for _ in range(reader.number())]
        elif section == _TABLE:
            tables += [reader.table() for _ in range(reader.number())]
        elif section == _MEMORY:
            memories += [reader.limits() for _ in range(reader.number())]
        elif section == _EXPORT:
            exports = [(reader.name(), reader.byte(), reader.number()) for _ in range(reader.number())]
    return Outside(
        tuple(imports),
        tuple(
            Item("", name, _KINDS[kind], types[functions[index]] if kind == 0 else None)
            for name, kind, index in exports
        ),
        tuple(memories),
        tuple(tables),
        start,
    )


def without_start(wasm: bytes) -> bytes:
    """The module with its start function exported as FIRST_START instead of run by instantiation.

    So instantiation runs no guest code: it needs no fiber, cannot last, and the start function finds the host
    functions ready. Unchanged where there is no start section.
    """
    sections = list(_sections(wasm))
    if not any(section == _START for section, *_ in sections):
        return wasm
    index = b"".join(wasm[at:end] for section, _, at, end in sections if section == _START)
    entry = bytes([len(FIRST_START)]) + FIRST_START.encode() + b"\0" + index
    parts = [wasm[:8]]
    done = False
    for section, begin, at, end in sections:
        if section == _EXPORT:
            reader = _Reader(wasm, at, end)
            count = reader.number()
            parts.append(_section(_EXPORT, _leb(count + 1) + wasm[reader.at : end] + entry))
            done = True
        elif section == _START:
            if not done:
                parts.append(_section(_EXPORT, _leb(1) + entry))
        else:
            parts.append(wasm[begin:end])
    return b"".join(parts)


def without_long_names(wasm: bytes) -> bytes:
    """The module without its section of names if one is over NAME_CAP, or if the section is broken.

    wasmtime copies the module's name and a function's for each of 20 frames when a guest traps: with names of 20 MB
    that took 1.2 GB and ten seconds, in which nothing else ran. A broken section is legal, it only names nothing.
    """
    parts = [wasm[:8]]
    for section, begin, at, end in _sections(wasm):
        if section != _CUSTOM or _names_are_short(_Reader(wasm, at, end)):
            parts.append(wasm[begin:end])
    return b"".join(parts)


def _names_are_short(reader: _Reader) -> bool:
    """Of one custom section; True for those that hold no names."""
    try:
        if reader.name() != "name":
            return True
        while reader.at < reader.end:
            kind, content = reader.byte(), reader.bytes()
            inner = _Reader(content)
            if kind == _NAME_OF_MODULE and len(inner.bytes()) > NAME_CAP:
                return False
            if kind == _NAMES_OF_FUNCTIONS:
                for _ in range(inner.number()):
                    inner.number()
                    if len(inner.bytes()) > NAME_CAP:
                        return False
    except ValueError:
        return False
    return True


def _section(number: int, content: bytes) -> bytes:
    return bytes([number]) + _leb(len(content)) + content


def _leb(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
