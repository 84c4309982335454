"""Table that compares float and int8 teams."""

from __future__ import annotations

from kd_offline.reports.formatting import interval, number, percent, whole
from kd_offline.reports.tables import Table, table
from kd_offline.schemas.quantisation import QuantisationReport, QuantisedTeams

DASH = "\N{EN DASH}"


def quantisation_table(report: QuantisationReport) -> Table:
    """Return retention and cost of each precision; logit errors are the largest of all seeds."""
    heads = "weights|mean return|95 % interval|retention|retention, 95 %|actions as the expert's"
    heads += "|actions as without rounding|largest logit error|bytes of the team"
    return table("Precision of the weights", heads, [_row(row) for row in report.rows])


def quantisation_summary(report: QuantisationReport) -> str:
    """Return the sentences beside the table: how it was measured."""
    text = (
        f"All teams played the same {report.episodes:,} evaluation episodes, greedily; the "
        f"expert's mean return is {number(report.expert.mean)}, random play's "
        f"{number(report.random.mean)}. Rounding keeps one scale for each row of a matrix. "
        "Actions as the expert's are counted on the steps that the students visit, actions as "
        "without rounding on recorded episodes, against the same weights as floats."
    )
    return text if len(report.rows) > 2 else f"{text} No run that was trained for int8 was given."


def _row(row: QuantisedTeams) -> tuple[str, ...]:
    agreements = [rounding.agreement for rounding in row.rounding if rounding.agreement is not None]
    least_agreement = min(agreements, default=None)
    largest_error = max(rounding.logit_error for rounding in row.rounding)
    retention = (DASH, DASH)
    if row.retention is not None:
        ends = f"{percent(row.retention.low)} to {percent(row.retention.high)}"
        retention = (percent(row.retention.mean), ends)
    rounding_cells = (
        (DASH, DASH) if row.name == "fp32" else (percent(least_agreement), f"{largest_error:.2g}")
    )
    return (
        row.name,
        number(row.student.mean),
        interval(row.student),
        *retention,
        percent(row.agreement),
        *rounding_cells,
        whole(row.parameter_bytes),
    )
