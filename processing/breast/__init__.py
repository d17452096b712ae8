"""The breast in an image: its outline, the pectoral muscle, and the input of a network."""
