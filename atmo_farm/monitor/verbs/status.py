"""`status`: the farm as it is, or as soon as it is ready."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from atmo_farm.monitor import report
from atmo_farm.monitor.farm import Farm, Progress


async def status(farm: Farm, args: Mapping[str, Any], progress: Progress) -> Mapping[str, Any]:
    """`{"wait": "ready"}`: not before all that the farm wants to run is ready; progress says what is not.

    The result is the report (`report.report`).
    """
    found = farm.report()
    told: list[str] = []
    while args.get("wait") == "ready" and (reasons := report.unready(found)):
        if reasons != told:
            await progress({"not_ready": reasons})
            told = reasons
        await asyncio.sleep(farm.look_again_s)
        found = farm.report()
    return found
