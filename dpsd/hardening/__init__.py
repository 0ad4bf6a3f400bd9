"""What changes or marks a student before it is served, and who owns a suspected copy.

Everything here is post-processing of a released student: it reads no private row.
"""
