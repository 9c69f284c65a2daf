"""The only place with sockets, clocks, files and processes."""
