"""Locks between processes.

process_lock  between processes of this machine, based on flock
lock          between machines that share a folder or a bucket, based on a file with heartbeats
holder        the owner of a lock, and whether its process is alive
files         the numbered files of a lock, in a folder or a bucket
"""
