"""What clients of the control socket can ask for."""

from __future__ import annotations

from collections.abc import Mapping

from atmo_farm.monitor.farm import Verb
from atmo_farm.monitor.verbs import dlq, handlers, master, status, top

VERBS: Mapping[str, Verb] = {
    "status": status.status,
    "top": top.top,
    "reload": master.reload,
    "rollback": master.rollback,
    "history": master.history,
    "stop": master.stop,
    "loglevel": master.loglevel,
    "restart": handlers.restart,
    "scale": handlers.scale,
    "pause": handlers.pause,
    "resume": handlers.resume,
    "drain": handlers.drain,
    "dlq.list": dlq.list_,
    "dlq.show": dlq.show,
    "dlq.replay": dlq.replay,
    "dlq.purge": dlq.purge,
}
