"""Finds the breast and the pectoral muscle in an image, and makes the network's input.

`segmentation` is the entry point. It calls `air` (the background), `outline` (the breast), `chest_side`, `view`,
`implant`, `pectoral` (the pectoral muscle, along the curves of `pectoral_curves`, without the structures of `focal`)
and `quality`. `preprocess` turns a mammogram into the network's input, in training and in serving.
"""
