"""What a job meets inside its container: paths, entry, memory, S3 locations, the account of a stage."""
