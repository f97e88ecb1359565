"""The simulated cohort: sections with known truth in her2st's raw layout, and a reference from other donors.

Its effects, and how to switch them off, are described in ``workflow/schemas/cohort.simulated.schema.yaml``.
"""

from histoloom_simulation.reference import write_reference
from histoloom_simulation.section import simulate_section, write_section

__all__ = ["simulate_section", "write_reference", "write_section"]
