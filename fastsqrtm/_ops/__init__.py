"""The machine that turns the lines of ops.def into ops: table, checks, registration and the route through autograd.

It knows no mathematics: that is in `_reference`, which uses it to define the ops.
"""
