"""What the commands do in an AWS account beside runs: remove endpoints, batch transforms, and the end of a run."""
