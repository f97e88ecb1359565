"""All figures by name, for the adapters; each is drawn in a module of its own kind."""

from histoloom.report.bars import draw_bars
from histoloom.report.baselines import draw_baselines
from histoloom.report.check_figures import draw_check
from histoloom.report.coloc import draw_coloc
from histoloom.report.maps import draw_maps, draw_ranks
from histoloom.report.slides import draw_apply

__all__ = ["draw_apply", "draw_bars", "draw_baselines", "draw_check", "draw_coloc", "draw_maps", "draw_ranks"]
