"""Answers as DICOM objects: structured report and secondary capture."""
