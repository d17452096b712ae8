"""Image files of every kind become a `Mammogram`: DICOM, PGM and PNG."""
