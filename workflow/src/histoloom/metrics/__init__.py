"""Metrics: how near predictions and labels come to what they are compared with.

Every number is a row of one long table (`histoloom.metrics.rows`) that carries its aggregation, its n, how many
units were undefined, and the protocol it was measured under. Tables and figures only pivot these rows.
"""

from histoloom.metrics.score import score_predictions

__all__ = ["score_predictions"]
