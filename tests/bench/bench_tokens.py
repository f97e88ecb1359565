"""What sharing windows between cells saves and costs: `python tests/bench/bench_tokens.py --slide FILE --mpp 0.69`.

On real tissue: nuclei are found in the densest square of a slide, each cell's tokens come from a window of its own (exact)
and from windows on a stride (shared), with a ViT of 16 x 16 tokens. Prints forward passes as a share of one per cell, and the
cosine of shared to exact, per stride; `--figure FILE.png` draws the curve. The weights are random unless `--weights` names
a checkpoint of `--card`: a model that learnt to look around will differ more from window to window.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "workflow/src"), str(ROOT / "tests")]

import histoloom.torch_compat  # noqa: F401
from encoder_specs import full_spec
from histoloom.embeddings.cards import build_encoder, load_cards
from histoloom.embeddings.tokens import share_windows, token_block
from histoloom.nuclei.find import find_nuclei, reduced
from histoloom.report.style import figure, save
from histoloom.slides import open_slide
from histoloom.tiles.reading import read_tiles
from token_trade_off import cells_from_tokens, trade_off

WINDOW_UM, GRID = 112.0, 16


def small_card() -> dict[str, Any]:
    """A ViT-Ti of UNI2-h's grid: patches of 14 px, a class token and eight registers."""
    kwargs = {"img_size": 224, "patch_size": 14, "num_classes": 0, "no_embed_class": True, "reg_tokens": 8}
    return {**load_cards()["random_vit_tiny"], "arch_kwargs": kwargs, "pooling": "cls", "dim": 192}


def densest(slide: Any, mpp: float, side_um: float) -> tuple[np.ndarray, float]:
    """Return nuclei (n, 2) of the densest square that has whole windows around it, level-0 px, and its nuclei per mm2."""
    side, edge = side_um / mpp, WINDOW_UM / mpp
    best: np.ndarray = np.zeros((0, 2))
    for left in np.arange(edge, slide.width - side - edge, side):
        for top in np.arange(edge, slide.height - side - edge, side):
            picture, scale = reduced(slide.read(int(left), int(top), int(side), int(side)), mpp)
            # Glass is not worth a look.
            if (picture.mean(axis=2) < 215).mean() < 0.8:
                continue
            found = find_nuclei(picture, mpp * scale)[:, :2] * scale + (left, top)
            best = found if len(found) > len(best) else best
    return best, len(best) / (side_um / 1000) ** 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slide", type=Path, required=True)
    parser.add_argument("--mpp", type=float, required=True)
    parser.add_argument("--side-um", type=float, default=400.0)
    parser.add_argument("--cells", type=int, default=400, help="at most so many of them are embedded exactly")
    parser.add_argument("--strides", default="7,14,28,42,56,84,112")
    parser.add_argument("--k", default="1,4,16")
    parser.add_argument("--card", default="")
    parser.add_argument("--weights", default="random")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    card = load_cards()[options.card] if options.card else small_card()
    spec = {"card": card, "tiles_spec": {}, "name": "x", "weights": options.weights, "tokens": {"mode": "shared"}}
    encoder: Any = build_encoder(full_spec(spec), threads=2, device=options.device)
    side = WINDOW_UM / options.mpp
    with open_slide(options.slide) as slide:
        cells, density = densest(slide, options.mpp, options.side_um)
        chosen = np.sort(np.random.default_rng(0).permutation(len(cells))[: options.cells])

        def tokens(centres: np.ndarray) -> np.ndarray:
            tiles = np.stack(list(read_tiles(slide, centres, side, 224)))
            return np.asarray(encoder.encode(tiles, 0.5)).reshape(len(centres), GRID * GRID, -1)

        started = time.perf_counter()
        own = tokens(cells[chosen])
        each = (time.perf_counter() - started) / len(chosen)
        print(
            f"{options.slide.name}: {len(cells)} nuclei in {options.side_um:.0f} x {options.side_um:.0f} um, "
            f"{density:.0f} per mm2; {card['arch']} ({options.weights} weights), {len(chosen)} cells exact, "
            f"{1000 * each:.0f} ms each"
        )
        strides, sizes = ([float(v) for v in text.split(",")] for text in (options.strides, options.k))
        windows = {s: share_windows(cells, s / options.mpp) for s in strides}
        # Only windows of cells that are also embedded exactly have something to be compared with.
        seen = {s: np.unique(w.of_cell[chosen], return_inverse=True) for s, w in windows.items()}
        shared_tokens = {s: tokens(w.centres[seen[s][0]]) for s, w in windows.items()}
    middle = np.zeros((len(chosen), 2))
    curves = {}
    print(f"{'tokens':>6} {'stride, um':>10} {'windows':>8} {'forwards':>9} {'cosine, median':>15} {'5 %':>7}")
    for k in map(int, sizes):
        exact = cells_from_tokens(own, token_block(middle, side, GRID, k))
        near = {}
        for stride, window in windows.items():
            block = token_block(window.offset[chosen], side, GRID, k)
            near[stride] = cells_from_tokens(shared_tokens[stride][seen[stride][1]], block)
        curves[k] = trade_off(cells[chosen] * options.mpp, exact, near)
        for row in curves[k]:
            # Windows are laid for all the cells of the square, not for those embedded exactly alone.
            row["forwards_share"] = len(windows[row["stride"]].centres) / len(cells)
            print(
                f"{k:>6} {row['stride']:>10.0f} {len(windows[row['stride']].centres):>8} {row['forwards_share']:>9.3f} "
                f"{row['cosine_median']:>15.4f} {row['cosine_p05']:>7.4f}"
            )
    if options.figure:
        draw(options.figure, curves, f"{options.slide.name}, {density:.0f} nuclei per mm2, {options.weights} weights")


def draw(out: Path, curves: dict[int, list[dict[str, float]]], title: str) -> None:
    """Draw the cosine against the share of forward passes."""
    with figure(6.4, 4.2) as fig:
        ax = fig.subplots()
        for k, rows in curves.items():
            x = [row["forwards_share"] for row in rows]
            (line,) = ax.plot(x, [row["cosine_median"] for row in rows], "o-", ms=4, label=f"{k} tokens")
            ax.plot(x, [row["cosine_p05"] for row in rows], ":", color=line.get_color(), lw=1)
        for row in next(iter(curves.values())):
            ax.annotate(
                f"{row['stride']:.0f} um", (row["forwards_share"], row["cosine_median"]), xytext=(0, 7),
                textcoords="offset points", ha="center", fontsize=7,
            )  # fmt: skip
        ax.axhline(0.98, color="#999999", lw=0.7)
        ax.axvline(0.1, color="#999999", lw=0.7)
        ax.set_xscale("log")
        shares = sorted({row["forwards_share"] for rows in curves.values() for row in rows} | {0.1})
        ax.set_xticks(shares, [f"{share:.2g}" for share in shares])
        ax.minorticks_off()
        ax.set_xlabel("forward passes, share of one per cell")
        ax.set_ylabel("cosine of shared to exact (dotted: lowest 5 %)")
        ax.set_title(title, loc="left")
        ax.legend()
        save(fig, out)


if __name__ == "__main__":
    main()
