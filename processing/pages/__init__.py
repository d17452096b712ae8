"""The parts that all report pages share: the template environment, the style sheet, and plots in its colours.

Needs jinja2 and matplotlib, which only jobs that write a page have.
"""
