"""Work in an AWS account outside the pipeline's own steps.

`batch` runs a batch transform with a registered package, `finish` completes a run (model card, test image), `removal`
and `leftovers` delete endpoints with everything that belongs to them, `scaling` handles their autoscaling.
"""
