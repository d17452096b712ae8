"""The demo page of a server on the loopback interface."""
