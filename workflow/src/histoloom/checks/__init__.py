"""Checks of labels, predictions and tiles by what is known otherwise: ground truth, regions, nuclei, chance."""
