"""The experiment over protocols and networks: its cells, tables and figures."""
