"""Reading folders: what is found where, and what is said of what is not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from atmo_farm.directive import load, read
from atmo_farm.directive.application import static_name
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


def test_a_folder_that_is_no_projects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The search gives up after very many folders, and says so."""
    monkeypatch.setattr("atmo_farm.directive.project.MAX_FOLDERS", 3)
    folder = project(tmp_path)
    assert "more than 3 folders; is this the project's folder?" in problems(folder)[0].message
    monkeypatch.setattr("atmo_farm.directive.project.MAX_FOLDERS", 4)
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


@pytest.mark.parametrize("name", [b"a\\b", b"a\nb", b"\xff", b"d\x1b/x"])
def test_names_that_no_bundle_may_hold(tmp_path: Path, name: bytes) -> None:
    """Every farm runs from a bundle that it writes: such a file is told before that fails."""
    folder = project(tmp_path)
    path = folder / "static" / os.fsdecode(name)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    (problem,) = problems(folder)
    assert problem.position.file == f"{folder}/static"
    assert "cannot stand in a bundle; rename it" in problem.message
    assert str(problem).isprintable()


def test_folders_that_cannot_be_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function that is not found is no secret."""
    folder = project(tmp_path)
    real = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("upper"):
            raise PermissionError(13, "Permission denied", path)
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    application = load(folder)
    assert [str(warning) for warning in application.warnings] == [
        f"{folder}/upper: warning: cannot be searched: Permission denied"
    ]


def test_what_can_be_read_of_a_wrong_application(tmp_path: Path) -> None:
    """The problems of all files, and the functions whose modules may still be looked at."""
    folder = project(tmp_path, stream("worker: 1"))
    (folder / "upper/upper.wasm").unlink()
    (folder / "db-get/.runnable.yaml").write_text("name: other\nlag: c\n")
    reading = read(folder)
    assert not reading.is_whole
    assert [(problem.key, problem.position.file.removeprefix(f"{folder}/")) for problem in reading.problems] == [
        ("handlers[0].worker", "Directive.yaml"),
        ("lag", "db-get/.runnable.yaml"),
        ("name", "upper/.runnable.yaml"),
    ]
    assert [runnable.key for runnable in reading.application.directive.runnables] == ["default::hello"]
    assert reading.application.module("default::hello") == b"\0asm"
    with pytest.raises(UserFilesError) as error:
        reading.whole()
    assert error.value.problems == reading.problems


def test_modules_beside_a_directive_that_is_none(tmp_path: Path) -> None:
    folder = project(tmp_path)
    (folder / "Directive.yaml").write_text("[")
    (folder / "hello/hello.wasm").unlink()
    assert [problem.key for problem in problems(folder)] == ["", "name"]
    assert len(read(folder).application.directive.runnables) == 2


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("a", "a"),
        ("static//a", "a"),
        ("static/./a", "a"),
        ("/./static/a", "a"),
        ("static/static/a", "static/a"),
        ("./././a", "././a"),
        ("", ""),
    ],
)
def test_names_of_static_files(name: str, plain: str) -> None:
    """Each of Atmo's beginnings is dropped once, in any order."""
    assert static_name(name) == plain


def test_special_files_are_not_opened(tmp_path: Path) -> None:
    """A pipe where a file should be blocks nobody."""
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
