"""Complete systems.

system     the interface of a system, and the registry
hyperseg/  HyperSeg: its model, prompts, preprocessing, losses and postprocessing
instructseg/  InstructSeg: its model; not a registered system yet
"""
