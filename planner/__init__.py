"""The planner: question, space, bounds, verification, ranking, report."""

__version__ = "0.1.0"
