"""Where the monitor's HTTP listens."""

from __future__ import annotations

import logging
import socket
import stat
from pathlib import Path

import pytest

from atmo_farm.errors import CannotStart
from atmo_farm.ipc import address
from atmo_farm.ipc.address import listen


def test_a_port_that_is_set(caplog: pytest.LogCaptureFixture) -> None:
    """0 is any free one; one that is in use is refused, and after it was given back it can be had again."""
    first = listen("127.0.0.1:0")
    assert first is not None
    host, port = first.socket.getsockname()
    assert first.address == f"{host}:{port}"
    with pytest.raises(CannotStart, match=rf"monitor.address {first.address} is in use; choose another"):
        listen(first.address)
    first.end()
    again = listen(first.address)
    assert again is not None and again.address == first.address
    again.end()
    assert not caplog.records


def test_another_port_when_none_is_set(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """With a warning that says which."""
    taken = listen("127.0.0.1:0")
    assert taken is not None
    monkeypatch.setattr(address, "DEFAULT", taken.socket.getsockname())
    with caplog.at_level(logging.WARNING, "atmo_farm"):
        found = listen(None)
    assert found is not None and found.address != taken.address
    (record,) = caplog.records
    assert record.message == f"metrics and health are not at {taken.address} (setting monitor.address)"
    assert record.fields == {"reason": "Address already in use", "instead": found.address}  # type: ignore[attr-defined]
    found.end()
    taken.end()
    found = listen(None)
    assert found is not None and found.address == taken.address
    found.end()


def test_a_unix_socket(tmp_path: Path) -> None:
    """Private; a dead farm's is replaced, a living one's and any other file are not."""
    path = tmp_path / "http.sock"
    first = listen(f"unix:{path}")
    assert first is not None and first.address == f"unix:{path}"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(CannotStart, match="is in use"):
        listen(f"unix:{path}")
    first.close()
    again = listen(f"unix:{path}")
    assert again is not None
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    again.end()
    assert not path.exists()
    path.write_text("precious")
    with pytest.raises(CannotStart, match="there is a file that is no socket"):
        listen(f"unix:{path}")
    assert path.read_text() == "precious"


def test_off_and_what_this_machine_does_not_have() -> None:
    """No socket; no start."""
    assert listen("off") is None
    with pytest.raises(CannotStart, match="cannot be used: Cannot assign requested address"):
        listen("203.0.113.7:9464")
