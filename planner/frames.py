"""Results as data frames of pandas: the rows of ``--csv``, with the unit of every amount in the name of its column."""

import csv
import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from planner.bound_report import BoundReport
    from planner.capacity import Capacity
    from planner.minimum import Minimum
    from planner.pipeline import Answer
    from planner.sensitivity import Sensitivity
    from planner.whatif import Sweep


def of_csv(text: str) -> "pd.DataFrame":
    """The table of a CSV text: numbers to the last bit, an empty field is missing, words stay words.

    Examples
    --------
    >>> of_csv("name,value_s\\nNA,0.1\\ntp=2,\\n").to_dict("records")
    [{'name': 'NA', 'value_s': 0.1}, {'name': 'tp=2', 'value_s': nan}]
    """
    import pandas as pd

    header, *rows = list(csv.reader(io.StringIO(text))) or [[]]
    return pd.DataFrame({name: _column([row[i] for row in rows]) for i, name in enumerate(header)})


def _column(fields: list[str]) -> list[Any]:
    """Whole numbers, else numbers, else truths, else words; None where a field is empty."""
    given = set(fields) - {""}
    if given and given <= {"True", "False"}:
        return [{"True": True, "False": False}.get(field) for field in fields]
    kinds: tuple[Callable[[str], Any], ...] = (int, float)
    for kind in kinds:
        try:
            return [kind(field) if field else None for field in fields]
        except ValueError:
            continue
    return [field or None for field in fields]


def answer_frame(answer: "Answer") -> "pd.DataFrame":
    """One row per simulated plan, in rank order: the axes of the plan, every metric, and ``bound_...``, the best value
    of the objective that any scheduler could get out of it."""
    from planner.report import to_csv

    return of_csv(to_csv(answer)).rename(columns={"bound": f"bound_{answer.objective.metric}"})


def sweep_frame(sweep: "Sweep") -> "pd.DataFrame":
    """One row per scenario; ``value`` and ``bound`` are of its objective, whose unit is in ``unit``."""
    from planner.whatif_text import to_csv

    return of_csv(to_csv(sweep))


def minimum_frame(found: "Minimum") -> "pd.DataFrame":
    """Plans that take the least, one row each, as ``answer_frame``."""
    return answer_frame(found.answer)


def capacity_frame(found: "Capacity") -> "pd.DataFrame":
    """One row per plan: the rate that it was seen to sustain and the one that it is proven not to."""
    from planner.capacity_text import to_csv

    return of_csv(to_csv(found))


def sensitivity_frame(found: "Sensitivity") -> "pd.DataFrame":
    """One row per constraint moved a step; ``change`` and ``gain`` are relative."""
    from planner.sensitivity_text import to_csv

    return of_csv(to_csv(found)).rename(columns={"value": found.answer.objective.metric})


def bound_frame(report: "BoundReport") -> "pd.DataFrame":
    """One row per scheduler; ``of_bound`` is its value over the bound, missing where it rejects requests."""
    import pandas as pd

    rows: list[dict[str, Any]] = [
        {
            "scheduler": row.name,
            report.objective.metric: row.value,
            f"bound_{report.objective.metric}": report.bound.value,
            "of_bound": row.ratio,
            "preemptions": row.preemptions,
            "recomputed_tokens": row.recomputed_tokens,
            "kv_peak_share": row.kv_peak,
            "iterations": row.iterations,
            "rejected": row.rejected,
            "same_as": row.same_as,
        }
        for row in report.schedulers
    ]
    return pd.DataFrame(rows)
