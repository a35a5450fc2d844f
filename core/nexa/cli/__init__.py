"""The command line: thin commands over the same functions the Python API offers."""
