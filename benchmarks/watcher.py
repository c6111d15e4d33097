"""Who looks at a farm once a second, as Prometheus and an operator do: `python -m benchmarks.watcher ADDRESS RUN`."""

from __future__ import annotations

import sys
import time
import urllib.request
from pathlib import Path

from atmo_farm.ipc.control import ControlClient

EVERY_S = 1.0
ACCEPT = "application/openmetrics-text;version=1.0.0;q=0.8,text/plain;version=0.0.4;q=0.5"


def main() -> None:
    """Until it is ended."""
    address, place = sys.argv[1:]
    request = urllib.request.Request(f"http://{address}/metrics", headers={"Accept": ACCEPT})
    with ControlClient(Path(place) / "control.sock") as farm:
        while True:
            with urllib.request.urlopen(request, timeout=10) as answer:
                assert answer.read().endswith(b"# EOF\n")
            farm.ask("status")
            time.sleep(EVERY_S)


if __name__ == "__main__":
    main()
