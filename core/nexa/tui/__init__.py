"""The terminal UI: six screens over run directories and schedulers; needs the extra `tui`.

It owns no logic: what it shows is read by `nexa.tui.data` and the run store, what it does are the
functions that the commands call, handed to it as `Services`.
"""
