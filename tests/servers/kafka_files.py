"""What a Kafka broker needs before it can start in a second: its jars, a formatted folder, an archive of its classes.

    <cache>/kafka/jars-<key>/                Maven Central's jars, by kafka.pom.xml
                  start-<key>/template/      an empty broker's data, with the users that may log in
                              classes.jsa    what the JVM would otherwise load and verify at each start

<cache> is $ATMO_FARM_CACHE or ~/.cache/atmo-farm; the keys follow from the pom, this file and the JVM. `python -m
tests.servers.kafka_files` makes what is missing, and so does the first test that needs it.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import attrs

POM = Path(__file__).with_name("kafka.pom.xml")
USER, PASSWORD = "atmo", "s3cret'canary of kafka"
CLUSTER = "YXRtby1mYXJtLXRlc3RzIQ"
"""16 bytes in base64; a folder belongs to one cluster."""

_DOWNLOAD_TIMEOUT_S = 600
_RUN_TIMEOUT_S = 120


@attrs.frozen
class Files:
    """Where they are."""

    jars: Path
    start: Path

    @property
    def template(self) -> Path:
        """The data of a broker that has just been formatted."""
        return self.start / "template"

    @property
    def archive(self) -> Path:
        """The class archive (CDS)."""
        return self.start / "classes.jsa"


@functools.cache
def files() -> Files:
    """All of them, made where they are missing; AssertionError tells what cannot be had."""
    cache = Path(os.environ.get("ATMO_FARM_CACHE") or Path.home() / ".cache" / "atmo-farm") / "kafka"
    jvm = Path(_program("java", "openjdk-17-jre-headless")).resolve()
    pom, this, java = POM.read_bytes(), Path(__file__).read_bytes(), f"{jvm} {jvm.stat().st_mtime_ns}".encode()
    found = Files(cache / f"jars-{_key(pom)}", cache / f"start-{_key(pom, this, java)}")
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several runs of the tests may share a machine
        if not found.jars.exists():
            print("resolving the jars of a Kafka broker by Maven", flush=True)
            _resolve(found.jars)
        if not found.archive.exists():
            print("preparing a Kafka broker that starts in a second", flush=True)
            _prepare(found)
    return found


def java(jars: Path, *options: str) -> tuple[str, ...]:
    """The JVM's command line up to the class; it ends rather than growing over 512 MB."""
    classpath = ":".join(sorted(str(jar) for jar in jars.glob("*.jar")))  # the archive knows this order
    return (
        _program("java", "openjdk-17-jre-headless"),
        "-Xmx512m",
        "-XX:+ExitOnOutOfMemoryError",
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
        "-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info",
        *options,
        "-cp",
        classpath,
    )


def _key(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:12]


def _program(name: str, package: str) -> str:
    found = shutil.which(name)
    assert found, f"{name} is missing: apt-get install {package}"
    return found


def _resolve(jars: Path) -> None:
    """All jars or none."""
    with tempfile.TemporaryDirectory(dir=jars.parent) as scratch:
        goal = ("dependency:copy-dependencies", f"-DoutputDirectory={scratch}/jars")
        options = ("--batch-mode", "--quiet", "--file", str(POM), f"-Dmaven.repo.local={scratch}/repository")
        _run((_program("mvn", "maven"), *options, *goal), _DOWNLOAD_TIMEOUT_S)
        Path(scratch, "jars").rename(jars)


def _prepare(made: Files) -> None:
    """Format the template; a broker that runs on a copy of it leaves the archive at its end."""
    from tests.servers import certificates
    from tests.servers.kafka import KafkaServer

    shutil.rmtree(made.start, ignore_errors=True)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        properties = scratch / "format.properties"
        properties.write_text(
            "process.roles=broker,controller\nnode.id=1\ncontroller.quorum.voters=1@127.0.0.1:1\n"
            "listeners=CONTROLLER://127.0.0.1:1,PLAINTEXT://127.0.0.1:2\ncontroller.listener.names=CONTROLLER\n"
            f"log.dirs={made.template}\n"
        )
        tool = ["kafka.tools.StorageTool", "format", "--cluster-id", CLUSTER, "--config", str(properties)]
        for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512"):
            tool += ["--add-scram", f'{mechanism}=[name={USER},password="{PASSWORD}"]']
        _run((*java(made.jars), *tool), _RUN_TIMEOUT_S)
        archive = scratch / "classes.jsa"
        tls = certificates.make(scratch / "tls")
        server = KafkaServer(scratch / "server", tls=tls, made=made, jvm=(f"-XX:ArchiveClassesAtExit={archive}",))
        server.start(ready_within_s=_RUN_TIMEOUT_S)
        server.stop(within_s=_RUN_TIMEOUT_S)
        assert archive.exists(), server.log.read_text()[-2000:]
        shutil.move(archive, made.archive)


def _run(command: tuple[str, ...], timeout_s: float) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout_s)
    assert done.returncode == 0, f"{Path(command[0]).name}: {(done.stdout + done.stderr)[-2000:]}"


if __name__ == "__main__":
    files()
