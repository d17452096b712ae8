"""The engines that compute the forward pass: OpenVINO and torch."""
