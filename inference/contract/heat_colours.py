"""The one colour scale of heat: of the PNG overlay, the secondary capture and the page. Standard library only.

Dark to light in one sweep, so that more evidence is brighter for every kind of colour vision.
"""

STEPS = ((0, 0, 0), (91, 26, 69), (184, 64, 47), (232, 149, 59), (250, 215, 60))
"""Red, green and blue at equal distances from no evidence to most."""
OPACITY = 0.5
"""Of the colour where the heat is greatest; the image stays readable below it."""


def table() -> list[tuple[int, int, int]]:
    """Return red, green and blue for each of the 256 levels of an 8-bit heat, straight lines between the steps."""
    colours = []
    for level in range(256):
        position = level * (len(STEPS) - 1) / 255
        step = min(len(STEPS) - 2, int(position))
        low, high, share = STEPS[step], STEPS[step + 1], position - step
        red, green, blue = (int(a + (b - a) * share + 0.5) for a, b in zip(low, high, strict=True))
        colours.append((red, green, blue))
    return colours
