"""The spool: what was kept is there, whoever was killed when; what is no letter is passed over."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from atmo_farm.delivery import spool
from atmo_farm.delivery.letters import Letter
from atmo_farm.delivery.spool import Spool
from atmo_farm.errors import PublishError
from atmo_farm.streams.base import Kept, Output
from tests.streams import run

BINARY = bytes(range(256)) * 3


def output(number: int, data: bytes = BINARY, **keys: object) -> Output:
    return Output("atmo.dead.a.h", data, {"Atmo-Dead-Id": str(number)}, None, f"m{number}", **keys)  # type: ignore[arg-type]


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def all_of(kept: Spool) -> list[Kept]:
    return [letter async for letter in kept.letters()]


def test_what_is_kept_comes_back(tmp_path: Path) -> None:
    """Payload, headers with repeated names, line ends and bytes that are no text, the record's key: nothing changes."""
    original = (("X-Way", "a"), ("X-Way", "b\r\nc"), ("schlüssel", "\udcff\udc80€"), ("", ""))
    letter = output(1, original=original, record_key=b"\xff\x00")

    async def body() -> None:
        kept = Spool(tmp_path, "h", 1 << 20)
        await kept.keep(letter)
        (listed,) = await all_of(kept)
        assert listed.data == b"" and listed.size == len(BINARY)
        loaded = await kept.load(listed.id)
        assert loaded is not None
        assert loaded.data == BINARY
        assert loaded.headers == (*original, ("Atmo-Dead-Id", "1"))
        assert (loaded.key, loaded.record_key) == ("m1", b"\xff\x00")
        assert await kept.remove(listed.id)
        assert not await kept.remove(listed.id)
        assert await kept.load(listed.id) is None
        assert await all_of(kept) == []

    run(body())


def test_one_letter_kept_twice_is_there_once(tmp_path: Path) -> None:
    """A message that is delivered again after its letter was kept makes no second one."""

    async def body() -> None:
        await Spool(tmp_path, "h", 1 << 20).keep(output(1))
        again = Spool(tmp_path, "h", 1 << 20)
        await again.keep(output(1))
        await again.keep(output(1, b"another one of the same id"))
        assert sorted(letter.size for letter in await all_of(again)) == [26, len(BINARY)]

    run(body())


@pytest.mark.parametrize("content", [b"", b"atmo-dead-letter 1 torn", None])
def test_a_file_of_its_name_that_is_no_letter(tmp_path: Path, content: bytes | None) -> None:
    """It is written again, and only its own size counts."""

    async def body() -> None:
        kept = Spool(tmp_path, "h", 1 << 20)
        await kept.keep(output(1))
        (file,) = (tmp_path / "dead" / "h").glob("*.letter")
        whole, used = file.read_bytes(), (file.parent / "lock").read_text()
        file.write_bytes(whole[:-1] + b"?" if content is None else content)
        again = Spool(tmp_path, "h", 1 << 20)
        await again.keep(output(1))
        assert file.read_bytes() == whole
        assert (file.parent / "lock").read_text() == used

    run(body())


def test_only_this_user_can_read_it(tmp_path: Path) -> None:
    """Folders are 0700 and files 0600, whatever the umask is."""
    before = os.umask(0)
    try:
        run(Spool(tmp_path, "h", 1 << 20).keep(output(1)))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "dead/h").stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "dead/h").iterdir()} == {0o600}


def test_its_limit_holds_over_all_processes(tmp_path: Path) -> None:
    """Two that fill it side by side do not pass the limit; what is removed makes room."""
    limit = 3000

    async def body() -> None:
        first, second = Spool(tmp_path, "h", limit), Spool(tmp_path, "h", limit)
        number = 0
        with pytest.raises(PublishError, match="replay or purge them") as refused:
            while True:
                for writer in (first, second):
                    number += 1
                    await writer.keep(output(number))
        assert refused.value.transient
        files = list((tmp_path / "dead/h").glob("*.letter"))
        assert limit - 1000 < sum(file.stat().st_size for file in files) <= limit
        assert len(files) == number - 1
        await Spool(tmp_path, "h", limit).remove(files[0].stem)
        await first.keep(output(number))

    run(body())


