"""Variation of training images: on the device that trains, and mixtures of two images."""
