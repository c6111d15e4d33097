"""The footprint of an application: another one after each change of what is read of it, and after no other."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from atmo_farm.directive.footprint import footprint
from tests.farm import add_module, write_app


def test_a_project(tmp_path: Path) -> None:
    """Directive, queries, functions and static files; written, replaced, added or removed."""
    app = write_app(tmp_path / "app", "handlers: []\n")
    seen = [footprint(app)]

    def changed() -> bool:
        seen.append(footprint(app))
        return seen[-1] not in seen[:-1]

    add_module(app, "one", b"\0asm")
    assert changed()
    (app / "one" / "one.wasm").write_bytes(b"\0asm.")
    assert changed()
    directive = app / "Directive.yaml"
    os.utime(directive, ns=(1, 1))
    assert changed(), "of the same size"
    shutil.copy2(directive, tmp_path / "other")
    (tmp_path / "other").rename(directive)
    assert changed(), "replaced by one that looks as old"
    (app / "Queries.yaml").write_text("queries: []\n")
    assert changed()
    (app / "static" / "css").mkdir(parents=True)
    (app / "static" / "css" / "a.css").write_text("a")
    assert changed()
    (app / "static" / "css" / "a.css").rename(app / "static" / "a.css")
    assert changed()
    (app / "static" / "a.css").unlink()
    (app / "Queries.yaml").unlink()
    for name in ("node_modules", "target", ".git"):
        add_module(app, name, b"\0asm")
    (app / "README.md").write_text("of no concern")
    assert footprint(app) == seen[4]
    directive.unlink()
    assert footprint(app) == "", "no application"


def test_a_bundle(tmp_path: Path) -> None:
    """One file, which may be away for a moment."""
    bundle = tmp_path / "app.zip"
    assert footprint(bundle) == ""
    bundle.write_bytes(b"one")
    first = footprint(bundle)
    (tmp_path / "new").write_bytes(b"one")
    os.utime(tmp_path / "new", ns=(bundle.stat().st_mtime_ns,) * 2)
    (tmp_path / "new").rename(bundle)
    assert footprint(bundle) not in ("", first)


def test_what_cannot_be_looked_at(tmp_path: Path) -> None:
    """It is told when it is read; a link that leads nowhere is no file."""
    assert footprint(tmp_path / ("x" * 300)) == "" == footprint(tmp_path / "a" / "b")
    app = write_app(tmp_path / "app", "handlers: []\n")
    before = footprint(app)
    (app / "static").mkdir()
    (app / "static" / "link").symlink_to("nowhere")
    assert footprint(app) == before
