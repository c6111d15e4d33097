"""What a guest may import and must export: the tables of the Runnable ABI and of WASI preview1.

A signature is written as one letter for each value: `i` is i32, `I` is i64; parameters, then results.
The ABI's facts are from Reactr 0.13-0.15 and Sat 0.2, WASI's from its witx files of snapshot 1.
"""

from __future__ import annotations

ENV = "env"
WASI = "wasi_snapshot_preview1"

RUNNABLE: dict[str, tuple[str, str]] = {
    "return_result": ("iii", ""),
    "return_error": ("iiii", ""),
    "return_abort": ("iiiiiii", ""),
    "get_ffi_result": ("ii", "i"),
    "add_ffi_var": ("iiiii", "i"),
    "fetch_url": ("iiiiii", "i"),
    "graphql_query": ("iiiii", "i"),
    "cache_set": ("iiiiii", "i"),
    "cache_get": ("iii", "i"),
    "log_msg": ("iiii", ""),
    "request_get_field": ("iiii", "i"),
    "request_set_field": ("iiiiii", "i"),
    "resp_set_header": ("iiiii", ""),
    "get_static_file": ("iii", "i"),
    "db_exec": ("iiii", "i"),
    "get_secret_value": ("iii", "i"),
}
"""Imports of module `env`; each exists as `<name>_swift` too, with two more i32 that are ignored."""

SINK = ("return_result", "return_error", "return_abort", "get_ffi_result")
"""Those that the sink module answers without any Python."""

ASYNC = ("fetch_url", "graphql_query", "cache_set", "cache_get", "db_exec", "get_static_file", "get_secret_value")
"""Those that may suspend the guest."""

PREVIEW1: dict[str, str] = {
    "args_get": "ii",
    "args_sizes_get": "ii",
    "clock_res_get": "ii",
    "clock_time_get": "iIi",
    "environ_get": "ii",
    "environ_sizes_get": "ii",
    "fd_advise": "iIIi",
    "fd_allocate": "iII",
    "fd_close": "i",
    "fd_datasync": "i",
    "fd_fdstat_get": "ii",
    "fd_fdstat_set_flags": "ii",
    "fd_fdstat_set_rights": "iII",
    "fd_filestat_get": "ii",
    "fd_filestat_set_size": "iI",
    "fd_filestat_set_times": "iIIi",
    "fd_pread": "iiiIi",
    "fd_prestat_dir_name": "iii",
    "fd_prestat_get": "ii",
    "fd_pwrite": "iiiIi",
    "fd_read": "iiii",
    "fd_readdir": "iiiIi",
    "fd_renumber": "ii",
    "fd_seek": "iIii",
    "fd_sync": "i",
    "fd_tell": "ii",
    "fd_write": "iiii",
    "path_create_directory": "iii",
    "path_filestat_get": "iiiii",
    "path_filestat_set_times": "iiiiIIi",
    "path_link": "iiiiiii",
    "path_open": "iiiiiIIii",
    "path_readlink": "iiiiii",
    "path_remove_directory": "iii",
    "path_rename": "iiiiii",
    "path_symlink": "iiiii",
    "path_unlink_file": "iii",
    "poll_oneoff": "iiii",
    "proc_raise": "i",
    "random_get": "ii",
    "sched_yield": "",
    "sock_accept": "iii",
    "sock_recv": "iiiiii",
    "sock_send": "iiiii",
    "sock_shutdown": "ii",
}
"""Parameters of preview1's functions that return an errno; `proc_exit(i)` returns nothing and is not here."""

WASI_HOST = ("clock_time_get", "random_get", "poll_oneoff")
"""Those that Python answers; the rest is in `sink`."""

RUNNABLE_EXPORTS: dict[str, tuple[str, str]] = {
    "allocate": ("i", "i"),
    "deallocate": ("ii", ""),
    "run_e": ("iii", ""),
}
START_EXPORTS = ("_initialize", "_start", "init")
"""Called once after instantiation, in this order, those that there are; all have type () → ()."""


def imported(module: str, name: str) -> tuple[str, str] | None:
    """The signature of an import that the farm gives, else None."""
    if module == WASI:
        if name == "proc_exit":
            return "i", ""
        return (PREVIEW1[name], "i") if name in PREVIEW1 else None
    if module != ENV:
        return None
    if name.endswith("_swift"):
        parameters, results = RUNNABLE.get(name.removesuffix("_swift"), ("", "none"))
        return None if results == "none" else (parameters + "ii", results)
    return RUNNABLE.get(name)
