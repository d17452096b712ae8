"""Reads DICOM files: decoding, the grey-scale pipeline, acceptance, the header, de-identification.

`reader` is the entry point. `file` and `data_set` parse; `acceptance` refuses what is not a mammogram, also by the
texts that `view_text` understands; `pixel_data` decodes with the checks of `codestreams`; `grayscale` applies the
look-up table that `grayscale_attributes` reads; `header` reads side, view and spacing; `orientation` turns the image.
"""
