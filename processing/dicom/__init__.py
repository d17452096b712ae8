"""DICOM files: reading, decoding, the grey-scale pipeline, acceptance, the header, de-identification."""
