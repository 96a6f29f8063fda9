"""InstructSeg (arXiv 2412.14006).

model  the model: its modules, parameters and published names
"""
