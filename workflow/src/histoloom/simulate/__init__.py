"""The simulated cohort: sections with known truth in her2st's raw layout, and a reference from other donors.

Its effects, and how to switch them off, are described in ``workflow/schemas/cohort.simulated.schema.yaml``.
"""

from histoloom.simulate.barcode import BarcodeReading, decode_barcode
from histoloom.simulate.reference import write_reference
from histoloom.simulate.section import simulate_section, write_section

__all__ = ["BarcodeReading", "decode_barcode", "simulate_section", "write_reference", "write_section"]
