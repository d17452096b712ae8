"""Worker processes: the pool, the fork server, and the channel between workers and server.

`pool` gives tasks to free workers, `fork_server_client` starts the `fork_server`, from which each `worker` is forked.
"""
