"""Runs: start, follow, results, comparison, tracking, roll-out.

`launch` has `start`, `preflight` checks before anything starts, `folder` is `runs/<id>/`, `results` collects what a
run leaves, `frames` reads it as pandas tables, `aws` and `aws_watch` follow executions on AWS, `aws_rollout` serves
packages.
"""
