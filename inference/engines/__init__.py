"""What computes the forward pass: OpenVINO or torch."""
