"""A strict reader of zip archives that strangers may have made.

    [local header 30 + name + extra][data] …
    [central header 46 + name + extra + comment] …  [end record 22 + comment]

The central directory says what there is; each local header must say the same, and the data of no two entries may
overlap. Nothing is unpacked to disk, and never more bytes than were announced. Not accepted, because no bundle needs
them: zip64, encryption, several disks, methods other than stored and deflated, links and devices.
"""

from __future__ import annotations

import stat
import struct
import zlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO

import attrs

MAX_ENTRIES = 10_000
MAX_DIRECTORY_BYTES = 4 << 20
MAX_ENTRY_BYTES = 64 << 20
MAX_TOTAL_BYTES = 256 << 20
MAX_RATIO = 200
"""Real modules shrink 2 to 5 times, text 20; over this a large entry is a bomb."""
_RATIO_COUNTS_FROM = 1 << 20

_END = struct.Struct("<4s4H2LH")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_CHUNK = 64 << 10
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_SIZES_FOLLOW = 0x8
_UTF8 = 0x800
_UNIX = 3
_STORED, _DEFLATED = 0, 8


class BadZipError(ValueError):
    """The archive is damaged, or made to do harm; `name` is the entry at fault, if it is one."""

    def __init__(self, message: str, name: str = ""):
        super().__init__(message)
        self.name = name


@attrs.frozen
class ZipEntry:
    """A file in the archive."""

    name: str
    method: int
    crc: int
    compressed_size: int
    size: int
    data_offset: int


def entries(file: BinaryIO) -> dict[str, ZipEntry]:
    """The files of an archive by name, folders left out; BadZipError when it is not as it should be."""
    length = file.seek(0, 2)
    directory, count, directory_offset = _directory(file, length)
    found: dict[str, ZipEntry] = {}
    spans: list[tuple[int, int]] = []
    position = 0
    for _ in range(count):
        if position + _CENTRAL.size > len(directory):
            raise BadZipError("its directory is cut off")
        fields = _CENTRAL.unpack_from(directory, position)
        name_end = position + _CENTRAL.size + fields[10]
        raw_name = directory[position + _CENTRAL.size : name_end]
        position = name_end + fields[11] + fields[12]
        if fields[0] != b"PK\1\2" or position > len(directory):
            raise BadZipError("its directory is damaged")
        name = _name(raw_name, fields[3])
        entry, start = _entry(file, name, raw_name, fields, directory_offset)
        spans.append((start, entry.data_offset + entry.compressed_size))
        if name.endswith("/"):
            if entry.size:
                raise BadZipError("is a folder with content", name)
            continue
        if name in found:
            raise BadZipError("is there twice", name)
        found[name] = entry
    if position != len(directory):
        raise BadZipError("its directory has a different number of entries than it says")
    _check_spans(spans)
    _check_sizes(found)
    return found


def read(file: BinaryIO, entry: ZipEntry) -> bytes:
    """The content of an entry; BadZipError when it is not what was announced."""
    return b"".join(chunks(file, entry))


def chunks(file: BinaryIO, entry: ZipEntry) -> Iterator[bytes]:
    """The content piece by piece, checked against announced size and checksum."""
    size = crc = 0
    packed = _packed(file, entry)
    for data in _inflated(packed, entry) if entry.method == _DEFLATED else packed:
        size += len(data)
        if size > entry.size:
            raise BadZipError("holds more than it says", entry.name)
        crc = zlib.crc32(data, crc)
        yield data
    if size != entry.size or crc != entry.crc:
        raise BadZipError("is damaged: size or checksum are not what it says", entry.name)


def _packed(file: BinaryIO, entry: ZipEntry) -> Iterator[bytes]:
    file.seek(entry.data_offset)
    left = entry.compressed_size
    while left:
        data = file.read(min(_CHUNK, left))
        if not data:
            raise BadZipError("is cut off", entry.name)
        left -= len(data)
        yield data


def _inflated(packed: Iterator[bytes], entry: ZipEntry) -> Iterator[bytes]:
    """Never more than a chunk at once, however much a few bytes may stand for."""
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        for piece in packed:
            rest = piece
            while rest and not inflate.eof:
                yield inflate.decompress(rest, _CHUNK)
                rest = inflate.unconsumed_tail
            if rest or inflate.unused_data:
                raise BadZipError("is damaged: more follows after its end", entry.name)
        yield inflate.flush()
    except zlib.error as error:
        raise BadZipError("is damaged: it cannot be unpacked", entry.name) from error
    if not inflate.eof:
        raise BadZipError("is damaged: its end is missing", entry.name)


def verify(file: BinaryIO, found: Iterable[ZipEntry]) -> None:
    """Unpack each entry once, and drop it, to see that it is whole; BadZipError for the first that is not."""
    for entry in found:
        for _ in chunks(file, entry):
            pass


