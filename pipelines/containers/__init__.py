"""Docker: `docker_cli` runs containers of local runs; `images` builds, tags and pushes this project's images."""
