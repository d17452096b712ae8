"""Worker processes: the pool, the fork server, the channel between them and the server."""
