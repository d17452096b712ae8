"""What people read of an evaluation: the report, the plots, the model cards, the reporting guidelines."""
