"""Documents about an evaluation: report, plots, model cards, reporting guidelines."""
