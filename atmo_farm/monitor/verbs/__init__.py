"""What clients of the control socket can ask for."""

from __future__ import annotations

from collections.abc import Mapping

from atmo_farm.monitor.farm import Verb
from atmo_farm.monitor.verbs import dlq, master, status, top

VERBS: Mapping[str, Verb] = {
    "status": status.status,
    "top": top.top,
    "reload": master.reload,
    "stop": master.stop,
    "loglevel": master.loglevel,
    "dlq.list": dlq.list_,
    "dlq.show": dlq.show,
    "dlq.replay": dlq.replay,
    "dlq.purge": dlq.purge,
}
