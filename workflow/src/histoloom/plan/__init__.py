"""What a run will do, known before any job starts."""

from histoloom.plan.experiments import Plan

__all__ = ["Plan"]
