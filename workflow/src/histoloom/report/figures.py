"""All figures by name, for the adapters; each is drawn in a module of its own kind."""

from histoloom.report.bars import draw_bars
from histoloom.report.coloc import draw_coloc
from histoloom.report.judge_figures import draw_judge
from histoloom.report.ladder import draw_ladder
from histoloom.report.maps import draw_maps, draw_ranks
from histoloom.report.slides import draw_apply

__all__ = ["draw_apply", "draw_bars", "draw_coloc", "draw_judge", "draw_ladder", "draw_maps", "draw_ranks"]
