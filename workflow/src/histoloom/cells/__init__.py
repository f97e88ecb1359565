"""Single cells: matching of nuclei, clusters, niches and enrichment of labels in them."""
