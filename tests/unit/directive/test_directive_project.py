"""Reading folders: what is found where, and what is said of what is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from atmo_farm.directive import load
from atmo_farm.errors import NotFound, Problem, UserFilesError
from tests.unit.directive.support import HEAD, stream, write_project


def problems(path: Path) -> tuple[Problem, ...]:
    with pytest.raises(UserFilesError) as error:
        load(path)
    return error.value.problems


def project(tmp_path: Path, directive: str = "") -> Path:
    return write_project(tmp_path / "app", directive or stream())


def test_a_project(tmp_path: Path) -> None:
    """Functions of all folders, Queries.yaml and static files come together."""
    folder = project(tmp_path)
    (folder / "deep/er/fn").mkdir(parents=True)
    (folder / "deep/er/fn/.runnable.yml").write_text("lang: c\ninterface: wasi-command\nversion: v3\n")
    (folder / "deep/er/fn/fn.wasm").write_bytes(b"\0asm-fn")
    (folder / "Queries.yaml").write_text("queries:\n  - {name: q, query: SELECT 1}\n")
    (folder / "static/css").mkdir(parents=True)
    (folder / "static/css/a.css").write_text("x")
    application = load(folder)
    assert [r.key for r in application.directive.runnables] == [
        "db::get",
        "default::fn",
        "default::hello",
        "default::upper",
    ]
    runnable = application.directive.runnable("default::fn")
    assert (runnable.interface, runnable.lang, runnable.version) == ("wasi-command", "c", "v3")
    assert runnable.fqfn == "com.example.shop#default::fn@v1.0.0"
    assert application.module("default::fn") == b"\0asm-fn"
    assert application.static_names() == ("css/a.css",)
    for name in (
        "css/a.css",
        "/css/a.css",
        "./css/a.css",
        "static/css/a.css",
        "./static/css/a.css",
        "/static/css/a.css",
    ):
        assert application.static(name) == b"x"
    assert application.directive.queries[0].name == "q"
    assert application.path == folder


@pytest.mark.parametrize("name", ["nothing.css", "../Directive.yaml", "css/../../Directive.yaml", "", "/"])
def test_other_files_are_no_static_files(tmp_path: Path, name: str) -> None:
    folder = project(tmp_path)
    (folder / "static/css").mkdir(parents=True)
    with pytest.raises(NotFound):
        load(folder).static(name)


def test_nothing_there(tmp_path: Path) -> None:
    """A name without anything, a folder without a Directive, a name that cannot be one."""
    assert "there is nothing with this name" in problems(tmp_path / "x")[0].message
    assert "there is no Directive.yaml in this folder" in problems(tmp_path)[0].message
    assert "nothing with this name" in problems(Path("a\0b"))[0].message


def test_folders_that_are_not_searched(tmp_path: Path) -> None:
    """Hidden folders, build folders and links hold no functions."""
    folder = project(tmp_path)
    for name in (".git", "node_modules", "target", "__pycache__"):
        (folder / name / "fn").mkdir(parents=True)
        (folder / name / "fn" / ".runnable.yaml").write_text("name: other\n")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/.runnable.yaml").write_text("name: other\n")
    (folder / "link").symlink_to(tmp_path / "elsewhere")
    assert len(load(folder).directive.runnables) == 3


def test_a_missing_module(tmp_path: Path) -> None:
    """It is told at the function's file, with the path that was expected."""
    folder = project(tmp_path)
    (folder / "hello/hello.wasm").unlink()
    (problem,) = problems(folder)
    assert str(problem.position) == f"{folder}/hello/.runnable.yaml:1:1"
    assert f"{folder}/hello/hello.wasm is not there; build the function" in problem.message


def test_all_problems_of_all_files(tmp_path: Path) -> None:
    """The Directive, queries and functions: everything at once, sorted by file and place."""
    folder = project(tmp_path, stream("workers: x\nworker: 1"))
    (folder / "hello/.runnable.yaml").write_text("nme: hello\n")
    (folder / "upper/.runnable.yaml").write_text("name: 'a b'\n")
    (folder / "Queries.yaml").write_text("queries:\n  - name: q\n")
    found = [(p.position.file.removeprefix(f"{folder}/"), p.position.line, p.key) for p in problems(folder)]
    assert found == [
        ("Directive.yaml", 12, "handlers[0].workers"),
        ("Directive.yaml", 13, "handlers[0].worker"),
        ("Queries.yaml", 2, "queries[0].query"),
        ("hello/.runnable.yaml", 1, "nme"),
        ("upper/.runnable.yaml", 1, "name"),
    ]


