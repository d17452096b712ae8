"""Reads request bodies within limits: images and exams as JSON, multipart, ZIP or S3 objects.

`exam_body` is the entry. `limits` has the limits, `zip` refuses ZIP bombs before anything is unpacked, `contents`
skips files that are not images, and `identity` refuses images of several patients or studies.
"""
