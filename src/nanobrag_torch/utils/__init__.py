"""Small names for scripts: units, vectors, the C program's random numbers, counting noise, steps chosen for the user.

Each is a line or two over what the package computes with; nothing is computed here.
"""
