"""SEEM (arXiv 2304.06718): the model and its scores. It is not registered yet: it has no processor, losses and recipe.

model   the model: its modules, parameters and published names
scores  how well queries match classes, phrases and visual prompts
shapes  the random visual prompts of its training
"""
