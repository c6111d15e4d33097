"""The one way from Python to a guest's memory and to its I/O memory: unsigned, bounds-checked, nothing truncated."""

from __future__ import annotations

import ctypes
from ctypes import byref, c_uint8, c_uint64

from atmo_farm.errors import GuestOutOfMemory, HostError
from atmo_farm.runtime import capi

PAGE = 65536
U32 = 0xFFFFFFFF


def read(context: int, memory: int, pointer: int, length: int, limit: int) -> bytes:
    """Bytes of the guest's memory; pointer and length as the guest passed them, as i32 of any sign.

    HostError where they leave the memory, or ask for more than `limit` bytes.
    """
    pointer, length = pointer & U32, length & U32
    if length > limit:
        raise HostError(f"{length} bytes are more than the limit of {limit}", result=-1)
    if pointer + length > capi.memory_data_size(context, memory):
        raise HostError("pointer out of bounds", result=-1)
    return ctypes.string_at(capi.memory_data(context, memory) + pointer, length) if length else b""


def write(context: int, memory: int, pointer: int, data: bytes) -> None:
    """Put bytes into the guest's memory; HostError where they would leave it."""
    pointer &= U32
    if pointer + len(data) > capi.memory_data_size(context, memory):
        raise HostError("pointer out of bounds", result=-1)
    if data:
        ctypes.memmove(capi.memory_data(context, memory) + pointer, data, len(data))


class IoMemory:
    """A view of the I/O memory that is taken anew when the memory has grown: growing may move it."""

    __slots__ = ("_address", "_context", "size", "view")

    def __init__(self, context: int, address: int):
        self._context = context
        self._address = address
        self.map()

    def map(self) -> None:
        """Take the address and the size as they are now."""
        self.size: int = capi.memory_data_size(self._context, self._address)
        data = capi.memory_data(self._context, self._address)
        self.view = memoryview((c_uint8 * self.size).from_address(data)).cast("B")

    def put(self, at: int, data: bytes) -> None:
        """Write, growing the memory where needed; GuestOutOfMemory where its limit does not allow that."""
        end = at + len(data)
        if end > self.size:
            before = c_uint64()
            error = capi.memory_grow(self._context, self._address, (end - self.size + PAGE - 1) // PAGE, byref(before))
            if error:
                try:
                    capi.check(error)
                except Exception as reason:
                    raise GuestOutOfMemory(f"{len(data)} bytes do not fit beside the guest: {reason}") from reason
            self.map()
        self.view[at:end] = data

    def release(self) -> None:
        """Drop the view: the memory is about to go."""
        self.view = memoryview(b"")
        self.size = 0
