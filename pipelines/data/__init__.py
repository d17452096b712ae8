"""Data on S3: staging and storage."""
