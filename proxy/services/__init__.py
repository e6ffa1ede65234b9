"""What the proxy does, one verb a module. Services know ports, never adapters.

Rooms have what belongs together, and import each other in one direction:

    traffic, batches → deferral → callers → direct → ledger

Beside them stand:

    what passes stand on     ground, leases, access (to providers), durability, clock_steps, unread
    how a lane is chosen     outlook, experience, flex, trickle, pauses
    passes of their own      rescue, deliver, prune
    what rules are in force  policies
    who waits for a job      waiters
    what operators ask       insight, search, troubles
"""
