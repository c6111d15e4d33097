"""The text of the units. Those in systemd/ are what `unit_text` gives for /usr/bin/atmo-farm; a test holds them equal.

Four of them, of one text: for the system or a user, for the one application of the machine or, as a template, for
each of several (`%i`).

ExecReload names the run folder: with PrivateUsers its process cannot see whose pid file that is. There is no
ProcSubset=pid: /proc/cpuinfo says which compiled modules this machine can load.
"""

from __future__ import annotations

_TEXT = """\
# {about}
# `atmo-farm install-service` writes it together with all that it needs; docs/operations.md says more.
# Change it with `systemctl{user} edit`: a changed unit is not brought up to date any more.
[Unit]
Description=atmo-farm: {what}
{network}# It is tried again for as long as it takes: a broker or a database may be back tomorrow.
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart={executable} start --config {etc}/atmo-farm/{folder}atmo-farm.yaml
ExecReload={executable} reload --wait --run-dir %t/atmo-farm/{name}
EnvironmentFile=-{etc}/atmo-farm/{folder}environment
LoadCredential=atmo:{etc}/atmo-farm/{folder}credentials
RuntimeDirectory=atmo-farm/{name}
RuntimeDirectoryMode=0700
{state}

Restart=on-failure
RestartSec=2
# Problems in the user's files and wrong usage do not go away by themselves.
RestartPreventExitStatus=1 2
WatchdogSec=30
# Loading may take 60 s, booting 30 s: timeouts.load and timeouts.boot of the settings.
TimeoutStartSec=120

# The master drains its children, 25 s at most (timeouts.drain); who is left after TimeoutStopSec is killed.
KillMode=mixed
TimeoutStopSec={stop_s}

# Children add 500 to their score: the kernel takes one of them, and the master replaces it.
OOMPolicy=continue
MemoryMax=80%
LimitNOFILE=65536
LimitCORE=0

# No MemoryDenyWriteExecute: WebAssembly becomes machine code. No LimitAS: its memories reserve addresses, not memory.
UMask=0077
NoNewPrivileges=yes
LockPersonality=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM
{system}
[Install]
WantedBy={wanted_by}
"""

_SYSTEM = """\
# A user that exists while the service runs. It sees /srv, /opt and /usr, and neither /home nor /tmp.
DynamicUser=yes
CapabilityBoundingSet=
KeyringMode=private
PrivateDevices=yes
PrivateIPC=yes
PrivateMounts=yes
PrivateTmp=yes
PrivateUsers=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHome=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
ProtectSystem=strict
RemoveIPC=yes
"""

PLAIN = "main"
"""What the plain unit calls its run and state folders, beside those of the template's instances."""


STOP_S = 35
"""How long the service may take to stop; timeouts.drain of the settings stays below it."""


def unit_text(executable: str, *, user: bool, template: bool) -> str:
    """The unit. `executable`: the absolute path of the command, quoted as systemd wants it."""
    name = "%i" if template else PLAIN
    state = f"StateDirectory=atmo-farm/{name}\nStateDirectoryMode=0700"
    if user:  # systemd 252 would put it into ~/.config
        state = f"Environment=ATMO_FARM_STATE_DIR=%h/.local/state/atmo-farm/{name}"
    about = f"The one farm of this {'user' if user else 'machine'}."
    return _TEXT.format(
        about="A farm for each application: `atmo-farm@NAME`." if template else about,
        what="the application %i" if template else "an Atmo application",
        user=" --user" if user else "",
        network="" if user else "Wants=network-online.target\nAfter=network-online.target\n",
        executable=executable,
        folder="%i/" if template else "",
        name=name,
        stop_s=STOP_S,
        etc="%E" if user else "/etc",
        state=state,
        system="" if user else _SYSTEM,
        wanted_by="default.target" if user else "multi-user.target",
    )
