"""Reads DICOM files: decoding, the grey-scale pipeline, acceptance, the header, de-identification."""
