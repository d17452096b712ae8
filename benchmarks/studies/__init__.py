"""Studies on mini-MIAS and phantoms: the measurements of the explanation pages, and commands that write the pages."""