def test_a_broken_function_file_does_not_make_its_callers_wrong(tmp_path: Path) -> None:
    folder = project(tmp_path)
    (folder / "hello/.runnable.yaml").write_text("name: [\n")
    (problem,) = problems(folder)
    assert "is not YAML" in problem.message


def test_an_empty_function_file_takes_the_folders_name(tmp_path: Path) -> None:
    folder = project(tmp_path)
    (folder / "hello/.runnable.yaml").write_text("# nothing\n")
    assert load(folder).directive.runnable("default::hello").name == "hello"


def test_two_functions_of_one_name(tmp_path: Path) -> None:
    """The later one is told where the other is; in two namespaces both are fine."""
    folder = project(tmp_path)
    (folder / "upper/.runnable.yaml").write_text("lang: c\nname: hello\n")
    (problem,) = problems(folder)
    assert str(problem.position) == f"{folder}/upper/.runnable.yaml:2:1"
    assert f"`default::hello`; the other is in {folder}/hello/.runnable.yaml:1:1" in problem.message


def test_both_spellings_of_the_function_file(tmp_path: Path) -> None:
    folder = project(tmp_path)
    (folder / "hello/.runnable.yml").write_text("name: hello\n")
    assert "keep one of them" in problems(folder)[0].message


def test_a_folder_name_that_is_no_function_name(tmp_path: Path) -> None:
    folder = project(tmp_path)
    (folder / "a b").mkdir()
    (folder / "a b/.runnable.yaml").write_text("lang: c\n")
    assert "`a b` cannot be a function's" in problems(folder)[0].message


def test_the_project_may_itself_be_a_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A .runnable.yaml beside the Directive, read as `.`: the folder's own name counts."""
    folder = write_project(tmp_path / "only", HEAD, {})
    (folder / ".runnable.yaml").write_text("lang: c\n")
    (folder / "only.wasm").write_bytes(b"\0asm")
    monkeypatch.chdir(folder)
    assert load(Path()).directive.runnables[0].key == "default::only"


def test_static_links(tmp_path: Path) -> None:
    """A link that leads out of the static folder is left out and warned of."""
    folder = project(tmp_path)
    (folder / "static").mkdir()
    (folder / "static/inside").write_text("x")
    (folder / "static/also").symlink_to("inside")
    (folder / "static/out").symlink_to(folder / "Directive.yaml")
    application = load(folder)
    assert application.static_names() == ("also", "inside")
    assert [warning.position.file for warning in application.warnings] == [f"{folder}/static/out"]


def test_special_files_are_not_opened(tmp_path: Path) -> None:
    """A pipe where a file should be blocks nobody."""
    import os

    folder = project(tmp_path)
    (folder / "static").mkdir()
    os.mkfifo(folder / "static/pipe")
    (folder / "x").mkdir()
    os.mkfifo(folder / "x/.runnable.yaml")
    assert load(folder).static_names() == ()


def test_files_that_cannot_be_read_are_problems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the file system is a problem with the file's name."""
    folder = project(tmp_path)
    real = Path.open

    def refuse(self: Path, *args: object, **kwargs: object) -> object:
        if self.name == "Directive.yaml":
            raise PermissionError(13, "Permission denied", str(self))
        return real(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "open", refuse)
    assert str(problems(folder)[0]) == f"{folder}/Directive.yaml: cannot be read: Permission denied"


def test_a_module_that_changes_while_it_is_read(tmp_path: Path) -> None:
    """All readers of one application see the same bytes, or an error."""
    folder = project(tmp_path)
    application = load(folder)
    assert application.digest("default::hello") == application.digest("default::upper")
    application.module("default::hello")
    (folder / "hello/hello.wasm").write_bytes(b"new")
    with pytest.raises(UserFilesError, match="changed while it was being read"):
        application.module("default::hello")
    with pytest.raises(KeyError):
        application.module("default::none")
