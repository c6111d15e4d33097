"""Traces: in which one an output goes on, and how a collector gets the spans that OpenTelemetry's SDK makes."""
