"""Numbers as words, and rows as tables."""

import statistics


def middle(values):
    return statistics.median(values)


def spread(values, unit=1000, digits=0):
    values = [value * unit for value in values if value is not None]
    if not values:
        return "-"
    middle_one = f"{statistics.median(values):.{digits}f}"
    return f"{middle_one} [{min(values):.{digits}f}-{max(values):.{digits}f}]" if len(values) > 1 else middle_one


def amount(values):
    """A spread with as many digits as its middle deserves."""
    values = [value for value in values if value is not None]
    if not values:
        return "-"
    middle_one = abs(statistics.median(values))
    return spread(values, 1, 0 if middle_one >= 100 else 1 if middle_one >= 10 else 2 if middle_one >= 0.1 else 3)


def ratio(value):
    """A part of the other as a fraction, and what is more than the other as a multiple."""
    if not 0 < value < 0.95:
        return f"x{value:.2f}"
    return f"1/{1 / value:.0f}" if value < 0.1 or abs(1 / value - round(1 / value)) < 0.01 else f"1/{1 / value:.1f}"


def table(rows):
    """Rows of cells, the first of them the heads; the first column to the left, the last too when it holds words."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for number, row in enumerate(rows):
        cells = [cell.ljust(width) if column in (0, len(row) - 1) else cell.rjust(width)
                 for column, (cell, width) in enumerate(zip(row, widths))]
        print("  ".join(cells).rstrip())
        if number == 0:
            print("  ".join("-" * width for width in widths))


def verdict(met, words):
    return f"{'met' if met else 'NOT MET'}: {words}"


def compare(agents, others, limit, whose):
    """What the agent takes beside another, pair by pair, and whether the middle of the ratios keeps the limit; nothing where there are no pairs."""
    ratios = [agent / other for agent, other in zip(agents, others) if agent is not None and other]
    if not ratios:
        return None
    beside = ratio(middle(ratios))
    if len(ratios) > 1:
        beside += f" [{ratio(min(ratios))} to {ratio(max(ratios))}]"
    return verdict(middle(ratios) <= limit, f"{beside} of {whose} (at most {ratio(limit)})")
