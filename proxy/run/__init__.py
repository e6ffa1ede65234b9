"""`offramp run`: a proxy around one command.

The command's SDKs are told by variables to call a proxy that lives as long as the
command. Each call is held until its answer is there, so the command notices the
time and the bill, and nothing else.
"""
