"""What the descendants of PSALM (arXiv 2403.14598) share; not a system.

trunk        the modules that they share, and their weight table
markers      placeholders in prompts for images, queries, classes and regions
templates    prompt templates with markers, and their token ids
checkpoints  the public checkpoints that they start from, and the config.json of an export
parts        parts that transformers has a class for, and adapters for PEFT
"""
