"""The master process: loads, forks, watches, reloads and ends the farm. No event loop, no thread, no broker, no Wasm."""
