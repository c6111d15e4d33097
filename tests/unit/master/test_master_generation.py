"""From the user's files to a generation, by a real helper process, the real compiler and real modules."""

from __future__ import annotations

import json
import os
import selectors
import shutil
from pathlib import Path

import attrs
import pytest

from atmo_farm import clock
from atmo_farm.errors import AtmoFarmError, CannotStart, UserFilesError
from atmo_farm.master.generation import Generation
from atmo_farm.master.helper import Accepted, Helper
from atmo_farm.master.loader import Loader
from atmo_farm.settings import Settings
from tests.guests import guest

DIRECTIVE = """\
identifier: com.example.loading
appVersion: v1.0.0
atmoVersion: v0.4.7
connections:
  nats:
    serverAddress: env(TEST_ADDRESS)
handlers:
  - type: stream
    source: nats
    name: echo
    resource: in
    workers: 2
    steps:
      - fn: hello
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "app"
    (folder / "hello").mkdir(parents=True)
    (folder / "Directive.yaml").write_text(DIRECTIVE)
    (folder / "hello" / ".runnable.yaml").write_text("name: hello\nnamespace: default\nlang: c\n")
    shutil.copy(guest("c", "hello").path, folder / "hello" / "hello.wasm")
    return folder


class Loading:
    """A loader, and what the master does around it."""

    def __init__(self, project: Path, state: Path, environ: dict[str, str] | None = None):
        self.selector = selectors.DefaultSelector()
        self.environ = {"TEST_ADDRESS": "127.0.0.1:4222"} if environ is None else environ
        state.mkdir(mode=0o700, exist_ok=True)
        self.state = state
        self.loader = Loader(project, Settings(), self.environ, self.selector, lambda: None)

    def result(self, helper: Helper) -> Accepted | AtmoFarmError:
        while helper.result is None:
            self.selector.select(max(0.0, helper.step(clock.monotonic()) - clock.monotonic()))
        self.loader.finish()
        return helper.result

    def start(self) -> Generation:
        return self.take_in_result(self.loader.start(lambda _: self.state))

    def take_in_result(self, helper: Helper) -> Generation:
        accepted = self.result(helper)
        if isinstance(accepted, AtmoFarmError):
            raise accepted
        return self.loader.take_in(accepted)


@pytest.fixture
def loading(project: Path, tmp_path: Path) -> Loading:
    return Loading(project, tmp_path / "state")


def test_a_generation_is_kept_whole(loading: Loading, project: Path) -> None:
    """The bundle, its record with checksum, time, cause and source, and compiled modules for the children."""
    generation = loading.start()
    record = json.loads((loading.state / "generations" / "1.json").read_text())
    assert record["generation"] == 1 and record["cause"] == "start" and record["source"] == str(project)
    assert record["identifier"] == "com.example.loading" and len(record["sha256"]) == 64
    assert generation.number == 1
    assert generation.directive.connections.nats["default"].server_addresses[0].endswith("127.0.0.1:4222")
    module = generation.modules["default::hello"]
    assert all(path.is_relative_to(loading.state / "modules") and path.exists() for path in module.files)
    assert generation.missing_modules(generation.roles()[0]) == []
    shutil.rmtree(project)
    assert loading.loader._generations.load(1, Settings().defaults).module("default::hello")


def test_no_process_and_no_descriptor_is_left(loading: Loading) -> None:
    """After ten of them, as before the first."""
    loading.start()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(10):
        loading.start()
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    assert "atmo helper" not in [Path(f"/proc/{pid}/comm").read_text().strip() for pid in children]


def test_every_problem_is_told(project: Path, tmp_path: Path) -> None:
    """An unset reference and a bad module together, each with its place."""
    (project / "hello" / "hello.wasm").write_bytes(b"not wasm")
    loading = Loading(project, tmp_path / "state", environ={})
    with pytest.raises(UserFilesError) as caught:
        loading.start()
    texts = [str(problem) for problem in caught.value.problems]
    assert any("Directive.yaml:6" in text and "TEST_ADDRESS" in text for text in texts)
    assert any("hello" in text and "not a WebAssembly module" in text for text in texts)
    assert not (tmp_path / "state" / "generations").exists()


def test_what_is_not_served_is_refused_with_its_line(loading: Loading, project: Path) -> None:
    """Exit code 3, in one sentence each."""
    with (project / "Directive.yaml").open("a") as file:
        file.write("headless: true\n")
    with pytest.raises(CannotStart, match=r"Directive.yaml:15.*headless.*not served"):
        loading.start()


def test_what_is_not_served_hides_nothing(project: Path, tmp_path: Path) -> None:
    """Errors of the Directive, unset references and what is not served are told together, in the order of the file."""
    text = DIRECTIVE.replace("fn: hello", "fn: helo") + "headless: true\n"
    (project / "Directive.yaml").write_text(text)
    with pytest.raises(UserFilesError) as caught:
        Loading(project, tmp_path / "state", environ={}).start()
    keys = [problem.key for problem in caught.value.problems]
    assert keys == ["connections.nats.serverAddress", "handlers[0].steps[0].fn", "headless"]
    assert {problem.severity for problem in caught.value.problems} == {"error"}


def test_another_identifier_is_another_farm(loading: Loading, project: Path) -> None:
    """A reload cannot turn one application into another."""
    generation = loading.start()
    (project / "Directive.yaml").write_text(DIRECTIVE.replace("com.example.loading", "com.example.other"))
    refused = loading.result(loading.loader.reload(generation))
    assert isinstance(refused, CannotStart) and "another application" in str(refused)


def test_a_reload_says_what_changed(loading: Loading, project: Path) -> None:
    """By handler and function; a new version alone changes no recipe."""
    first = loading.start()
    (project / "Directive.yaml").write_text(DIRECTIVE.replace("v1.0.0", "v1.0.1"))
    accepted = loading.result(loading.loader.reload(first))
    assert isinstance(accepted, Accepted) and "app_version" in accepted.changes
    second = loading.loader.take_in(accepted)
    role, _ = first.roles()
    assert second.recipe(second.roles()[0]) == first.recipe(role)
    shutil.copy(guest("c", "upper-case").path, project / "hello" / "hello.wasm")
    accepted = loading.result(loading.loader.reload(second))
    assert isinstance(accepted, Accepted) and "functions: ~default::hello" in accepted.changes
    third = loading.loader.take_in(accepted)
    assert third.recipe(third.roles()[0]) != first.recipe(role)


def test_a_rotated_secret_changes_the_recipe(loading: Loading) -> None:
    """The file is the same, what its reference leads to is not."""
    first = loading.start()
    loading.environ["TEST_ADDRESS"] = "127.0.0.1:5222"
    accepted = loading.result(loading.loader.reload(first))
    assert isinstance(accepted, Accepted)
    second = loading.loader.take_in(accepted)
    assert second.recipe(second.roles()[0]) != first.recipe(first.roles()[0])


def test_a_changed_bundle_is_not_run(loading: Loading) -> None:
    """Nor does it keep the next reload from working."""
    generation = loading.start()
    bundle = loading.state / "generations" / "1.zip"
    bundle.write_bytes(bundle.read_bytes() + b" ")
    with pytest.raises(AtmoFarmError, match="was changed after it was accepted"):
        loading.loader._generations.load(1, Settings().defaults)
    record = loading.state / "generations" / "1.json"
    for content in (b"[]", b"{}", b"\xff", b""):
        record.write_bytes(content)
        with pytest.raises(AtmoFarmError, match="generation 1 cannot be read"):
            loading.loader._generations.load(1, Settings().defaults)
        loading.loader.drop(1, "did not boot")
    assert isinstance(loading.result(loading.loader.reload(generation)), Accepted)


def test_missing_modules_are_compiled_again(loading: Loading) -> None:
    """From the kept bundle: the user's folder is not looked at."""
    generation = loading.start()
    shutil.rmtree(loading.state / "modules")
    role, _ = generation.roles()
    assert generation.missing_modules(role)
    shutil.rmtree(loading.loader.source)
    accepted = loading.result(loading.loader.recompile(generation))
    assert isinstance(accepted, Accepted)
    assert attrs.evolve(generation, modules=accepted.modules).missing_modules(role) == []


