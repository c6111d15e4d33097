"""A Kafka broker from Maven Central's jars: one node that is its own controller (KRaft), its data in a folder.

It always listens for PLAINTEXT and for SASL_PLAINTEXT, with `tls` also for SSL and SASL_SSL, each on a port of its own.
Who may log in: USER with PASSWORD, by SCRAM-SHA-256, SCRAM-SHA-512 or PLAIN. Topics are never made by themselves.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

from atmo_farm.directive.connections import KafkaConnection, Tls
from tests.servers import kafka_files
from tests.servers.kafka_files import PASSWORD, USER
from tests.servers.process import ServerProcess, free_ports

Protocol = Literal["PLAINTEXT", "SASL_PLAINTEXT", "SSL", "SASL_SSL"]

STARTED = b"Kafka Server started"
SESSION_TIMEOUT_MS = 1000
"""How long the controller waits for the broker that was killed before it lets the next one in."""

_CONFIG = f"""
controller.listener.names=CONTROLLER
broker.session.timeout.ms={SESSION_TIMEOUT_MS}
broker.heartbeat.interval.ms={SESSION_TIMEOUT_MS // 5}
auto.create.topics.enable=false
num.partitions=1
default.replication.factor=1
min.insync.replicas=1
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=100
file.delete.delay.ms=1000
log.cleaner.dedupe.buffer.size=2097152
num.network.threads=1
num.io.threads=2
background.threads=1
num.recovery.threads.per.data.dir=1
group.coordinator.threads=1
sasl.enabled.mechanisms=SCRAM-SHA-256,SCRAM-SHA-512,PLAIN
"""

_SCRAM = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
_PLAIN = f'org.apache.kafka.common.security.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'


class KafkaServer(ServerProcess):
    """A broker on 127.0.0.1 with free ports, its files under `folder`; ports and data stay over a restart.

    `config`: more lines in the broker's own format. `tls`: a folder of `certificates.make`; clients then need not show
    a certificate, unless `config` says `ssl.client.auth=required`. `made`, `jvm`: for `kafka_files` alone.
    `first`: this one is broker `number` of that one's cluster, and no controller.
    """

    def __init__(
        self,
        folder: Path,
        config: str = "",
        tls: Path | None = None,
        *,
        made: kafka_files.Files | None = None,
        jvm: tuple[str, ...] = (),
        first: KafkaServer | None = None,
        number: int = 1,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        made = made or kafka_files.files()
        self.number = number
        self._tls = tls
        protocols: tuple[Protocol, ...] = ("PLAINTEXT", "SASL_PLAINTEXT") + (("SSL", "SASL_SSL") if tls else ())
        names = (*protocols, *(() if first else ("CONTROLLER",)))
        self._ports: dict[str, int] = dict(zip(names, free_ports(len(names)), strict=True))
        self._controller: int = first._controller if first else self._ports["CONTROLLER"]
        if first is None:
            shutil.copytree(made.template, folder / "data")
        else:
            (folder / "data").mkdir()
            (folder / "data" / "meta.properties").write_text(
                f"version=1\ncluster.id={kafka_files.CLUSTER}\nnode.id={number}\n"
            )
        properties = folder / "server.properties"
        properties.write_text(self._properties(folder / "data") + config + "\n")
        command = kafka_files.java(made.jars, *(jvm or (f"-XX:SharedArchiveFile={made.archive}",)))
        super().__init__((*command, "kafka.Kafka", str(properties)), self._ports["PLAINTEXT"], folder)
        self._logged = 0

    def address(self, protocol: Protocol = "PLAINTEXT") -> str:
        """`127.0.0.1:PORT`, as it stands under `brokerAddress`."""
        return f"127.0.0.1:{self._ports[protocol]}"

    def connection(self, protocol: Protocol = "PLAINTEXT", **keys: object) -> KafkaConnection:
        """`connections.kafka` as the Directive has it after its references are resolved; credentials filled in."""
        given: dict[str, object] = {"name": "default", "broker_addresses": (self.address(protocol),)}
        given["security_protocol"] = protocol
        if protocol.startswith("SASL"):
            given |= {"sasl_mechanism": "SCRAM-SHA-256", "sasl_username": USER, "sasl_password": PASSWORD}
        if protocol.endswith("SSL"):
            given["tls"] = Tls(ca_file=f"{self._tls}/ca.pem")
        return KafkaConnection(**{**given, **keys})  # type: ignore[arg-type]

    def start(self, ready_within_s: float = 60.0) -> None:
        """Start it and return when it serves topics; AssertionError with its log when it does not."""
        self._logged = self.log.stat().st_size if self.log.exists() else 0
        super().start(ready_within_s)

    def _accepts(self) -> bool:
        """Its ports listen while it still waits for its controller; its log says more."""
        with self.log.open("rb") as log:
            log.seek(self._logged)
            return STARTED in log.read()

    def _properties(self, data: Path) -> str:
        roles = "broker,controller" if "CONTROLLER" in self._ports else "broker"
        lines = [_CONFIG, f"process.roles={roles}", f"node.id={self.number}", f"log.dirs={data}"]
        lines.append(f"controller.quorum.voters=1@127.0.0.1:{self._controller}")
        lines.append("listeners=" + ",".join(f"{name}://127.0.0.1:{port}" for name, port in self._ports.items()))
        protocols = {name: name for name in self._ports} | {"CONTROLLER": "PLAINTEXT"}
        lines.append("listener.security.protocol.map=" + ",".join(f"{name}:{of}" for name, of in protocols.items()))
        for name in self._ports:
            if name.startswith("SASL"):
                listener = f"listener.name.{name.lower()}"
                lines += [f"{listener}.scram-sha-{bits}.sasl.jaas.config={_SCRAM}" for bits in (256, 512)]
                lines.append(f"{listener}.plain.sasl.jaas.config={_PLAIN}")
        if self._tls:
            lines += ["ssl.keystore.type=PEM", f"ssl.keystore.certificate.chain={_pem(self._tls / 'server.pem')}"]
            lines += [f"ssl.keystore.key={_pem(self._tls / 'server.key')}", "ssl.truststore.type=PEM"]
            lines.append(f"ssl.truststore.certificates={_pem(self._tls / 'ca.pem')}")
        return "\n".join(lines) + "\n"


def _pem(file: Path) -> str:
    """A PEM file as a value: its lines go on in the next one after a backslash."""
    return file.read_text().strip().replace("\n", "\\n\\\n")
