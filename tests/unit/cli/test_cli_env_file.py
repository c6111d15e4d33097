"""Files of variables: what is read, and what is refused without showing a value."""

from __future__ import annotations

from pathlib import Path

import pytest

from atmo_farm.cli import env_file
from atmo_farm.errors import UserFilesError

FILE = r"""
# a comment
PLAIN=one two
  INDENTED = padded   # a comment
HASH=a#b
EMPTY=
COMMENT_ONLY= # nothing
export EXPORTED=yes
SINGLE='kept $as \n it "is"' # why
DOUBLE="two\nlines \"and\" \\ \$HOME"
URL=nats://u:p@host:4222/?a=b
PLAIN=the later one holds
"""


def test_values(tmp_path: Path) -> None:
    """Quotes, comments, export and the later of two."""
    path = tmp_path / "e.env"
    path.write_bytes(b"\xef\xbb\xbf" + FILE.replace("\n", "\r\n").encode())
    assert env_file.read(path) == {
        "PLAIN": "the later one holds",
        "INDENTED": "padded",
        "HASH": "a#b",
        "EMPTY": "",
        "COMMENT_ONLY": "",
        "EXPORTED": "yes",
        "SINGLE": 'kept $as \\n it "is"',
        "DOUBLE": 'two\nlines "and" \\ $HOME',
        "URL": "nats://u:p@host:4222/?a=b",
    }


def test_every_wrong_line_is_told_without_its_value(tmp_path: Path) -> None:
    """File and line of all of them; a value may be a secret."""
    path = tmp_path / "e.env"
    path.write_text('A=1\nhunter2\n  2B=hunter2\nC=\'hunter2\nD="hunter2" x\nE=hunter2\0\nF-G=hunter2\n')
    with pytest.raises(UserFilesError) as caught:
        env_file.read(path)
    assert [str(problem) for problem in caught.value.problems] == [
        f"{path}:2:1: is no assignment; write NAME=VALUE",
        f"{path}:3:3: the name before the = is not one of a variable: letters, digits and _, no digit first",
        f"{path}:4:1: C: the quotes do not close on this line, or something follows them",
        f"{path}:5:1: D: the quotes do not close on this line, or something follows them",
        f"{path}:6:1: E: holds a zero byte",
        f"{path}:7:1: the name before the = is not one of a variable: letters, digits and _, no digit first",
    ]


def test_unreadable(tmp_path: Path) -> None:
    """A missing file and bytes that are no text are problems of that file."""
    with pytest.raises(UserFilesError, match=r"none\.env: cannot be read: No such file"):
        env_file.read(tmp_path / "none.env")
    (tmp_path / "b.env").write_bytes(b"A=\xff")
    with pytest.raises(UserFilesError, match=r"b\.env: is not UTF-8 text"):
        env_file.read(tmp_path / "b.env")
