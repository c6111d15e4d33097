"""WebAssembly guests on fibers in one asyncio loop, through wasmtime's C API.

    modules ── checks a module against the ABI, compiles it, keeps the file        (any process, no loop)
    engine ─── what a process's guests share: wasmtime's engine, ticker, scheduler  (a child, after the fork)
    function ─ one function of the application: its pool of instances and `call`
    services ─ what host functions ask of the outside; `capabilities/` answers

Inside: `abi` (what may be imported), `layout`, `sink` and `invoker` (our own Wasm around each guest), `program` (a
loaded module, from which stores are made), `instance` (one guest), `host`, `waiting` and `wasi` (host functions),
`memory` (all access to a guest's memory), `failures` (what a trap means), `capi` (wasmtime's C functions).
docs/runnable-abi.md tells the whole story.
"""
