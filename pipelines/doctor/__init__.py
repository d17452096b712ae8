"""What would keep a run from succeeding: on this machine, or in an AWS account."""
