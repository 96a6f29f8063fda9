"""Reads and writes weight files.

Model folders:
    model_folder        a trained model as config.json, tokenizer.json and model.safetensors
    model_sizes         the largest arrays that the config of a model folder describes

Import and export:
    fetch               downloads a checkpoint and returns its local path
    importing           converts public checkpoints to a model folder, one tensor at a time
    file_names          what file names say about config fields
    report              the report of an import
    exporting           converts a model folder to PyTorch
    peft_adapter        reads and writes LoRA adapters in the PEFT format

Readers of untrusted files:
    tensor_file         entry point: opens any weight file as named arrays
    checkpoint_folder   finds and joins the files of a checkpoint folder
    safetensors_file    reads safetensors
    torch_file          reads files of torch.save
    detectron2_file     reads detectron2's .pkl
    state_dict          finds the state dict within a checkpoint
    mapped_file         arrays in a memory-mapped file
    pickled_arrays      NumPy arrays in pickles
    zip_entries         byte ranges of the entries of a zip archive

Writers:
    safetensors_writer  writes safetensors incrementally
    torch_writer        writes a PyTorch state dict without PyTorch
"""
