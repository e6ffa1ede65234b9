"""What the services and the web layer need from the world, one small port per file.

Adapters implement these protocols structurally; none of them inherits. The
docstrings here are the contract, and every port has one suite of tests that each
of its adapters passes.
"""
