"""What every benchmark ends with: a table for people and one line of JSON for machines."""

from __future__ import annotations

import json
import operator
import statistics
from collections.abc import Sequence

import attrs

OPERATORS = {"<=": operator.le, ">=": operator.ge}


@attrs.frozen
class Check:
    """One figure against its bound."""

    figure: str
    value: float
    op: str
    bound: float

    @property
    def meets(self) -> bool:
        """Whether the figure is within its bound."""
        return bool(OPERATORS[self.op](self.value, self.bound))


@attrs.define
class Report:
    """The result of one benchmark; `ratio` is ours against the baseline, higher is better."""

    name: str
    checks: list[Check] = attrs.field(factory=list)
    ratio: float | None = None
    floor: float | None = None
    header: Sequence[str] = ()
    rows: list[Sequence[object]] = attrs.field(factory=list)
    series: dict[str, list[float]] = attrs.field(factory=dict)
    """For the picture: label → one value for each round."""
    unit: str = ""

    def json_line(self) -> str:
        """The last line of the output."""
        checks = [
            {"figure": c.figure, "value": round(c.value, 4), "op": c.op, "bound": c.bound, "meets": c.meets}
            for c in self.checks
        ]
        return json.dumps(
            {
                "name": self.name,
                "meets": all(c.meets for c in self.checks),
                "checks": checks,
                "ratio": None if self.ratio is None else round(self.ratio, 4),
                "floor": self.floor,
            }
        )

    def print(self) -> None:
        """The table, then the line."""
        if self.rows:
            cells = [[str(cell) for cell in row] for row in [self.header, *self.rows]]
            widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
            for row in cells:
                print(
                    "  ".join(
                        cell.ljust(w) if i == 0 else cell.rjust(w)
                        for i, (cell, w) in enumerate(zip(row, widths, strict=True))
                    )
                )
        print(self.json_line(), flush=True)

    def plot(self, path: str) -> None:
        """A picture of all rounds, as a PNG (needs matplotlib)."""
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        figure, axes = pyplot.subplots(figsize=(8, 1.2 + 0.6 * len(self.series)))
        axes.boxplot(list(self.series.values()), orientation="horizontal", tick_labels=list(self.series))
        axes.set_title(self.name)
        axes.set_xlabel(self.unit)
        axes.set_xlim(left=0)
        figure.tight_layout()
        figure.savefig(path, dpi=120)


def median(values: Sequence[float]) -> float:
    """The middle value of the rounds."""
    return statistics.median(values)
