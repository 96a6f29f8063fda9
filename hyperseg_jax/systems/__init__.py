"""Complete systems.

system        the interface of a system, and the registry
pixels        normalization of pixels
psalm/        what the descendants of PSALM share: HyperSeg and InstructSeg
hyperseg/     HyperSeg: its model, prompts, preprocessing, losses and postprocessing
instructseg/  InstructSeg: its model, prompts, preprocessing, losses and postprocessing
seem/         SEEM: its model, prompts, preprocessing, losses and postprocessing
"""
