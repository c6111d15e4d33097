"""The master process: loads, forks, watches, reloads, ends. No event loop, no thread, no broker, no Wasm."""

from atmo_farm.master.main import Master

__all__ = ["Master"]
