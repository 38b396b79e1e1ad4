"""The machine that makes ops of the lines of ops.def: table, checks, registration and the route through autograd.

It knows no mathematics: that is in `_reference`, which defines the ops by means of it.
"""
