"""Container images: the Docker command line, and building, tagging and pushing our images."""
