"""Documents of an evaluation for readers: report, plots, model cards, reporting guidelines."""
