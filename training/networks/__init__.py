"""Networks: registry, layers, pretrained weights, model directory, Grad-CAM, export.

A new network is one module in this folder, like `modified_cnn`, with a function `build`, and one line in `OWN` of
`mammopipe.training.model.architecture`; `registry` then builds it by its name.
"""
