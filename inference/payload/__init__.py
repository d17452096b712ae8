"""The body of a request: images and exams as JSON, multipart, zip or S3 objects, within limits."""
