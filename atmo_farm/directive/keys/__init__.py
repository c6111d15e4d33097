"""The Directive's keys: one description that the reader, the JSON Schema and the reference in docs/ all follow.

A `Kind` reads one value, describes it in JSON Schema and in words. `Table` is the kind of a mapping with known keys.
"""
