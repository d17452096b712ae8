"""Finds the breast and the pectoral muscle in an image, and makes the network's input."""
