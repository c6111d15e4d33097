"""Bundles: what is written is what is read, always with the same bytes; Atmo's own bundles are read as well."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from atmo_farm.directive import Application, load
from atmo_farm.directive.build import directive_text, write_bundle
from atmo_farm.directive.parse import Texts, parse
from atmo_farm.directive.report import Report
from atmo_farm.errors import UserFilesError
from atmo_farm.settings import HandlerDefaults
from tests.unit.directive.support import FUNCTIONS, HEAD, runnable_files, stream, with_handlers, write_project

EVERYTHING = """\
# a comment
- name: all
  type: stream
  source: nats
  resource: a.*
  workers: 2
  maxInFlight: 8
  timeout: 250ms
  memoryLimit: 1MiB
  isolation: fresh
  pool: {warm: 0, max: 4}
  retry: {attempts: 2, on: [timeout, 429, 500-599]}
  envelope: raw
  group: off
  deadLetter: off
  respondTo: {resource: b, headers: {x: "1", y: 'off'}}
  steps: &steps
    - fn: hello
      onErr: {code: {404: continue}, other: return}
    - group:
        - {fn: upper, as: "no"}
        - {fn: db::get, with: {a: hello}}
  response: "no"
- {name: two, type: stream, source: nats, resource: c, durable: d, ordering: key, orderingKey: "header:x",
   steps: *steps, response: hello}
- name: four
  type: stream
  source: nats
  resource: d.>
  jetstream: {stream: S, deliverPolicy: new, ackWait: 2s, maxAckPending: 5, filterSubjects: [d.a, d.b.*]}
  respondTo: e
  output: stream
  deadLetter: {resource: dead.four, maxAge: 5m}
  idempotent: true
  steps: *steps
  response: hello
