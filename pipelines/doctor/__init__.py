"""Finds problems that would make a run fail, on this machine or in an AWS account."""
