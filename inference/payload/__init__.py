"""Reads request bodies within limits: images and exams as JSON, multipart, ZIP or S3 objects."""
