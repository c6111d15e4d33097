"""Run Atmo applications: WebAssembly handlers of NATS streams in a supervised worker farm."""

__version__ = "0.1.0"
