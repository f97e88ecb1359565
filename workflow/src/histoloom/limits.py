"""How large an input may be before it is taken for damage or an attack; a small file can unpack to any size."""

MAX_SIDE = 2**20
"""Longest side of a slide, px: 26 cm at 0.25 um/px."""
MAX_SLIDE_PIXELS = 2**37
"""Pixels of level 0 of a slide that is read in parts."""
MAX_PIXELS = 2**30
"""Pixels of a picture that is decoded at once (3 GB as RGB); a larger one must be a tiled TIFF."""
MAX_PICTURE_RATIO = 2000
"""Decoded bytes per byte of a picture above `FREE_PICTURE_BYTES`; the emptiest scanned glass stays below 1,000."""
MAX_TABLE_BYTES = 2**32
"""Bytes of an unpacked text table."""
MAX_TABLE_RATIO = 500
"""Unpacked bytes per byte of a packed table above `FREE_TABLE_BYTES`; counts that are nearly all 0 reach 200."""
FREE_PICTURE_BYTES, FREE_TABLE_BYTES = 2**30, 2**28
"""What is decoded or unpacked without looking at its ratio."""
PLAUSIBLE_MPP = (0.02, 20.0)
"""um/px that a slide may have. The 72 or 300 dpi that editors write (353, 85 um/px) lie outside."""
PLAUSIBLE_UM = (0.1, 1e4)
"""um that spots or bins may measure, and lie apart."""