def is_safe_name(name: str) -> bool:
    """Whether a name stays below the folder that it would be unpacked to, on any system."""
    parts = name.removesuffix("/").split("/")
    return (
        "\\" not in name
        and ":" not in parts[0]
        and name.isprintable()
        and all(part not in ("", ".", "..") for part in parts)
    )


def _directory(file: BinaryIO, length: int) -> tuple[bytes, int, int]:
    """The central directory's bytes, its number of entries and where it begins."""
    tail_length = min(length, _END.size + 0xFFFF)
    file.seek(length - tail_length)
    tail = file.read(tail_length)
    at = tail.rfind(b"PK\5\6")
    if at < 0 or at + _END.size > len(tail):
        raise BadZipError("is not a zip archive")
    _, disk, first_disk, count_here, count, size, offset, comment = _END.unpack_from(tail, at)
    end_at = length - tail_length + at
    if end_at + _END.size + comment != length:
        raise BadZipError("its end record is damaged")
    if 0xFFFF in (disk, first_disk, count) or 0xFFFFFFFF in (size, offset):
        raise BadZipError("is a zip64 archive; bundles are smaller")
    if disk or first_disk or count_here != count:
        raise BadZipError("is one of several volumes")
    if count > MAX_ENTRIES or size > MAX_DIRECTORY_BYTES:
        raise BadZipError(f"has more than {MAX_ENTRIES:,} entries")
    if offset + size != end_at:
        raise BadZipError("its directory is not where it says")
    file.seek(offset)
    return file.read(size), count, offset


def _name(raw: bytes, flags: int) -> str:
    try:
        name = raw.decode("utf-8" if flags & _UTF8 else "ascii")
    except UnicodeDecodeError:
        raise BadZipError("has an entry whose name is not UTF-8") from None
    if not is_safe_name(name):
        raise BadZipError("has a name that would leave the folder that it is unpacked to, or is no plain text", name)
    return name


def _entry(
    file: BinaryIO, name: str, raw_name: bytes, fields: tuple[int, ...], directory_offset: int
) -> tuple[ZipEntry, int]:
    """An entry whose local header agrees with the directory, and where that header begins."""
    _, made_by, _, flags, method, _, _, crc, packed, size, _, _, _, disk, _, attributes, offset = fields
    mode = attributes >> 16
    if flags & _ENCRYPTED:
        raise BadZipError("is encrypted", name)
    if method not in (_STORED, _DEFLATED):
        raise BadZipError("is packed by a method other than deflate", name)
    if made_by >> 8 == _UNIX and stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise BadZipError("is a link or a device, not a file", name)
    if disk or 0xFFFFFFFF in (packed, size, offset):
        raise BadZipError("needs zip64 or another volume", name)
    if method == _STORED and packed != size:
        raise BadZipError("says two different sizes", name)
    file.seek(offset)
    head = file.read(_LOCAL.size + len(raw_name))
    if len(head) < _LOCAL.size + len(raw_name):
        raise BadZipError("has no header where the directory says", name)
    mark, _, local_flags, local_method, _, _, local_crc, local_packed, local_size, name_length, extra = (
        _LOCAL.unpack_from(head)
    )
    announced = (local_crc, local_packed, local_size)
    follow = bool(local_flags & _SIZES_FOLLOW) and announced == (0, 0, 0)
    if (
        mark != b"PK\3\4"
        or name_length != len(raw_name)
        or head[_LOCAL.size :] != raw_name
        or (local_flags ^ flags) & (_ENCRYPTED | _SIZES_FOLLOW)
        or local_method != method
        or not (follow or announced == (crc, packed, size))
    ):
        raise BadZipError("has a header that disagrees with the directory", name)
    data_offset = offset + _LOCAL.size + name_length + extra
    if data_offset + packed > directory_offset:
        raise BadZipError("reaches into the directory", name)
    return ZipEntry(name, method, crc, packed, size, data_offset), offset


def _check_spans(spans: list[tuple[int, int]]) -> None:
    end = 0
    for start, span_end in sorted(spans):
        if start < end:
            raise BadZipError("has entries that overlap")
        end = span_end


def _check_sizes(found: dict[str, ZipEntry]) -> None:
    for entry in found.values():
        if entry.size > MAX_ENTRY_BYTES:
            raise BadZipError(f"is larger than {MAX_ENTRY_BYTES >> 20} MiB unpacked", entry.name)
        if entry.size > _RATIO_COUNTS_FROM and entry.size > MAX_RATIO * entry.compressed_size:
            raise BadZipError(f"shrinks more than {MAX_RATIO} times: a zip bomb", entry.name)
    if sum(entry.size for entry in found.values()) > MAX_TOTAL_BYTES:
        raise BadZipError(f"is larger than {MAX_TOTAL_BYTES >> 20} MiB unpacked")
