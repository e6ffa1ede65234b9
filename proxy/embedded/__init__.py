"""A proxy inside of a command, for as long as the command runs.

What `offramp run` and `offramp send` share: a folder of their own in the state
directory, so that both can go on where they were; the settings of the proxy; what
is shown while calls wait, and the bill. All of it is written to standard error.
"""
