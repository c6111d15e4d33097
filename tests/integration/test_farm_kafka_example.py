"""examples/orders-kafka as its README says, on a real broker."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner
from kafka import KafkaProducer

from atmo_farm.cli.app import cli
from tests.farm import Farm, wait_for
from tests.kafka import create_topic, read_all
from tests.servers.kafka import KafkaServer

ROOT = Path(__file__).parent.parent.parent


def test_orders_become_receipts(tmp_path: Path, kafka_server: KafkaServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A receipt for each order, on disk too; an article that nobody sells makes a dead letter."""
    shop, database = tmp_path / "shop", tmp_path / "orders.db"
    shutil.copytree(ROOT / "examples/orders", shop)
    shutil.copy(ROOT / "examples/orders-kafka/Directive.yaml", shop)
    with closing(sqlite3.connect(database)) as made:
        made.executescript((shop / "schema.sql").read_text())
    monkeypatch.setenv("KAFKA", kafka_server.address())
    monkeypatch.setenv("ORDERS_DB", str(database))
    for topic in ("orders.new", "orders.receipts"):
        create_topic(kafka_server, topic, 4)
    with closing(KafkaProducer(bootstrap_servers=kafka_server.address())) as producer:
        for number, sku in enumerate(("tea", "anvil", "cup")):
            order = {"id": f"A-{number}", "customer": "mara", "sku": sku, "count": 1}
            producer.send("orders.new", json.dumps(order).encode(), key=b"mara")

    checked = CliRunner().invoke(cli, ["check", str(shop), "--connect"])
    assert checked.exit_code == 0, checked.output

    def kept() -> list[str]:
        with closing(sqlite3.connect(database)) as rows:
            return [row[0] for row in rows.execute("SELECT id FROM orders ORDER BY id")]

    with Farm(shop) as farm:
        wait_for(lambda: kept() == ["A-0", "A-2"], otherwise=farm.tail)
        receipts = read_all(kafka_server, "orders.receipts")
        assert [json.loads(one.value or b"")["order"] for one in receipts] == ["A-0", "A-2"]
        assert {one.key for one in receipts} == {b"mara"}
        listed = farm.operate("dlq", "list", "orders", "--json")
        (letter,) = map(json.loads, listed.stdout.splitlines())
        assert letter["code"] == "404"