def test_what_is_no_letter_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Torn, changed and foreign files, links, pipes and folders: a line in the log, and the others are read."""

    async def body() -> None:
        kept = Spool(tmp_path, "h", 1 << 20)
        await kept.keep(output(1))
        folder = tmp_path / "dead/h"
        whole = next(folder.glob("*.letter")).read_bytes()
        (folder / "torn.letter").write_bytes(whole[:-1])
        (folder / "empty.letter").write_bytes(b"")
        (folder / "longer.letter").write_bytes(whole + b"x")
        (folder / "head.letter").write_bytes(whole.replace(b'"id"', b'"ID"'))
        (folder / "numbers.letter").write_bytes(b"atmo-dead-letter 1 9 9 9 -9\n")
        (folder / "other.letter").write_bytes(os.urandom(300))
        (folder / "notes.txt").write_text("mine")
        (folder / "link.letter").symlink_to("/etc/passwd")
        (folder / "folder.letter").mkdir()
        os.mkfifo(folder / "pipe.letter")
        (folder / "left.new").write_bytes(whole[:20])
        before = descriptors()
        assert [Letter(letter).told["id"] for letter in await all_of(kept)] == ["1"]
        assert len(caplog.records) == 10
        assert descriptors() == before
        (folder / "payload.letter").write_bytes(whole[:-1] + b"\x00")
        assert await kept.load("payload") is None
        assert await kept.load("../h/" + (await all_of(kept))[0].id) is None

    run(body())


def test_a_writer_that_is_stopped_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process that holds the lock and does not go on costs an error, not the loop."""
    monkeypatch.setattr(spool, "LOCK_S", 0.05)

    async def body() -> None:
        kept, other = Spool(tmp_path, "h", 1 << 20), Spool(tmp_path, "h", 1 << 20)
        await kept.keep(output(1))
        async with other._locked():
            with pytest.raises(PublishError, match="another process does not let go") as refused:
                await kept.keep(output(2))
        assert refused.value.transient
        await kept.keep(output(2))

    run(body())


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    """A file in its way, a folder that was taken away: an error with its path, and later it goes on."""

    async def body() -> None:
        (tmp_path / "dead").write_text("in the way")
        kept = Spool(tmp_path, "h", 1 << 20)
        with pytest.raises(PublishError, match=f"{tmp_path}/dead"):
            await kept.keep(output(1))
        (tmp_path / "dead").unlink()
        await kept.keep(output(1))
        assert len(await all_of(kept)) == 1

    run(body())


WRITER = """
import asyncio, sys
from pathlib import Path
from atmo_farm.delivery.spool import Spool
from atmo_farm.streams.base import Kept, Output

async def main():
    kept = Spool(Path(sys.argv[1]), "h", 64 << 20)
    number = 0
    while True:
        number += 1
        name = f"{sys.argv[2]}-{number}"
        await kept.keep(Output("s", name.encode() * (1 + number % 50), {"Atmo-Dead-Id": name}, None, name))
        print(name, flush=True)

asyncio.run(main())
"""


@pytest.mark.timeout(600)
def test_writers_that_are_killed_lose_nothing(tmp_path: Path, amount: Callable[[int, int], int]) -> None:
    """kill -9 at any moment of two that write side by side: what was said to be kept is there, and whole; the count of
    bytes is right again when somebody has begun anew."""
    chance = random.Random(7)
    said: set[str] = set()
    for generation in range(amount(2, 50)):
        writers = [
            subprocess.Popen(
                [sys.executable, "-c", WRITER, str(tmp_path), f"{generation}{side}"], stdout=subprocess.PIPE, text=True
            )
            for side in "ab"
        ]
        for writer in writers:
            assert writer.stdout is not None
            said.add(writer.stdout.readline().strip())
        for writer in writers:
            asyncio.run(asyncio.sleep(chance.random() * 0.05))
            writer.send_signal(signal.SIGKILL)
        for writer in writers:
            said.update(line for line in writer.communicate()[0].split("\n")[:-1])

    async def body() -> None:
        kept = Spool(tmp_path, "h", 64 << 20)
        found = await all_of(kept)
        names = [Letter(letter).told["id"] for letter in found]
        assert said <= set(names)
        assert len(names) == len(set(names))
        for letter in found:
            loaded = await kept.load(letter.id)
            assert loaded is not None and loaded.data.startswith(Letter(letter).told["id"].encode())
        await kept.keep(output(0))
        folder = tmp_path / "dead/h"
        assert int((folder / "lock").read_text()) == sum(file.stat().st_size for file in folder.glob("*.letter"))
        assert not list(folder.glob("*.new"))

    run(body())
