"""The doctor: before a run, whether it can succeed on this machine, and what to do if not. It fetches nothing."""

from __future__ import annotations

from histoloom.doctor.findings import FAIL, OK, WARN, Finding, as_table
from histoloom.doctor.visit import examine

__all__ = ["FAIL", "OK", "WARN", "Finding", "as_table", "examine"]