def test_the_last_five_are_kept_and_the_one_in_force(loading: Loading) -> None:
    """Numbers are not used twice, also when the newest one was rolled back."""
    for _ in range(8):
        loading.start()
    generations = loading.loader._generations
    generations.prune(in_force=2)
    kept = {path.name for path in (loading.state / "generations").iterdir()}
    assert kept == {f"{number}.zip" for number in (2, 4, 5, 6, 7, 8)} | {f"{number}.json" for number in range(1, 9)}
    generations.refuse(8, "did not boot")
    assert not generations.bundle(8).exists()
    assert loading.start().number == 9


def test_a_rollback_holds_over_starts_while_it_can(loading: Loading, project: Path) -> None:
    """Each start repeats it again; a damaged bundle ends that, and it is not for another application."""
    first = loading.start()
    directive = project / "Directive.yaml"
    directive.write_text(DIRECTIVE.replace("workers: 2", "workers: 3"))
    second = loading.take_in_result(loading.loader.reload(first))
    assert second.directive.handlers[0].workers == 3 and not second.note
    back = loading.take_in_result(loading.loader.rollback(second, "rollback", 0))
    assert (back.number, back.repeats, back.directive.handlers[0].workers) == (3, 1, 2)
    again = loading.start()
    assert (again.number, again.repeats, again.directive.handlers[0].workers) == (4, 1, 2)
    refused = loading.result(loading.loader.rollback(again, "rollback", 0))
    assert isinstance(refused, AtmoFarmError) and "no generation before 1 is kept" in str(refused)
    directive.write_text(DIRECTIVE.replace("com.example.loading", "com.example.other"))
    other = loading.start()
    assert (other.repeats, other.directive.identifier) == (0, "com.example.other")
    directive.write_text(DIRECTIVE.replace("workers: 2", "workers: 3"))
    back = loading.take_in_result(loading.loader.rollback(again, "rollback", 1))
    loading.loader._generations.bundle(back.number).write_bytes(b"damaged")
    assert (loading.start().repeats, loading.start().directive.handlers[0].workers) == (0, 3)
    history = loading.loader.history()
    assert [one["repeats"] for one in reversed(history)] == [0, 0, 1, 1, 0, 1, 0, 0]
    assert [one["changes"] for one in history][-2:] == ["handlers: ~echo", ""]


