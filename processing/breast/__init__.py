"""Finds the breast and the pectoral muscle in an image, and makes the network's input.

`segmentation` is the entry: it calls `outline` (the breast), `chest_side`, `view`, `pectoral` (the pectoral muscle,
along the curves of `pectoral_curves`) and `quality`. `preprocess` turns a mammogram into the network's input, in
training and in serving.
"""
