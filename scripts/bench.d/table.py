"""One table: a line per measurement, a column per server."""

COLUMNS = ["nbdkit memory", "nbdkit file", "esker file", "esker s3d", "esker s3d 20ms"]


class Row:
    """One line. `cells`: column to number. `ratio`: what the budget is about. `verdict`: met, missed, not run, or nothing."""

    def __init__(self, what, unit, cells=None, ratio="", budget="", met=None, note=""):
        self.what, self.unit, self.cells, self.ratio, self.budget = what, unit, cells or {}, ratio, budget
        self.verdict = "" if met is None else met if isinstance(met, str) else "met" if met else "missed"
        self.note = note

    def to_json(self):
        return {"what": self.what, "unit": self.unit, "values": self.cells, "ratio": self.ratio,
                "budget": self.budget, "verdict": self.verdict, "note": self.note}

    def texts(self):
        cells = [show(self.cells.get(column)) for column in COLUMNS]
        return [self.what, self.unit, *cells, self.ratio, self.budget, self.verdict]


def show(value):
    if value is None:
        return "-"
    if isinstance(value, str):
        return value
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def grid(lines, numbers=()):
    """Lines of texts as a table, the first one its head; columns in `numbers` are set to the right."""
    widths = [max(3, *(len(line[i]) for line in lines)) for i in range(len(lines[0]))]
    out = []
    for n, line in enumerate(lines):
        cells = [text.rjust(w) if i in numbers else text.ljust(w) for i, (text, w) in enumerate(zip(line, widths))]
        out.append("| " + " | ".join(cells) + " |")
        if n == 0:
            rule = ["-" * (w - 1) + ":" if i in numbers else "-" * w for i, w in enumerate(widths)]
            out.append("| " + " | ".join(rule) + " |")
    return "\n".join(out)


def render(rows):
    """The table as text, and the notes below it."""
    head = ["what", "unit", *COLUMNS, "ratio", "budget", "verdict"]
    table = grid([head, *(row.texts() for row in rows)], range(2, 2 + len(COLUMNS)))
    notes = [f"- {row.what}: {row.note}" for row in rows if row.note]
    return "\n".join([table] + ([""] + notes if notes else []))
