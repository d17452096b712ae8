"""Studies: what the explanation pages rest on, measured on mini-MIAS and phantoms, and the commands that write them."""
