"""The matrix of protocols and networks: its cells, tables and figures."""
