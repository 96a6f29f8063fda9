"""What the descendants of PSALM (arXiv 2403.14598) share; not a system.

trunk        the modules that they share, and their weight table
markers      placeholders in prompts for images, queries, classes and regions
templates    prompt templates with markers, and their token ids
rounds       the token ids and labels of questions and answers
tokenizer    loads the tokenizer of a config
sizes        what their processors have in common
lengths      cuts batches to shorter sequences
text_loss    the loss of supervised text
writer       generates the answer to a question
checkpoints  the public checkpoints that they start from, and the config.json of an export
parts        parts that transformers has a class for, and adapters for PEFT
"""
