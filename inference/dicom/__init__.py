"""Answers as DICOM objects: structured reports, presentation states and secondary captures."""