- {name: three, type: request, method: GET, resource: /a, steps: [{fn: hello}]}
"""


def everything(tmp_path: Path) -> Path:
    folder = write_project(
        tmp_path / "app",
        with_handlers(EVERYTHING)
        + "schedules:\n  - {name: s, every: {days: 1}, state: {a: '1'}, steps: [{fn: hello}]}\n"
        "queries:\n  - name: q\n    query: |\n      SELECT *\n        FROM t -- ü\n",
        {name: f"\0asm {name}".encode() for name in FUNCTIONS},
    )
    (folder / "Queries.yaml").write_text(
        "queries:\n  - {name: r, query: 'UPDATE t SET a = ?', type: update, varCount: 1}\n"
    )
    (folder / "hello/.runnable.yaml").write_text("name: hello\ninterface: wasi-command\nlang: go\nversion: '1.0'\n")
    (folder / "static/a").mkdir(parents=True)
    (folder / "static/a/b.txt").write_bytes(b"static")
    return folder


def same(one: Application, other: Application) -> None:
    assert one == other
    assert [one.digest(r.key) for r in one.directive.runnables] == [
        other.digest(r.key) for r in other.directive.runnables
    ]
    assert {name: one.static(name) for name in one.static_names()} == {
        name: other.static(name) for name in other.static_names()
    }


def make_zip(path: Path, files: dict[str, bytes | str]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def test_round_trip(tmp_path: Path) -> None:
    """Every key, styles and odd texts, functions' interfaces, queries and static files survive, twice."""
    application = load(everything(tmp_path))
    write_bundle(application, tmp_path / "a.zip")
    again = load(tmp_path / "a.zip")
    same(application, again)
    write_bundle(again, tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    assert again.directive.runnable("default::hello").interface == "wasi-command"
    assert again.static("a/b.txt") == b"static"


def test_the_same_sources_give_the_same_bytes(tmp_path: Path) -> None:
    """Whatever the folder's name, its times and the machine's defaults."""
    for name in ("one", "two"):
        write_bundle(load(everything(tmp_path / name)), tmp_path / f"{name}.zip")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()


def test_what_atmo_sees(tmp_path: Path) -> None:
    """A Directive with queries and functions merged in, modules at the root, static files below static/."""
    application = load(everything(tmp_path))
    write_bundle(application, tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist() == ["Directive.yaml", "get.wasm", "hello.wasm", "upper.wasm", "static/a/b.txt"]
        assert archive.read("hello.wasm") == b"\0asm hello"
        directive = yaml.safe_load(archive.read("Directive.yaml"))
    assert directive["runnables"][1] == {
        "name": "hello",
        "namespace": "default",
        "lang": "go",
        "version": "1.0",
        "fqfn": "com.example.shop#default::hello@v1.0.0",
        "interface": "wasi-command",
    }
    assert [query["name"] for query in directive["queries"]] == ["q", "r"]
    assert directive["handlers"][0]["respondTo"]["headers"] == {"x": "1", "y": "off"}
    assert directive["handlers"][0]["response"] == "no"


def test_defaults_stay_with_the_machine(tmp_path: Path) -> None:
    """What the user left out is left out of the bundle too."""
    text = directive_text(load(write_project(tmp_path / "app", stream())))
    assert b"workers" not in text
    assert b"timeout" not in text


def test_two_namespaces_with_one_name(tmp_path: Path) -> None:
    """They get the namespace in their file's name, which Atmo cannot do; all others keep the plain name."""
    modules = {"hello": b"one", "db::hello": b"two", "upper": b"three"}
    application = load(write_project(tmp_path / "app", stream(), modules))
    write_bundle(application, tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        assert archive.namelist()[1:] == ["db.hello.wasm", "default.hello.wasm", "upper.wasm"]
    again = load(tmp_path / "a.zip")
    same(application, again)
    assert (again.module("db::hello"), again.module("default::hello")) == (b"two", b"one")


def test_file_names_that_collide_are_refused(tmp_path: Path) -> None:
    """`a.b` of one namespace and `b` of namespace `a`, where `b` is there twice."""
    modules = {"hello": b"", "a.b": b"", "a::b": b"", "c::b": b""}
    with pytest.raises(UserFilesError, match="same file name as that of `a::b`; rename one"):
        load(write_project(tmp_path / "app", stream(), modules))


def test_writing_replaces_whole_or_not_at_all(tmp_path: Path) -> None:
    """A failed build leaves the old bundle and no rubbish."""
    folder = everything(tmp_path)
    application = load(folder)
    target = tmp_path / "out/a.zip"
    target.parent.mkdir()
    target.write_bytes(b"old")
    (folder / "upper/upper.wasm").unlink()
    with pytest.raises(UserFilesError, match=r"upper\.wasm: cannot be read"):
        write_bundle(application, target)
    assert target.read_bytes() == b"old"
    assert [path.name for path in target.parent.iterdir()] == ["a.zip"]


def test_what_could_not_be_read_is_not_written(tmp_path: Path) -> None:
    """The bounds of reading hold for writing too."""
    folder = write_project(tmp_path / "app", stream())
    (folder / "static").mkdir()
    (folder / "static/zeros").write_bytes(bytes(2 << 20))
    with pytest.raises(UserFilesError, match=r"static/zeros: cannot be put into a bundle"):
        write_bundle(load(folder), tmp_path / "a.zip")
    assert not (tmp_path / "a.zip").exists()


def test_a_directive_that_only_merging_makes_too_large(tmp_path: Path) -> None:
    """Each file keeps the bounds, both together do not: told when the bundle is written, not when it is read."""
    folder = write_project(tmp_path / "app", stream())
    for file, head, letter in (("Directive.yaml", stream(), "p"), ("Queries.yaml", "", "q")):
        queries = "".join(f"  - {{name: {letter}{n}, query: SELECT 1}}\n" for n in range(12_000))
        (folder / file).write_text(head + "queries:\n" + queries)
    with pytest.raises(UserFilesError, match=r"Directive\.yaml: cannot be put into a bundle: .* more than 100,000"):
        write_bundle(load(folder), tmp_path / "a.zip")
    assert not (tmp_path / "a.zip").exists()


class NoFiles:
    """Of an application whose Directive alone is of interest."""

    def module(self, key: str) -> bytes:
        raise KeyError(key)

    def static(self, name: str) -> bytes:
        raise KeyError(name)

    def static_names(self) -> tuple[str, ...]:
        return ()


TEXTS = st.text(st.characters(codec="utf-8"), max_size=30)


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(TEXTS.filter(bool), TEXTS, max_size=4),
    TEXTS,
    st.sampled_from(['"', "'", "|", ">", None]),
    st.booleans(),
)
def test_any_texts_survive(state: dict[str, str], comment: str, style: str | None, in_unicode: bool) -> None:
    """Whatever a user's texts hold, in whatever style they were written: the bundle's Directive is the same."""
    tree = yaml.safe_load(stream())
    tree["schedules"] = [{"name": "s", "every": {"days": 1}, "state": state, "steps": [{"fn": "hello"}]}]
    tree["queries"] = [{"name": "q", "query": f"SELECT 1\n--{comment}".replace("\n", " ")}]
    text = yaml.dump(tree, default_style=style, allow_unicode=in_unicode, width=40).encode()
    report = Report()
    texts = Texts("Directive.yaml", text, runnables=runnable_files(FUNCTIONS))
    parsed = parse(texts, HandlerDefaults(), report)
    written = directive_text(Application(parsed.directive, (), Path(), parsed, NoFiles()))
    again = parse(Texts("Directive.yaml", written), HandlerDefaults(), report)
    assert report.problems == []
    assert again.directive == parsed.directive


ATMO = """\
identifier: com.suborbital.test
appVersion: v0.0.1
atmoVersion: v0.4.7
headless: false
connections:
  nats:
    serverAddress: nats://localhost:4222
runnables:
- name: helloworld-rs
  namespace: default
  lang: rust
  version: ""
  draftVersion: ""
  apiVersion: ""
  fqfn: com.suborbital.test#default::helloworld-rs@v0.0.1
  fqfnUri: /name/com.suborbital.test/default/helloworld-rs/v0.0.1
handlers:
- type: stream
  source: nats
  method: ""
  resource: user.login
  steps:
  - fn: helloworld-rs
    forEach: null
  response: ""
  respondTo: user.greeting
schedules: []
queries: []
"""


def test_a_bundle_of_atmos_own_build(tmp_path: Path) -> None:
    """With Go's empty values, unknown files at the root, folders as entries."""
    path = make_zip(
        tmp_path / "a.zip",
        {
            "Directive.yaml": ATMO,
            "helloworld-rs.wasm": b"\0asm",
            "static/": b"",
            "static/x": b"y",
            "README": b"",
            "generation.json": b"{}",
            "other/thing.bin": b"",
        },
    )
    application = load(path)
    handler = application.directive.handlers[0]
    assert (handler.name, handler.respond_to and handler.respond_to.resource) == ("nats-user_login", "user.greeting")
    assert application.module("default::helloworld-rs") == b"\0asm"
    assert application.static_names() == ("x",)
    assert application.directive.not_served == ()


def test_problems_of_a_bundle(tmp_path: Path) -> None:
    """A module without a function, a function without a module, no Directive, a broken Directive."""
    spare = make_zip(tmp_path / "a.zip", {"Directive.yaml": ATMO, "helloworld-rs.wasm": b"", "spare.wasm": b""})
    with pytest.raises(UserFilesError) as error:
        load(spare)
    assert str(error.value) == f"{spare}/spare.wasm: no function of the bundle's Directive has this module"
    spare = make_zip(tmp_path / "a.zip", {"Directive.yaml": ATMO, "helloworld-rs.wasm": b"", "x/spare.wasm": b""})
    with pytest.raises(UserFilesError, match=r"x/spare\.wasm: no function"):
        load(spare)
    with pytest.raises(UserFilesError) as error:
        load(make_zip(tmp_path / "b.zip", {"Directive.yaml": ATMO}))
    assert f"{tmp_path}/b.zip/Directive.yaml:9:3: runnables: its module `helloworld-rs.wasm`" in str(error.value)
    with pytest.raises(UserFilesError, match=r"holds no Directive\.yaml at its root"):
        load(make_zip(tmp_path / "c.zip", {"app/Directive.yaml": ATMO}))
    with pytest.raises(UserFilesError) as error:
        load(make_zip(tmp_path / "d.zip", {"Directive.yaml": HEAD.replace("identifier", "identifer")}))
    assert f"{tmp_path}/d.zip/Directive.yaml:1:1: identifer: is not a key" in str(error.value)
    with pytest.raises(UserFilesError, match="the application has no function: `runnables` is empty"):
        load(make_zip(tmp_path / "e.zip", {"Directive.yaml": HEAD}))


def test_a_bundle_that_is_replaced_while_it_is_read(tmp_path: Path) -> None:
    """Modules are read when they are needed; another archive in the old one's place is an error, never a mixture."""
    path = make_zip(tmp_path / "a.zip", {"Directive.yaml": ATMO, "helloworld-rs.wasm": b"\0asm"})
    application = load(path)
    make_zip(tmp_path / "b.zip", {"Directive.yaml": ATMO, "helloworld-rs.wasm": b"\0bsm"}).replace(path)
    with pytest.raises(UserFilesError, match="was replaced while it was being read"):
        application.module("default::helloworld-rs")
    path.unlink()
    with pytest.raises(UserFilesError, match="cannot be read: No such file"):
        application.module("default::helloworld-rs")
