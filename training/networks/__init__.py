"""Networks: the registry, layers, pretrained weights, the model directory, class activation, export."""
