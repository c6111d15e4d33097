"""Where the farm's folders are, and that they are private."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from atmo_farm.errors import CannotStart
from atmo_farm.folders import Folders, ensure_private_folder, folders, run_folders
from atmo_farm.settings import Settings

UID = os.geteuid()


def test_precedence() -> None:
    """Settings, then systemd's folders, then the user's own, then /tmp."""
    assert folders(Settings(), "com.acme.app", {"HOME": "/home/u"}) == Folders(
        Path(f"/tmp/atmo-farm-{UID}/com.acme.app"), Path("/home/u/.local/state/atmo-farm/com.acme.app")
    )
    session = {"HOME": "/home/u", "XDG_RUNTIME_DIR": "/run/user/7"}
    assert folders(Settings(), "app", session).run == Path("/run/user/7/atmo-farm/app")
    service = {**session, "RUNTIME_DIRECTORY": "/run/a:/run/b", "STATE_DIRECTORY": "/var/lib/a"}
    assert folders(Settings(), "app", service) == Folders(Path("/run/a"), Path("/var/lib/a"))
    named = Settings(run_dir=Path("/r"), state_dir=Path("/s"))
    assert folders(named, "app", service) == Folders(Path("/r"), Path("/s"))


def test_where_farms_are_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that is named, the user's own, the system's, and what lies directly in these; no files, nothing twice."""
    monkeypatch.setattr("atmo_farm.folders.SYSTEM_PLACE", tmp_path / "system")
    monkeypatch.setattr("atmo_farm.folders.TEMPORARY", f"{tmp_path}/tmp-{{uid}}")
    made = [tmp_path / name for name in ("named", "xdg/atmo-farm/b", "xdg/atmo-farm/a", f"tmp-{UID}/c", "system/d")]
    for folder in made:
        folder.mkdir(parents=True)
    (tmp_path / "system" / "file").touch()
    (tmp_path / "xdg" / "atmo-farm" / "gone").symlink_to(tmp_path / "nowhere")
    environ = {"XDG_RUNTIME_DIR": str(tmp_path / "xdg"), "RUNTIME_DIRECTORY": f"{tmp_path}/system/d:/other"}
    found = [str(folder.relative_to(tmp_path)) for folder in run_folders(Settings(), environ)]
    mine = ["xdg/atmo-farm", f"tmp-{UID}", "system"]
    assert found == ["system/d", *mine, "xdg/atmo-farm/a", "xdg/atmo-farm/b", f"tmp-{UID}/c"]
    assert run_folders(Settings(run_dir=tmp_path / "named"), environ)[0] == tmp_path / "named"
    assert run_folders(Settings(), {})


@pytest.mark.skipif(UID != 0, reason="needs to give folders to another user")
@pytest.mark.parametrize("is_link", [False, True])
def test_where_somebody_else_may_have_put_a_farm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_link: bool
) -> None:
    """Anybody can make a folder in /tmp that is called like ours: what is in it is not even looked at."""
    monkeypatch.setattr("atmo_farm.folders.SYSTEM_PLACE", tmp_path / "system")
    monkeypatch.setattr("atmo_farm.folders.TEMPORARY", f"{tmp_path}/tmp-{{uid}}")
    trap = tmp_path / f"tmp-{UID}"
    real = tmp_path / "theirs" if is_link else trap
    (real / "trap").mkdir(parents=True)
    if is_link:
        trap.symlink_to(real)
    assert bool(run_folders(Settings(), {})) is not is_link
    os.chown(real, 12345, 12345)
    assert run_folders(Settings(), {}) == []


def test_identifier_is_one_component() -> None:
    """An identifier never leads out of its place."""
    assert folders(Settings(), "../../etc", {"HOME": "/h"}).state == Path("/h/.local/state/atmo-farm/.._.._etc")
    assert folders(Settings(), "..", {"HOME": "/h"}).state == Path("/h/.local/state/atmo-farm/_")


