"""Language models: causal ones, and OFA's encoder and decoder.

phi, gpt2, llama  the language models
ofa       OFA's encoder of image cells and text, and a decoder of image cells
grid_positions  relative positions of the cells of an image, and of a text
causal    what they have in common: the run over the layers, with and without a cache
blocks    attention and feed-forward blocks of a layer
head      the language head
settings  reads the config.json of transformers' language models
hub       their folders: parts and source checkpoints of a system
cache     the key-value cache
splice    builds the mixed stream of text, image and query tokens, and pools its hidden states
generate  Writer: the interface of text generation, in one compiled loop
name_list  restricts generated text to the names of a list
decoding  Decoding: its options
sampling  the choice of a token
beams     beam search
"""
