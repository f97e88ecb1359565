"""What a run will do, and what it did: jobs by rule, time, memory asked and used, GPUs, tries, failures."""

from histoloom.summary.records import Job, Run, Try
from histoloom.summary.render import plan_text, summary_text

__all__ = ["Job", "Run", "Try", "plan_text", "summary_text"]
