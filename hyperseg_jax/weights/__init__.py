"""Weight files <-> parameters.

Own folders:
    model_folder        a trained model as config.json, tokenizer.json and model.safetensors

In and out:
    fetch               a checkpoint's name to a path on this machine
    importing           public checkpoints to a model folder, a tensor at a time
    report              what an import did
    exporting           a model folder to PyTorch
    peft_adapter        LoRA adapters as a PEFT folder

Readers of files that are not trusted:
    tensor_file         the front door: any weight file as named arrays
    checkpoint_folder   which files of a folder are its checkpoint
    safetensors_file    safetensors
    torch_file          what torch.save writes
    detectron2_file     detectron2's .pkl
    state_dict          which mapping of a checkpoint holds the tensors
    mapped_file         arrays that lie in a mapped file
    pickled_arrays      NumPy arrays inside pickles
    zip_entries         where the entries of a zip archive lie

Writers:
    safetensors_writer  safetensors, a piece at a time
    torch_writer        a PyTorch state dict, without PyTorch
"""
