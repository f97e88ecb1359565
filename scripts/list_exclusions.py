"""Adapter of rule list_exclusions: sections left out by their sheets, with the reason."""

import json

from histoloom.jobs import job


def main(snakemake):
    with job(snakemake.log[0], snakemake.output.items()) as out:
        import pandas as pd

        rows = pd.DataFrame(json.loads(snakemake.params.rows), columns=["cohort", "sample", "patient", "reason"])
        rows.to_csv(out["csv"], index=False)


if "snakemake" in globals():
    main(snakemake)
