"""The page that a server on the loopback interface shows."""
