"""What a user holds.

model           Model: segments images and videos by text, classes or marks, and answers questions; load()
"""
