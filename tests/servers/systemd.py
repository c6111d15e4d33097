"""A real systemd in namespaces of its own: process 1 of a copy of this machine, with nothing running in it
but the journal.

Its root is an overlay of this one, so nothing that happens there is left here. It shares the network: a server on
loopback is there, too. Python, the packages of this venv and this repository stand under /opt, and
`/usr/bin/atmo-farm` is the farm.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import time
from functools import cache
from pathlib import Path

from tests.guests import ROOT
from tests.servers.process import _die_with_the_tests

_BOOT = """
set -e
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$folder"
mkdir "$folder/upper" "$folder/work" "$folder/root"
mount -t overlay -o "lowerdir=/,upperdir=$folder/upper,workdir=$folder/work" overlay "$folder/root"
cd "$folder/root"
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs dev
for device in null zero full random urandom tty; do
    touch dev/$device
    mount --bind /dev/$device dev/$device
done
ln -s /proc/self/fd dev/fd
ln -s pts/ptmx dev/ptmx
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
rm -rf etc/systemd/system etc/systemd/user etc/atmo-farm lib/systemd/system/*.wants lib/systemd/system-generators
mkdir -p etc/systemd/system etc/systemd/user opt/python opt/packages opt/atmo-farm dev/shm
mount --bind "$python" opt/python
mount --bind "$packages" opt/packages
mount --bind "$repository" opt/atmo-farm
for target in sysinit basic multi-user network-online shutdown; do
    printf '[Unit]\\nDescription=%s\\nDefaultDependencies=no\\n' $target >etc/systemd/system/$target.target
done
printf 'Wants=systemd-journald.service\\n' >>etc/systemd/system/multi-user.target
ln -s /dev/null etc/systemd/system/systemd-journald-audit.socket
printf '[Journal]\\nStorage=volatile\\nReadKMsg=no\\nAudit=no\\n' >etc/systemd/journald.conf
cat >usr/bin/atmo-farm <<'END'
#!/bin/sh
export LD_LIBRARY_PATH=/opt/python/lib PYTHONPATH=/opt/atmo-farm:/opt/packages PYTHONDONTWRITEBYTECODE=1
exec /opt/python/bin/python3 -m atmo_farm "$@"
END
chmod 755 usr/bin/atmo-farm
mkdir old
pivot_root . old
umount -l /old
mount --make-rshared /
export container=atmo-farm-tests
exec /lib/systemd/systemd --unit=multi-user.target --log-target=journal
"""

_NAMESPACES = ("--mount", "--pid", "--uts", "--ipc", "--cgroup")


_TRY = """
mount -t tmpfs tmpfs /mnt
mkdir /mnt/upper /mnt/work
mount -t overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work overlay /mnt
mount -t cgroup2 cgroup2 /mnt
"""


@cache
def why_not() -> str:
    """Why systemd cannot be booted here; empty if it can. It takes root and a kernel that lets it have namespaces."""
    if os.geteuid() != 0:
        return "only root can boot a systemd in namespaces"
    if _cgroup2() is None:
        return "control groups of the second version are not mounted"
    command = ["unshare", *_NAMESPACES, "--fork", "sh", "-ec", _TRY]
    return subprocess.run(command, capture_output=True, text=True, check=False).stderr.strip()


class Systemd:
    """One of them; `with Systemd(folder) as machine:` boots and ends it."""

    def __init__(self, folder: Path):
        self._folder = folder
        groups = _cgroup2()
        assert groups is not None
        self._group = groups / f"atmo-farm-tests-{os.getpid()}"
        self._process: subprocess.Popen[bytes] | None = None
        self._pid = 0

    @property
    def root(self) -> Path:
        """Its root folder, from here."""
        return Path(f"/proc/{self._pid}/root")

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in it; AssertionError with its output when it fails."""
        inside = ["nsenter", f"--target={self._pid}", *_NAMESPACES, "--root", "--wd"]
        clean = ["env", "-i", "PATH=/usr/bin:/bin", "TERM=dumb", "SYSTEMD_PAGER=", "LC_ALL=C.UTF-8"]
        done = subprocess.run([*inside, *clean, *command], capture_output=True, text=True, timeout=60, check=False)
        if check and done.returncode:
            log = self.run("journalctl", "--no-pager", "-n", "40", check=False).stdout
            raise AssertionError(f"{command}: {done.returncode}\n{done.stdout}{done.stderr}\n{log}")
        return done

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """What `systemctl show` says of these properties."""
        shown = self.run("systemctl", "show", unit, f"--property={','.join(properties)}").stdout
        return dict(line.split("=", 1) for line in shown.splitlines())

    def __enter__(self) -> Systemd:
        self._group.mkdir()
        environ = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "folder": str(self._folder),
            "python": sys.base_prefix,
            "packages": sysconfig.get_path("purelib"),
            "repository": str(ROOT),
        }
        with (self._folder.parent / "systemd.log").open("wb") as log:
            self._process = subprocess.Popen(
                ["unshare", *_NAMESPACES, "--fork", "--kill-child", "sh", "-c", _BOOT],
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=self._enter_group,
            )
        try:
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        assert self._process is not None
        self._process.kill()  # and the kernel kills all that is in its namespace
        self._process.wait()
        end = time.monotonic() + 10
        for group in sorted((path for path in self._group.rglob("*") if path.is_dir()), reverse=True):
            _remove_group(group, end)
        _remove_group(self._group, end)

    def _enter_group(self) -> None:
        """Before exec: the cgroup namespace begins at a group of the test's own."""
        _die_with_the_tests()
        (self._group / "cgroup.procs").write_text("0")

    def _wait(self) -> None:
        assert self._process is not None
        end = time.monotonic() + 20
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        while True:
            try:
                self._pid = int(children.read_text().split()[0])
                if self.run("systemctl", "is-system-running", check=False).stdout.strip() in ("running", "degraded"):
                    return
            except (OSError, IndexError):
                pass
            log = (self._folder.parent / "systemd.log").read_text()
            assert self._process.poll() is None, f"systemd has ended: {log}"
            assert time.monotonic() < end, f"systemd is not up: {log}"
            time.sleep(0.05)


def _cgroup2() -> Path | None:
    """Where the second version of control groups is mounted on this machine, if it is."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    return next((Path(mount[1]) for mount in mounts if mount[2] == "cgroup2"), None)


def _remove_group(group: Path, end: float) -> None:
    """The kernel lets it go when the last process of it is gone."""
    while True:
        try:
            group.rmdir()
            return
        except OSError:
            assert time.monotonic() < end, f"{group} is still in use"
            time.sleep(0.02)
