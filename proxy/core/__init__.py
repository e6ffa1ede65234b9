"""The pure core: records, tables and planners. No clock, no I/O, no chance, no logging."""
