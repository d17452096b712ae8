"""The client that applications import. It needs only boto3."""
