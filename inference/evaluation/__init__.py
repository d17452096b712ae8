"""A model judged on a labelled dataset that it has never seen."""
