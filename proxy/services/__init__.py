"""What the proxy does, one verb a module. Services know ports, never adapters.

Rooms have what belongs together; beside them stand the ground of every pass and what
serves all of them. Rooms import each other in one direction:

    traffic, batches → deferral → callers → direct → ledger
"""
