"""Metrics: how near predictions and labels come to what they are compared with.

Every number is a row of one long table (`histoloom.metrics.rows`) with its aggregation, n, number of undefined units
and protocol.
"""

from histoloom.metrics.score import score_predictions

__all__ = ["score_predictions"]
