"""Command-line interface: one module for each subcommand of `hyperseg`.

Entry point
    main.py     parses the arguments, runs the subcommand, prints errors caused by the user's input as one line
    numbers.py  integers and decimal numbers in arguments
    script.py   process setup: closed or full output streams, Ctrl-C and SIGTERM

Models
    quickstart.py           segments and fine-tunes, with an HTML report
    adapt.py                trains a model to segment some class names, also without images
    train.py                trains from a config into a workdir
    sweep.py                hyperparameter sweeps
    evaluate.py             validation scores of a model
    evaluate_benchmarks.py  benchmark scores next to published results
    predict.py              segments an image or a video
    first_frame_masks.py    the masks of objects that predict follows through a video

Data, weights, planning
    data.py            checks and builds datasets, writes toy data and samples
    import_weights.py  converts PyTorch checkpoints to a model folder
    export_weights.py  converts a model folder to PyTorch files
    plan.py            memory and communication on a TPU slice
"""
