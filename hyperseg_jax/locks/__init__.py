"""Locks: one process at a time.

alone   between the processes of this machine, by an flock
lock    between all machines that reach a folder or a bucket, by a file with signs of life
holder  who holds a lock, and whether that process lives
files   the numbered files of a lock, in a folder or a store
"""
