"""Complete systems.

system        the interface of a system, and the registry
class_lists   selects the answers to class lists
pixels        normalization of pixels
moments       metrics of values that vary within a batch: mean and spread
tokenizer_path  where the tokenizer of a config is
psalm/        what the descendants of PSALM share: HyperSeg and InstructSeg
hyperseg/     HyperSeg: its model, prompts, preprocessing, losses and postprocessing
instructseg/  InstructSeg: its model, prompts, preprocessing, losses and postprocessing
seem/         SEEM: its model, prompts, preprocessing, losses and postprocessing
sam/          SAM: its model, prompts, preprocessing and postprocessing; the base of SCA
sca/          SCA: its model, preprocessing, losses and captions
ifseg/        IFSeg: its model, images of words, preprocessing, loss and answers
"""