def test_refused_generations_take_no_good_ones_place(loading: Loading, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last five bundles are kept, and the last records, as many as the history has, whatever became of them."""
    monkeypatch.setattr("atmo_farm.master.generation.RECORDS", 5)
    for _ in range(6):
        loading.start()
    generations = loading.loader._generations
    for number in range(7, 15):
        assert loading.start().number == number
        generations.refuse(number, "did not boot")
    generations.prune(in_force=6)
    kept = {path.name for path in (loading.state / "generations").iterdir()}
    good = {f"{number}.{kind}" for number in range(2, 7) for kind in ("zip", "json")}
    assert kept == good | {f"{number}.json" for number in range(10, 15)}


def test_numbers_go_on_when_the_folder_is_gone(loading: Loading) -> None:
    """Somebody removed the state folder under the farm: the next generation is not another one with the same number."""
    first = loading.start()
    shutil.rmtree(loading.state)
    accepted = loading.result(loading.loader.reload(first))
    assert isinstance(accepted, Accepted) and accepted.generation == 2
    assert loading.loader.take_in(accepted).number == 2


def test_what_a_helper_left_half_written_is_removed(loading: Loading) -> None:
    """As old generations are; what is none is left alone, and hinders nothing."""
    generation = loading.start()
    folder = loading.state / "generations"
    for name in (".3.zip.unfinished.77", "4.json.unfinished", "².zip", "notes.txt", ".1.5.zip"):
        (folder / name).touch()
    (folder / "2.zip").mkdir()
    for _ in range(6):
        last = loading.start()
    assert (generation.number, last.number) == (1, 10)
    loading.loader.prune(last)
    names = {path.name for path in folder.iterdir()}
    kept = {f"{number}.zip" for number in range(6, 11)} | {f"{number}.json" for number in (1, *range(5, 11))}
    assert names == kept | {"2.zip", "².zip", "notes.txt", ".1.5.zip"}


def test_old_compiled_modules_are_removed(loading: Loading, project: Path) -> None:
    """Only those of the generation in force and of the new one stay."""
    generation = loading.start()
    folder = loading.state / "modules"
    for name in ("upper-case", "failing", "logging"):
        shutil.copy(guest("c", name).path, project / "hello" / "hello.wasm")
        accepted = loading.result(loading.loader.reload(generation))
        assert isinstance(accepted, Accepted)
        used = {path.name for made in (generation, accepted) for path in made.modules["default::hello"].files}
        assert {path.name for path in folder.glob("*.cwasm")} == used
        generation = loading.loader.take_in(accepted)


def test_channels_of_children_forked_meanwhile_do_not_hold_the_helper(loading: Loading) -> None:
    """`shed` closes the copy of the master's end."""
    helper = loading.loader.start(lambda _: loading.state)
    descriptor = helper.fileno()
    loading.loader.shed()
    with pytest.raises(OSError):
        os.fstat(descriptor)
    loading.selector.close()
    helper.close()
