"""The viewer: one HTML file per section, with the slide, predictions and labels next to each other."""
