"""Everything that speaks HTTP to callers and operators.

Rooms import each other in one direction:

    dashboard → operators → answering
    entrance → jobs_api → answering → forwarding, synthesis
"""
