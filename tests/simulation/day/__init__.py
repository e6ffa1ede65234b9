"""One day of mixed traffic on a virtual clock: does every job make its deadline, how cheaply?

The house is the real one, with stores in memory. The weather (how long batches take, when
the discount tier is full, outages, limits) is a function of a seed, so that a day can be
played again, and so that an oracle which knows all of it can say what was possible.
"""
