"""Whether a module can be a guest of this farm: what it imports, exports and needs, each problem said in one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from atmo_farm.runtime import abi, wasm
from atmo_farm.runtime.invoker import Interface

_HINTS = {
    (abi.ENV, "abort"): "build with `--use abort=…`, so that AssemblyScript's abort calls return_abort",
    (abi.ENV, "memory"): "a guest brings its own memory: build without --import-memory",
    (abi.ENV, "seed"): "build with `--use seed=…`: AssemblyScript's seed is not a host function",
}

IMPORTS_CAP = 1000
"""The ABI and WASI have 78 functions; each import costs time in each new instance."""

_SHOWN_NAME, _SHOWN_TYPES = 100, 20


def problems(outside: wasm.Outside, interface: Interface) -> Iterator[str]:
    """What keeps a module with this outside from being run; nothing for a good one."""
    if len(outside.imports) > IMPORTS_CAP:
        yield f"has {len(outside.imports)} imports; at most {IMPORTS_CAP} are served"
        return
    for item in outside.imports:
        yield from _import(item, interface)
    if len(outside.memories) > 1:
        yield f"has {len(outside.memories)} memories; a guest has one"
    exports = {item.name: item for item in outside.exports}
    memory = exports.get("memory")
    if memory is None or memory.kind != "memory":
        yield "does not export its memory as `memory`"
    wanted = abi.RUNNABLE_EXPORTS if interface == "runnable" else {"_start": ("", "")}
    for name, signature in wanted.items():
        found = exports.get(name)
        if found is None:
            yield f"does not export `{name}{_words(signature)}`{_other(name, exports)}"
        elif found.signature != signature:
            yield f"exports `{name}` as {_shown(found)}; it must be `{name}{_words(signature)}`"


def _import(item: wasm.Item, interface: Interface) -> Iterator[str]:
    shown = f"`{_cut(item.module)}.{_cut(item.name)}`"
    if item.kind != "function":
        hint = _HINTS.get((item.module, item.name), "guests import functions only")
        yield f"imports the {item.kind} {shown}; {hint}"
        return
    expected = abi.imported(item.module, item.name)
    if expected is None:
        yield f"imports {shown}, which this farm does not have{_suggestion(item)}"
    elif expected != item.signature:
        yield f"imports {shown} as {_shown(item)}; it is `{item.name}{_words(expected)}`"
    elif interface == "wasi-command" and item.module == abi.ENV:
        yield f"imports {shown}; a wasi-command has stdin and stdout only, host functions need `interface: runnable`"


def _suggestion(item: wasm.Item) -> str:
    if (item.module, item.name) in _HINTS:
        return f"; {_HINTS[item.module, item.name]}"
    if item.module == abi.ENV:
        known = [name for base in abi.RUNNABLE for name in (base, f"{base}_swift")]
    else:
        known = [*abi.PREVIEW1, "proc_exit"]
    if item.module not in (abi.ENV, abi.WASI):
        if item.name in known or item.module.startswith("wasi"):
            return f"; WASI is served as `{abi.WASI}`"
        return f"; guests import from `{abi.ENV}` and `{abi.WASI}`"
    near = difflib.get_close_matches(_cut(item.name), known, 1)
    return f"; did you mean `{near[0]}`?" if near else ""


def _other(name: str, exports: dict[str, wasm.Item]) -> str:
    if name == "run_e" and "_start" in exports and "allocate" not in exports:
        return "; a program from stdin to stdout says `interface: wasi-command` in its .runnable.yaml"
    return ""


def _cut(name: str) -> str:
    return name if len(name) <= _SHOWN_NAME else name[:_SHOWN_NAME] + "…"


def _shown(item: wasm.Item) -> str:
    return f"`{_cut(item.name)}{_words(item.signature)}`" if item.signature is not None else f"a {item.kind}"


def _words(signature: tuple[str, str]) -> str:
    parameters, results = map(_types, signature)
    return f"({parameters})" + (f" → {results}" if results else "")


def _types(letters: str) -> str:
    words = {"i": "i32", "I": "i64", "f": "f32", "F": "f64", "v": "v128", "r": "reference"}
    more = ["…"] if len(letters) > _SHOWN_TYPES else []
    return ", ".join([words[letter] for letter in letters[:_SHOWN_TYPES]] + more)
