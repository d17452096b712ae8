"""The colour scale of heatmaps in the PNG overlay, the secondary capture and the page. Standard library only.

Lightness increases steadily, so that more evidence looks brighter with every kind of colour vision.
"""

STEPS = ((0, 0, 0), (91, 26, 69), (184, 64, 47), (232, 149, 59), (250, 215, 60))
"""Red, green and blue at equal steps from no evidence to most evidence."""
OPACITY = 0.5
"""Opacity of the colour at the greatest heat; the image stays readable below it."""


def table() -> list[tuple[int, int, int]]:
    """Return red, green and blue for each of 256 heat levels, interpolated linearly between the steps."""
    colours = []
    for level in range(256):
        position = level * (len(STEPS) - 1) / 255
        step = min(len(STEPS) - 2, int(position))
        low, high, share = STEPS[step], STEPS[step + 1], position - step
        red, green, blue = (int(a + (b - a) * share + 0.5) for a, b in zip(low, high, strict=True))
        colours.append((red, green, blue))
    return colours
