"""Networks: registry, layers, pretrained weights, model directory, Grad-CAM, export."""
