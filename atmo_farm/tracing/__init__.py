"""Traces by OpenTelemetry's conventions: whose trace a message belongs to, spans, and how a collector gets them."""
