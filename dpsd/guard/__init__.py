"""The guard: who asks a served model, how much, and what is done about it.

It knows accounts, keys, networks and times, and nothing of images beyond a feature vector.
"""
