"""`offramp send`: a file of calls, deferred line by line, and a file of their answers.

Line n of the output answers line n of the input, always. Nothing is kept in memory
by the line: what was sent is in a journal, what was answered in the output, and
both are gone on with after whatever ended an earlier start.
"""
