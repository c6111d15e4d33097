"""What a reply subject of JetStream tells, in both of its forms."""

from __future__ import annotations

import pytest

from atmo_farm.streams.jetstream_message import Delivery

SHORT = b"$JS.ACK.ORDERS.work.2.17.40.1795632601145926871.5"
LONG = b"$JS.ACK.hub.ACCOUNT.ORDERS.work.2.17.40.1795632601145926871.5.random"


@pytest.mark.parametrize("reply", [SHORT, LONG, LONG.rpartition(b".")[0], LONG + b".and.more"])
def test_both_forms(reply: bytes) -> None:
    """With and without the domain; what may come after it some day is nothing to us."""
    delivery = Delivery(reply)
    assert (delivery.stream, delivery.sequence, delivery.attempt) == ("ORDERS", 17, 2)
    assert delivery.id == "ORDERS.17.1795632601145926871"
    told = {name: delivery.field(f"atmo-{name}") for name in ("stream", "consumer", "sequence", "timestamp")}
    assert told == {"stream": "ORDERS", "consumer": "work", "sequence": "17", "timestamp": "1795632601145"}
    assert (delivery.field("atmo-deliveries"), delivery.field("atmo-pending")) == ("2", "5")
    assert delivery.field("atmo-something") == ""


@pytest.mark.parametrize("reply", [b"", b"inbox.1", b"$JS.ACK.A.b.1.2.3", b"$JS.ACK.ORDERS.work.x.17.40.1.5"])
def test_something_else(reply: bytes) -> None:
    """Is no delivery."""
    with pytest.raises(ValueError, match=r".+"):
        Delivery(reply)