def test_long_run_folder_is_refused() -> None:
    """A socket's path has 100 bytes at most, and the way out is named."""
    longest = Path("/" + "r" * (100 - len("/datasource.sock") - 1))
    assert folders(Settings(run_dir=longest), "a", {}).run == longest
    with pytest.raises(CannotStart, match=r"paths of 101 bytes and 100 are allowed; give a shorter one with --run-dir"):
        folders(Settings(run_dir=Path(f"{longest}r")), "a", {})


def test_folder_is_made_private(tmp_path: Path) -> None:
    """The folder and what is missing above it is 0700; a wider one of ours is narrowed; twice is fine."""
    folder = tmp_path / "a" / "b"
    ensure_private_folder(folder)
    assert folder.stat().st_mode & 0o777 == folder.parent.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o755)
    ensure_private_folder(folder)
    assert folder.stat().st_mode & 0o777 == 0o700


def test_what_is_no_private_folder(tmp_path: Path) -> None:
    """Links, files and other users' folders are refused by name."""
    real = tmp_path / "real"
    real.mkdir()
    link = tmp_path / "link"
    link.symlink_to(real)
    with pytest.raises(CannotStart, match=r"link cannot be used: it is a symbolic link; name another with --run-dir"):
        ensure_private_folder(link)
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(CannotStart, match="Not a directory"):
        ensure_private_folder(file)
    with pytest.raises(CannotStart, match="Not a directory"):
        ensure_private_folder(file / "below")


@pytest.mark.skipif(UID != 0, reason="needs to give folders to another user")
def test_other_users_folders(tmp_path: Path) -> None:
    """Neither another user's folder nor one below it in a public place is used."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, 12345, 12345)
    with pytest.raises(CannotStart, match="belongs to user id 12345, not to 0"):
        ensure_private_folder(theirs)
    public = tmp_path / "public"
    public.mkdir()
    public.chmod(0o1777)
    trap = public / "atmo-farm-0"
    trap.mkdir()
    os.chown(trap, 12345, 12345)
    with pytest.raises(CannotStart, match=r"lies in .*atmo-farm-0, which is another user's"):
        ensure_private_folder(trap / "app")


@pytest.mark.skipif(UID != 0, reason="needs to give links to another user")
def test_another_users_link_in_a_public_place(tmp_path: Path) -> None:
    """What it leads to may be moved away under our hands: refused, while a link of our own is followed."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, 12345, 12345)
    public = tmp_path / "public"
    public.mkdir()
    public.chmod(0o1777)
    trap = public / "atmo-farm-0"
    trap.symlink_to(theirs)
    os.chown(trap, 12345, 12345, follow_symlinks=False)
    with pytest.raises(CannotStart, match=r"lies in .*atmo-farm-0, which is another user's"):
        ensure_private_folder(trap / "app")
    (public / "ours").symlink_to(tmp_path)
    ensure_private_folder(public / "ours" / "app")


def test_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without a home folder has to name the state folder, and is told how."""

    def nobody(_uid: int) -> None:
        raise KeyError("uid not found")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", nobody)
    with pytest.raises(CannotStart, match=r"no home folder.*--state-dir"):
        folders(Settings(run_dir=Path("/r")), "app", {})
    assert folders(Settings(run_dir=Path("/r"), state_dir=Path("/s")), "app", {}).state == Path("/s")


def test_a_state_folder_of_systemd_may_be_a_link(tmp_path: Path) -> None:
    """With DynamicUser systemd makes /var/lib/atmo-farm/x a link into /var/lib/private; any other link is refused."""
    (tmp_path / "private").mkdir()
    link = tmp_path / "link"
    link.symlink_to("private")
    found = folders(Settings(), "app", {"STATE_DIRECTORY": str(link), "HOME": "/h"}).state
    assert found == tmp_path / "private"
    ensure_private_folder(found)
    with pytest.raises(CannotStart, match="symbolic link"):
        ensure_private_folder(folders(Settings(state_dir=link), "app", {}).state)
