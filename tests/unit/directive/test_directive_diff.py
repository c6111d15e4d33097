"""What a reload would change: by name, and never because something stands elsewhere in the file."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from atmo_farm.directive import Diff, diff, load
from atmo_farm.directive.changes import Names
from tests.unit.directive.support import HEAD, write_project

ONE = "  - {name: one, type: stream, source: nats, resource: a, steps: [{fn: hello}]}\n"
TWO = "  - {name: two, type: stream, source: nats, resource: b, steps: [{fn: upper}], respondTo: c}\n"
WHOLE = (
    HEAD
    + "  redis: {serverAddress: localhost}\n"
    + "  databases: {main: {type: sqlite, connectionString: /a.db}}\n"
    + f"handlers:\n{ONE}{TWO}"
    + "schedules:\n  - {name: tick, every: {days: 1}, steps: [{fn: hello}]}\n"
    + "queries:\n  - {name: q, query: SELECT 1}\n"
    + "capabilities: {logger: {enabled: true}}\n"
    + "authentication: {domains: {a.example: {value: secret}}}\n"
)
Edit = Callable[[Path], None]


def difference(tmp_path: Path, edit: Edit) -> Diff:
    """Between the whole application and the same after an edit."""
    old = write_project(tmp_path / "old", WHOLE)
    (old / "static").mkdir()
    (old / "static/a").write_bytes(b"a")
    shutil.copytree(old, tmp_path / "new")
    edit(tmp_path / "new")
    return diff(load(old), load(tmp_path / "new"))


def replacing(*pairs: tuple[str, str]) -> Edit:
    """An edit of the Directive."""

    def edit(folder: Path) -> None:
        text = (folder / "Directive.yaml").read_text()
        for old, new in pairs:
            assert old in text
            text = text.replace(old, new)
        (folder / "Directive.yaml").write_text(text)

    return edit


def touching(name: str, data: bytes) -> Edit:
    """An edit of another file."""

    def edit(folder: Path) -> None:
        (folder / name).write_bytes(data)

    return edit


@pytest.mark.parametrize(
    "edit",
    [
        replacing(),
        replacing((ONE + TWO, TWO + ONE)),
        replacing(("identifier", "\n# moved\n\nidentifier")),
        replacing((ONE, ONE.replace("name: one, type: stream", "type: stream, name: one"))),
        replacing(("resource: a,", 'resource: "a", timeout: 30s, ordering: none, deadLetter: on, idempotent: no,')),
        touching("README", b"x"),
    ],
    ids=["nothing", "order of handlers", "lines before", "order of keys", "defaults and quotes", "another file"],
)
def test_no_change(tmp_path: Path, edit: Edit) -> None:
    """Moves, comments, quotes and defaults that are written out change nothing."""
    found = difference(tmp_path, edit)
    assert found == Diff()
    assert found.empty
    assert found.describe() == "no change"


@pytest.mark.parametrize(
    ("edit", "names"),
    [
        (replacing((TWO, TWO + TWO.replace("two", "three"))), Names(added=("three",))),
        (replacing((ONE, "")), Names(removed=("one",))),
        (replacing(("name: one", "name: first")), Names(added=("first",), removed=("one",))),
        (replacing(("resource: a,", "resource: z,")), Names(changed=("one",))),
        (replacing(("resource: a,", "resource: a, workers: 2,")), Names(changed=("one",))),
        (replacing(("[{fn: upper}]", "[{fn: upper}, {fn: hello}]")), Names(changed=("two",))),
        (replacing(("respondTo: c", "respondTo: d")), Names(changed=("two",))),
        (replacing(("resource: b,", "resource: b, group: g,")), Names(changed=("two",))),
        (replacing(("resource: b,", "resource: b, durable: d,")), Names(changed=("two",))),
        (replacing(("resource: b,", "resource: b, deadLetter: off,")), Names(changed=("two",))),
        (replacing(("resource: b,", "resource: b, deadLetter: {maxAge: 1h},")), Names(changed=("two",))),
        (replacing(("resource: b,", "resource: b, output: core,")), Names(changed=("two",))),
        (replacing(("resource: b,", "resource: b, idempotent: true,")), Names(changed=("two",))),
    ],
)  # fmt: skip
def test_handlers(tmp_path: Path, edit: Edit, names: Names) -> None:
    """Added, removed, changed: each handler by its name, and nothing else with it."""
    assert difference(tmp_path, edit) == Diff(handlers=names)


def test_a_connection_changes_the_handlers_that_use_it(tmp_path: Path) -> None:
    found = difference(tmp_path, replacing(("serverAddress: localhost\n  redis", "serverAddress: other\n  redis")))
    assert found == Diff(handlers=Names(changed=("one", "two")), connections=Names(changed=("nats.default",)))


def test_connections_that_no_handler_uses(tmp_path: Path) -> None:
    """They are told, and no handler is restarted for them."""
    edit = replacing(("  redis: {serverAddress: localhost}\n", "  kafka: {eu: {brokerAddress: k}}\n"), ("a.db", "b.db"))
    names = Names(added=("kafka.eu",), removed=("redis",), changed=("database.main",))
    assert difference(tmp_path, edit) == Diff(connections=names)


@pytest.mark.parametrize(
    "edit",
    [
        touching("hello/hello.wasm", b"new"),
        touching("hello/.runnable.yaml", b"name: hello\ninterface: wasi-command\n"),
    ],
    ids=["module", "interface"],
)
def test_functions(tmp_path: Path, edit: Edit) -> None:
    """Another module, or another way to call it, changes the function and the handlers that use it."""
    found = difference(tmp_path, edit)
    assert found == Diff(handlers=Names(changed=("one",)), functions=Names(changed=("default::hello",)))


def test_a_function_that_nobody_uses(tmp_path: Path) -> None:
    """No handler is restarted for it."""
    found = difference(tmp_path, touching("db-get/get.wasm", b"new"))
    assert found == Diff(functions=Names(changed=("db::get",)))


def test_a_function_in_another_folder(tmp_path: Path) -> None:
    """Where it lies is no difference."""

    def edit(folder: Path) -> None:
        (folder / "db-get").rename(folder / "moved")

    assert difference(tmp_path, edit) == Diff()


def test_functions_that_come_and_go(tmp_path: Path) -> None:
    def edit(folder: Path) -> None:
        (folder / "db-get/.runnable.yaml").write_text("name: put\nnamespace: db\n")
        (folder / "db-get/get.wasm").rename(folder / "db-get/put.wasm")

    found = difference(tmp_path, edit)
    assert found == Diff(functions=Names(added=("db::put",), removed=("db::get",)))
    assert found.describe() == "functions: +db::put, -db::get"


def test_schedules_queries_and_static_files(tmp_path: Path) -> None:
    def edit(folder: Path) -> None:
        replacing(("days: 1", "days: 2"), ("name: q,", "name: r,"))(folder)
        (folder / "static/a").write_bytes(b"b")
        (folder / "static/b").write_bytes(b"")

    assert difference(tmp_path, edit) == Diff(
        schedules=Names(changed=("tick",)),
        queries=Names(added=("r",), removed=("q",)),
        static_files=Names(added=("b",), changed=("a",)),
    )


@pytest.mark.parametrize(
    ("pair", "name", "restarts"),
    [
        (("v1.0.0", "v1.0.1"), "app_version", False),
        (("v0.4.7", "v0.4.6"), "atmo_version", False),
        (("{logger: {enabled: true}}", "{logger: {enabled: false}}"), "capabilities", True),
        (("value: secret", "value: other"), "authentication", True),
        (("com.example.shop", "com.example.other"), "identifier", True),
    ],
)
def test_the_application_as_a_whole(tmp_path: Path, pair: tuple[str, str], name: str, restarts: bool) -> None:
    """What all functions see restarts all handlers; a version number restarts none."""
    found = difference(tmp_path, replacing(pair))
    assert found == Diff(handlers=Names(changed=("one", "two") if restarts else ()), application=(name,))


def test_a_secret_counts_by_what_it_holds(tmp_path: Path) -> None:
    """The same reference with another value is another connection, once both are resolved."""
    folder = write_project(tmp_path / "app", WHOLE.replace("localhost\n  redis", "env(A)\n  redis"))
    application = load(folder)
    before, after = application.resolved({"A": "a"}, None), application.resolved({"A": "b"}, None)
    assert diff(before, before).empty
    found = diff(before, after)
    assert found.connections == Names(changed=("nats.default",))
    assert found.handlers == Names(changed=("one", "two"))
    assert found.describe() == "handlers: ~one, ~two; connections: ~nats.default"


def test_one_line_for_people(tmp_path: Path) -> None:
    """Kinds in order, each with its signs."""
    edit = replacing((ONE, ONE.replace("one", "new")), ("respondTo: c", "respondTo: d"), ("v1.0.0", "v2.0.0"))
    text = difference(tmp_path, edit).describe()
    assert text == "handlers: +new, -one, ~two; application: app_version"
