"""Commands that plan or make several runs: searches, experiments, power."""
