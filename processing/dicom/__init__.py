"""Reads DICOM files: decoding, the grey-scale pipeline, acceptance, the header, de-identification.

`reader` is the entry. `file` and `data_set` parse, `acceptance` refuses what is not a mammogram, `pixel_data` decodes
with the checks of `codestreams`, `grayscale` applies the look-up tables, `header` reads side, view and spacing.
"""
