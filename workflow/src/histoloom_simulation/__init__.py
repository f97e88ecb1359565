"""Simulated cohorts with known truth: sections in her2st's raw layout, Xenium runs, and references from other donors.

Their effects, and how to switch them off, are described in ``workflow/schemas/cohort.simulated.schema.yaml`` and
``cohort.simulated_xenium.schema.yaml``.
"""

from histoloom_simulation.reference import write_reference
from histoloom_simulation.section import simulate_section, write_section
from histoloom_simulation.xenium import section_spec, write_xenium

__all__ = ["section_spec", "simulate_section", "write_reference", "write_section", "write_xenium"]
