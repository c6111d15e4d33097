"""`python -m benchmarks NAME`: run one benchmark; exit 0 when it meets its bounds, 1 when not.

python -m benchmarks nats --rounds 5 --plot nats.png
python -m benchmarks nats --peers          # FastStream's native handler too
"""

from __future__ import annotations

import argparse
import importlib
import sys

NAMES = (
    "invoke",
    "nats",
    "jetstream",
    "kafka",
    "kafka-latency",
    "kafka-scale",
    "recovery",
    "retry",
    "latency",
    "memory",
    "fanin",
    "hop",
    "redis",
    "sql",
    "greedy",
    "observe",
    "traces",
    "reload",
)


def main() -> int:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--rounds", type=int, default=0, help="how often each side runs (default: the benchmark's own)")
    parser.add_argument("--plot", metavar="FILE.png", help="draw all rounds (needs matplotlib)")
    parser.add_argument(
        "--peers", action="store_true", help="nats, kafka: FastStream too (needs faststream[nats,confluent])"
    )
    options = parser.parse_args()
    report = importlib.import_module(f"benchmarks.{options.name.replace('-', '_')}").run(options)
    if options.plot:
        report.plot(options.plot)
    report.print()
    return 0 if all(check.meets for check in report.checks) else 1


if __name__ == "__main__":
    sys.exit(main())
