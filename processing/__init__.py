"""Images and labels: functions and the three processing jobs that use them. This package does not use models.

`datasets` reads label tables, `dicom` and `images` read image files, `breast` finds the breast and makes the
network's input, `splits` divides images and looks for leaks, `jobs` holds the jobs Prepare, Augment and Segment,
`container` the paths of a job, `phantoms` draws synthetic mammograms, and `pages` has what all report pages share.
"""

if __name__ != "mammopipe.processing":
    raise ImportError("this folder must be imported as mammopipe.processing")
