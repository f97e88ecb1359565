"""Samples in the formats that other tools open: GeoJSON for QuPath, SpatialData zarr."""
