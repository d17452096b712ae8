"""Reads image files (DICOM, PGM, PNG and TIFF) as a `Mammogram`."""
