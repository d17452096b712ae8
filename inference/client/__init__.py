"""The client that applications import. It needs boto3 alone."""
