"""Membership: was a record in the data?"""
